//! Compares with the same sums written out in double precision.

use super::*;

fn change<'a>(now: &'a [f32], then: &'a [f32]) -> WeightChange<'a> {
    WeightChange { now, then }
}

#[test]
fn every_number_is_the_one_of_its_definition() {
    let then = [1.0f32, -2.0, 0.5, 0.0, 3.0, 1.0];
    let now = [1.0f32, -2.5, 0.5 + 1e-6, 1e-4, 3.0, 1.0 + 1.0 / 64.0];
    let other = [1.5f32, -2.5, 0.5, 0.0, 3.0, 1.0];
    let sums = Sums::of(change(&now, &then), Some(change(&other, &then)), 1e-5);
    let changes: Vec<f64> = (0..6).map(|at| f64::from(now[at]) - f64::from(then[at])).collect();
    let others: Vec<f64> = (0..6).map(|at| f64::from(other[at]) - f64::from(then[at])).collect();
    let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let before: Vec<f64> = then.iter().map(|number| f64::from(*number)).collect();
    let delta = sums.delta("x".to_owned(), true);
    let near = |got: Option<f64>, expected: f64| {
        assert!((got.unwrap() - expected).abs() < 1e-14, "{got:?} {expected}");
    };
    near(Some(delta.norm), dot(&changes, &changes).sqrt());
    near(delta.relative, (dot(&changes, &changes) / dot(&before, &before)).sqrt());
    // 0.5 + 1e-6 rounds to 0.5 in bfloat16, which has 8 bits; 1 + 1/64 is exact.
    assert_eq!((delta.changed, delta.changed_in_bfloat16, delta.changed_beyond), (4, 3, 3));
    let overlap = delta.overlap.unwrap();
    near(overlap.cosine, dot(&changes, &others) / (dot(&changes, &changes) * dot(&others, &others)).sqrt());
    // Changed beyond 1e-5: the second, fourth and last number; in the other model the first two.
    near(overlap.jaccard, 1.0 / 4.0);
    // The sums of two parts add up to those of the whole.
    let mut parts = Sums::of(change(&now[..2], &then[..2]), Some(change(&other[..2], &then[..2])), 1e-5);
    parts.add(&Sums::of(change(&now[2..], &then[2..]), Some(change(&other[2..], &then[2..])), 1e-5));
    let whole = parts.delta("x".to_owned(), true);
    near(Some(whole.norm), delta.norm);
    assert_eq!((whole.changed, whole.changed_in_bfloat16, whole.changed_beyond), (4, 3, 3));
    let nothing = Sums::of(change(&then, &then), Some(change(&now, &then)), 0.0).delta("x".to_owned(), true);
    assert_eq!((nothing.norm, nothing.changed, nothing.overlap.unwrap().cosine), (0.0, 0, None));
}

/// Changes with known singular values: a diagonal, and a product of a column and a row, wide and tall.
#[test]
fn ranks_are_those_of_known_singular_values() {
    let zeros = |count: usize| vec![0.0f32; count];
    for (rows, columns) in [(4, 7), (7, 4), (4, 4)] {
        let mut diagonal = zeros(rows * columns);
        let values = [8.0f32, 4.0, 2.0, 2.0];
        for (at, value) in values.iter().enumerate() {
            // The order of rows and signs do not change singular values.
            diagonal[(rows - 1 - at) * columns + at] = if at % 2 == 0 { *value } else { -*value };
        }
        let found = rank(&diagonal, &zeros(rows * columns), &[rows, columns]);
        let entropy: f64 = values.map(|value| f64::from(value) / 16.0).iter().map(|p| -p * p.ln()).sum();
        assert!((found.effective - entropy.exp()).abs() < 1e-9, "{found:?}");
        // 64 + 16 + 4 + 4 = 88, of which 99 % are 87.12.
        assert_eq!((found.of_99_percent, found.full), (4, 4));
        let product: Vec<f32> = (0..rows * columns)
            .map(|at| ((at / columns) as f32 + 1.0) * ((at % columns) as f32 - 1.5))
            .collect();
        let found = rank(&product, &zeros(rows * columns), &[rows, columns]);
        assert!((found.effective - 1.0).abs() < 1e-6, "{found:?}");
        assert_eq!(found.of_99_percent, 1);
    }
    let equal = of_singular(&[3.0; 10], &[10, 20]);
    assert!((equal.effective - 10.0).abs() < 1e-12);
    assert_eq!((equal.of_99_percent, of_singular(&[3.0; 200], &[200, 300]).of_99_percent), (10, 198));
}
