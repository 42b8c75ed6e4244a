//! Weights computed from weights. Sums are taken in f64.

use mopd_compiler::plan::MergeMethod;
use mopd_compiler::plan::events::FailureKind;

use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::random::{Key, Purpose};

/// Merges `models` (at least one). `base` is the ancestor that differences are taken from; the plain average needs none.
/// `seed` and `stream` select DARE's random numbers.
pub fn merge(method: &MergeMethod, base: Option<&Weights>, models: &[&Weights], seed: u64, stream: u64) -> Result<Weights> {
    let first = base.or(models.first().copied()).ok_or_else(|| failure("a merge of no models"))?;
    if models.iter().any(|model| model.architecture != first.architecture) {
        return Err(failure("models of different architectures cannot be merged"));
    }
    let base = || base.ok_or_else(|| failure(&format!("{} needs a base model", method.name())));
    let values = match *method {
        MergeMethod::Average => average(models),
        MergeMethod::TaskArithmetic { scale } => combine(base()?, models, |_, changes| scale * changes.iter().sum::<f64>()),
        MergeMethod::Ties { scale, density } => ties(base()?, models, scale, density),
        MergeMethod::Dare { scale, drop } => dare(base()?, models, scale, drop, seed, stream),
    };
    Ok(Weights { architecture: first.architecture.clone(), values })
}

fn failure(message: &str) -> Error {
    Error::new(FailureKind::Runtime, message)
}

fn average(models: &[&Weights]) -> Vec<f32> {
    let mean = |index: usize| {
        let sum: f64 = models.iter().map(|model| f64::from(model.values[index])).sum();
        (sum / models.len() as f64) as f32
    };
    (0..models[0].values.len()).map(mean).collect()
}

/// base + `change(index, differences of the models)` at every weight.
fn combine(base: &Weights, models: &[&Weights], mut change: impl FnMut(usize, &mut [f64]) -> f64) -> Vec<f32> {
    let mut changes = vec![0.0; models.len()];
    let merged = base.values.iter().enumerate().map(|(index, &origin)| {
        let origin = f64::from(origin);
        for (change, model) in changes.iter_mut().zip(models) {
            *change = f64::from(model.values[index]) - origin;
        }
        (origin + change(index, &mut changes)) as f32
    });
    merged.collect()
}

/// TIES (arXiv:2306.01708, algorithm 1): of each model only the `density` largest changes count, over all its weights
/// together; the sign with the larger sum wins; the changes of that sign are averaged.
fn ties(base: &Weights, models: &[&Weights], scale: f64, density: f64) -> Vec<f32> {
    let thresholds: Vec<f64> = models.iter().map(|model| threshold(base, model, density)).collect();
    combine(base, models, |_, changes| {
        for (change, threshold) in changes.iter_mut().zip(&thresholds) {
            if change.abs() < *threshold {
                *change = 0.0;
            }
        }
        let elected = changes.iter().sum::<f64>();
        let agreeing = changes.iter().filter(|&&change| change * elected > 0.0);
        let (sum, count) = agreeing.fold((0.0, 0u32), |(sum, count), change| (sum + change, count + 1));
        scale * sum / f64::from(count.max(1))
    })
}

/// The smallest change that is among the `density` largest; ties at the bound are kept.
fn threshold(base: &Weights, model: &Weights, density: f64) -> f64 {
    let mut sizes: Vec<f64> =
        base.values.iter().zip(&model.values).map(|(&origin, &value)| (f64::from(value) - f64::from(origin)).abs()).collect();
    let keep = ((density * sizes.len() as f64).round() as usize).min(sizes.len());
    if keep == 0 {
        return f64::INFINITY;
    }
    let place = sizes.len() - keep;
    let (_, bound, _) = sizes.select_nth_unstable_by(place, f64::total_cmp);
    *bound
}

/// DARE (arXiv:2311.03099, eq. 2): each change is dropped with probability `drop`, the others grow by 1 / (1 - drop), so
/// that the expected change is the same.
fn dare(base: &Weights, models: &[&Weights], scale: f64, drop: f64, seed: u64, stream: u64) -> Vec<f32> {
    let mut rows: Vec<_> = (0..models.len()).map(|model| Key::new(seed, stream, Purpose::Drop, 0).row(model as u32, 0)).collect();
    combine(base, models, |_, changes| {
        let mut sum = 0.0;
        for (change, row) in changes.iter().zip(&mut rows) {
            if row.uniform() >= drop {
                sum += change / (1.0 - drop);
            }
        }
        scale * sum
    })
}

#[cfg(test)]
mod tests {
    use mopd_compiler::plan::Architecture;

    use super::*;
    use crate::model::tests::{lively, tiny};

    fn weights(values: &[f32]) -> Weights {
        Weights { architecture: tiny(), values: values.to_vec() }
    }

    #[track_caller]
    fn close(merged: Weights, expected: &[f32]) {
        assert_eq!(merged.values.len(), expected.len());
        for (a, b) in merged.values.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{:?} {expected:?}", merged.values);
        }
    }

    #[test]
    fn average_and_task_arithmetic_by_hand() {
        let (base, a, b) = (weights(&[1.0, 2.0]), weights(&[2.0, 2.0]), weights(&[4.0, 0.0]));
        close(merge(&MergeMethod::Average, None, &[&a, &b], 0, 0).unwrap(), &[3.0, 1.0]);
        let method = MergeMethod::TaskArithmetic { scale: 0.5 };
        close(merge(&method, Some(&base), &[&a, &b], 0, 0).unwrap(), &[1.0 + 0.5 * (1.0 + 3.0), 2.0 + 0.5 * (0.0 - 2.0)]);
    }

    #[test]
    fn ties_by_hand() {
        let base = weights(&[0.0; 5]);
        // At density 0.6 each keeps its three largest changes.
        let a = weights(&[3.0, -2.0, 1.0, 0.1, 0.2]);
        let b = weights(&[1.0, 4.0, 3.0, -0.1, 0.2]);
        let c = weights(&[-5.0, 0.5, 2.0, 0.1, 0.6]);
        // Kept:   a 3 -2 1 . .   b 1 4 3 . .   c -5 . 2 . 0.6
        // Signs:  -1: minus (c)  2: plus (b)  6: plus (all)  .  plus (c)
        let expected = [-5.0, 4.0, 2.0, 0.0, 0.6].map(|change: f32| change * 0.5);
        let method = MergeMethod::Ties { scale: 0.5, density: 0.6 };
        close(merge(&method, Some(&base), &[&a, &b, &c], 0, 0).unwrap(), &expected);
        // With everything kept and one model, it is that model.
        let method = MergeMethod::Ties { scale: 1.0, density: 1.0 };
        close(merge(&method, Some(&base), &[&a], 0, 0).unwrap(), &a.values);
        let method = MergeMethod::Ties { scale: 1.0, density: 0.0 };
        close(merge(&method, Some(&base), &[&a, &b], 0, 0).unwrap(), &base.values);
    }

    #[test]
    fn dare_drops_and_rescales() {
        let n = 10_000;
        let (base, a, b) = (weights(&vec![1.0; n]), weights(&vec![2.0; n]), weights(&vec![1.0; n]));
        let method = MergeMethod::Dare { scale: 0.5, drop: 0.75 };
        let merged = merge(&method, Some(&base), &[&a, &b], 1, 2).unwrap();
        assert_eq!(merged, merge(&method, Some(&base), &[&a, &b], 1, 2).unwrap());
        assert_ne!(merged, merge(&method, Some(&base), &[&a, &b], 2, 2).unwrap());
        // A kept change of 1 becomes 4, and the scale makes it 2.
        assert!(merged.values.iter().all(|&value| value == 1.0 || value == 3.0));
        let kept = merged.values.iter().filter(|&&value| value == 3.0).count() as f64 / n as f64;
        assert!((kept - 0.25).abs() < 0.02, "{kept}");
        let method = MergeMethod::Dare { scale: 1.0, drop: 0.0 };
        close(merge(&method, Some(&base), &[&a, &b], 1, 2).unwrap(), &a.values);
    }

    #[test]
    fn models_that_do_not_fit_are_refused() {
        let a = lively(&tiny(), 1);
        let b = lively(&Architecture { layers: 1, ..tiny() }, 1);
        let error = merge(&MergeMethod::Average, None, &[&a, &b], 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "models of different architectures cannot be merged");
        let error = merge(&MergeMethod::Ties { scale: 1.0, density: 0.2 }, None, &[&a], 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "ties needs a base model");
    }
}
