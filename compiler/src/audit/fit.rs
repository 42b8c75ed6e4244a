//! Least squares: expresses a vector as a multiple, or a linear combination, of known vectors.

/// The largest residual, as a share of the whole, that counts as rounding error.
const EXACT: f64 = 1e-8;

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let size = norm(a) * norm(b);
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}

/// The distance from `a` to `b`, as a share of the norm of `b`.
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    norm(&difference(a, b)) / norm(b)
}

pub(super) fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The coefficients with which `whole` is the sum of `parts`. `None` if it is no such sum, or if a part is
/// not needed.
pub(super) fn coefficients(whole: &[f64], parts: &[&[f64]]) -> Option<Vec<f64>> {
    let rows: Vec<Vec<f64>> = parts
        .iter()
        .map(|row| parts.iter().map(|column| dot(row, column)).chain([dot(row, whole)]).collect())
        .collect();
    let found = solve(rows)?;
    let mut rest = whole.to_vec();
    for (coefficient, part) in found.iter().zip(parts) {
        rest.iter_mut().zip(*part).for_each(|(rest, part)| *rest -= coefficient * part);
        // A part with a tiny share is rounding noise.
        if coefficient.abs() * norm(part) < 1e-6 * norm(whole) {
            return None;
        }
    }
    (norm(&rest) <= EXACT * norm(whole)).then_some(found)
}

/// Gaussian elimination; the right side is the last column. `None` if the equations are linearly
/// dependent.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let count = rows.len();
    let scale: Vec<f64> = (0..count).map(|index| rows[index][index].abs()).collect();
    for column in 0..count {
        let pivot =
            (column..count).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        if rows[column][column].abs() <= 1e-10 * scale[column] || scale[column] == 0.0 {
            return None;
        }
        for below in column + 1..count {
            let factor = rows[below][column] / rows[column][column];
            let pivot = rows[column].clone();
            rows[below]
                .iter_mut()
                .zip(&pivot)
                .skip(column)
                .for_each(|(place, pivot)| *place -= factor * pivot);
        }
    }
    let mut found = vec![0.0; count];
    for row in (0..count).rev() {
        let known: f64 = (row + 1..count).map(|column| rows[row][column] * found[column]).sum();
        found[row] = (rows[row][count] - known) / rows[row][row];
    }
    Some(found)
}

/// The smallest and the largest factor, if each block of `whole` is a multiple of that block of
/// `part`.
pub(super) fn per_block(whole: &[f64], part: &[f64], block: usize) -> Option<(f64, f64)> {
    let all = norm(whole);
    let mut range: Option<(f64, f64)> = None;
    let mut counted = 0;
    for (whole, part) in whole.chunks(block).zip(part.chunks(block)) {
        let size = dot(part, part);
        let (own, factor) = (norm(whole), if size > 0.0 { dot(whole, part) / size } else { 0.0 });
        let rest =
            norm(&whole.iter().zip(part).map(|(whole, part)| whole - factor * part).collect::<Vec<f64>>());
        if rest > EXACT * own.max(1e-3 * all) {
            return None;
        }
        counted += usize::from(own > 1e-6 * all);
        // A block of zeros has every factor.
        if size > 0.0 {
            let (least, most) = range.unwrap_or((factor, factor));
            range = Some((least.min(factor), most.max(factor)));
        }
    }
    // One block, or blocks of two numbers with sum 0, are always multiples.
    range.filter(|_| counted > 1 && block > 2)
}

/// The distance of `whole` from the nearest vector whose blocks are multiples of those of `part`, as a share
/// of its norm.
pub(super) fn per_prefix(whole: &[f64], part: &[f64], block: usize) -> f64 {
    let rest = whole.chunks(block).zip(part.chunks(block)).map(|(whole, part)| {
        let size = dot(part, part);
        let factor = if size > 0.0 { dot(whole, part) / size } else { 0.0 };
        whole.iter().zip(part).map(|(whole, part)| (whole - factor * part).powi(2)).sum::<f64>()
    });
    rest.sum::<f64>().sqrt() / norm(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_taken_apart() {
        let (a, b) = ([1.0, 0.0, 2.0, -1.0], [0.5, 1.0, 0.0, 3.0]);
        let whole: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 2.0 * a - 0.25 * b).collect();
        let found = coefficients(&whole, &[&a, &b]).expect("it is a sum of the two");
        assert!((found[0] - 2.0).abs() < 1e-12 && (found[1] + 0.25).abs() < 1e-12);
        assert_eq!(coefficients(&whole, &[&a]), None);
        assert_eq!(coefficients(&a, &[&a, &b]), None, "the second is not needed");
        assert_eq!(coefficients(&whole, &[&a, &a]), None, "they depend on each other");
    }

    #[test]
    fn a_factor_may_differ_from_block_to_block() {
        let part = [1.0, -1.0, 0.5, 2.0, 0.0, -1.0];
        assert_eq!(per_block(&[3.0, -3.0, 1.5, 1.0, 0.0, -0.5], &part, 3), Some((0.5, 3.0)));
        assert_eq!(per_block(&[3.0, -3.0, 1.5, 1.0, 0.1, -0.5], &part, 3), None);
    }
}
