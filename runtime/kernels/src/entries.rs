//! Sums over the entries of next-token distributions, and gradients with respect to entries, from
//! log-probabilities, each of which is read once.

use std::ops::Range;

use crate::Cpu;
use crate::functions::exp;
use crate::lanes::{folded, summed};
use crate::thread_pool::DisjointSlices;
use crate::{SimdKernel, with_cpu_features};

/// The summand over the entries of a row; `l`, `r` are log-probabilities of the left and right side.
#[derive(Clone, Copy)]
pub enum Sum {
    /// `p (l - r) - p + q`: the generalized KL divergence of the left side from the right, which is exactly
    /// 0 where they are equal.
    Kl,
    /// `-p l`
    Entropy,
}

/// d generalized KL divergence / d log-probability.
#[derive(Clone, Copy)]
pub enum KlGradient {
    /// With respect to the left side: `p (l - r)`.
    KlByLeft,
    /// With respect to the right side: `q - p`.
    KlByRight,
}

/// Entries per piece of work: few enough to stay in the L1 cache, and to be summed accurately in single
/// precision.
const PIECE: usize = 1 << 11;

/// The largest logit of one row; `None` if one of them is not finite.
pub fn largest(logits: &[f32]) -> Option<f32> {
    let mut found = None;
    with_cpu_features(|| {
        let largest = folded(logits, f32::NEG_INFINITY, f32::max);
        // 0 times a number that is not finite is NaN, and so is any sum with it.
        let zero = folded(logits, 0.0, |sum, logit| sum + 0.0 * logit);
        found = (zero == 0.0).then_some(largest);
    });
    found
}

/// Sums each row of `width` entries into `to`, one number per row.
pub fn sums(cpu: Cpu, sum: Sum, width: usize, l: &[f32], r: &[f32], to: &mut [f32]) {
    assert!(l.len() == r.len() && l.len() == to.len() * width);
    let pieces = width.div_ceil(PIECE);
    let mut parts = vec![0.0f32; to.len() * pieces];
    let (rows, places) = (to.len(), DisjointSlices::new(&mut parts));
    cpu.parallel(|worker| {
        for index in worker.range(rows * pieces, 1) {
            let range = piece(index, pieces, width);
            // SAFETY: every piece has its own sum.
            let to = unsafe { &mut places.slice_mut(index..index + 1)[0] };
            with_cpu_features(RowSum { sum, l: &l[range.clone()], r: &r[range], to });
        }
    });
    for (to, parts) in to.iter_mut().zip(parts.chunks(pieces)) {
        *to = parts.iter().map(|part| f64::from(*part)).sum::<f64>() as f32;
    }
}

/// Gradients of every entry, times its row's factor; 0 where the factor is, even for infinite gradients.
pub fn gradients(
    cpu: Cpu,
    gradient: KlGradient,
    width: usize,
    l: &[f32],
    r: &[f32],
    factors: &[f32],
    to: &mut [f32],
) {
    assert!(l.len() == r.len() && l.len() == to.len() && l.len() == factors.len() * width);
    let pieces = width.div_ceil(PIECE);
    let to = DisjointSlices::new(to);
    cpu.parallel(|worker| {
        for index in worker.range(factors.len() * pieces, 1) {
            let range = piece(index, pieces, width);
            // SAFETY: pieces are disjoint.
            let to = unsafe { to.slice_mut(range.clone()) };
            with_cpu_features(RowGradient {
                gradient,
                l: &l[range.clone()],
                r: &r[range],
                factor: factors[index / pieces],
                to,
            });
        }
    });
}

/// The range of a piece's entries among those of all rows.
fn piece(index: usize, pieces: usize, width: usize) -> Range<usize> {
    let (row, piece) = (index / pieces * width, index % pieces * PIECE);
    row + piece..row + (piece + PIECE).min(width)
}

struct RowSum<'a> {
    sum: Sum,
    l: &'a [f32],
    r: &'a [f32],
    to: &'a mut f32,
}

impl SimdKernel for RowSum<'_> {
    #[inline(always)]
    fn run(self) {
        let RowSum { sum, l, r, to } = self;
        *to = match sum {
            Sum::Kl => summed(l, r, |l, r| {
                let (p, q) = (exp(l), exp(r));
                p * (l - r) - p + q
            }),
            Sum::Entropy => summed(l, r, |l, _| -exp(l) * l),
        };
    }
}

struct RowGradient<'a> {
    gradient: KlGradient,
    l: &'a [f32],
    r: &'a [f32],
    factor: f32,
    to: &'a mut [f32],
}

impl SimdKernel for RowGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let RowGradient { gradient, l, r, factor, to } = self;
        if factor == 0.0 {
            return to.fill(0.0);
        }
        let entries = to.iter_mut().zip(l.iter().zip(r));
        match gradient {
            KlGradient::KlByLeft => entries.for_each(|(to, (l, r))| *to = exp(*l) * (l - r) * factor),
            KlGradient::KlByRight => entries.for_each(|(to, (l, r))| *to = (exp(*r) - exp(*l)) * factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_is_found_among_finite_ones() {
        for count in [1, 15, 16, 50] {
            let mut logits: Vec<f32> = (0..count).map(|at| -1.0 - ((at * 7) % count) as f32).collect();
            assert_eq!(largest(&logits), Some(-1.0), "{count}");
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, count / 2, count - 1] {
                    let before = std::mem::replace(&mut logits[at], wrong);
                    assert_eq!(largest(&logits), None, "{count} {at} {wrong}");
                    logits[at] = before;
                }
            }
        }
    }

    /// Against double precision, with any number of threads; exactly 0 for equal sides.
    #[test]
    fn sums_and_gradients_are_those_of_the_definition() {
        for (rows, width) in [(1, 7), (3, PIECE + 21), (2, 3 * PIECE)] {
            let logs = |seed: usize| -> Vec<f32> {
                let logits = |row: usize| {
                    (0..width).map(move |at| ((at * 7 + row * 3 + seed) as f64 * 0.61).sin() * 9.0)
                };
                let row = |row: usize| {
                    let total = logits(row).map(f64::exp).sum::<f64>().ln();
                    logits(row).map(move |logit| (logit - total) as f32)
                };
                (0..rows).flat_map(row).collect()
            };
            let (l, r) = (logs(1), logs(5));
            let factors: Vec<f32> = (0..rows).map(|row| row as f32 - 0.5).collect();
            let (of, near) = (
                |at: usize| (f64::from(l[at]), f64::from(r[at])),
                |got: f32, exact: f64, bound: f64| {
                    assert!((f64::from(got) - exact).abs() < bound, "{rows} {width}: {got} {exact}");
                },
            );
            for cpu in [1, 3].map(Cpu::new) {
                let (mut kl, mut entropy, mut none) = (vec![0.0; rows], vec![0.0; rows], vec![0.0; rows]);
                sums(cpu, Sum::Kl, width, &l, &r, &mut kl);
                sums(cpu, Sum::Entropy, width, &l, &l, &mut entropy);
                sums(cpu, Sum::Kl, width, &r, &r, &mut none);
                assert!(none.iter().all(|none| *none == 0.0));
                let (mut grad_left, mut grad_right) = (vec![9.0; l.len()], vec![9.0; l.len()]);
                gradients(cpu, KlGradient::KlByLeft, width, &l, &r, &factors, &mut grad_left);
                gradients(cpu, KlGradient::KlByRight, width, &l, &r, &factors, &mut grad_right);
                for row in 0..rows {
                    let entries = || (row * width..(row + 1) * width).map(of);
                    near(kl[row], entries().map(|(l, r)| l.exp() * (l - r) - l.exp() + r.exp()).sum(), 5e-6);
                    near(entropy[row], entries().map(|(l, _)| -l.exp() * l).sum(), 5e-6);
                }
                for at in 0..l.len() {
                    let ((l, r), factor) = (of(at), f64::from(factors[at / width]));
                    near(grad_left[at], l.exp() * (l - r) * factor, 1e-6);
                    near(grad_right[at], (r.exp() - l.exp()) * factor, 1e-6);
                }
            }
        }
    }
}
