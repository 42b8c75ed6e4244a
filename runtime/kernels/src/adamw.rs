//! AdamW (arXiv:1711.05101, algorithm 2) in one pass over memory: every number is read and written once.

use half::bf16;

use crate::Cpu;
use crate::lanes::LANES;
use crate::thread_pool::DisjointSlices;
use crate::{Scalar, with_cpu_features};

/// The parameters to update.
pub enum AdamWParameters<'a> {
    F32(&'a mut [f32]),
    /// Each f32 number in two halves: `high` is the number rounded to the nearest bf16, which the model
    /// computes with; `low` has the remaining bits. Together they take the memory of one f32, instead of that
    /// of an f32 and a bf16.
    Split {
        high: &'a mut [bf16],
        low: &'a mut [i16],
    },
}

/// d loss / d parameters.
#[derive(Clone, Copy)]
pub enum AdamWGradient<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> AdamWParameters<'a> {
    /// Splits before index `middle`.
    pub fn split_at(self, middle: usize) -> [AdamWParameters<'a>; 2] {
        match self {
            AdamWParameters::F32(values) => {
                let (first, others) = values.split_at_mut(middle);
                [AdamWParameters::F32(first), AdamWParameters::F32(others)]
            }
            AdamWParameters::Split { high, low } => {
                let ((high, other_high), (low, other_low)) =
                    (high.split_at_mut(middle), low.split_at_mut(middle));
                [
                    AdamWParameters::Split { high, low },
                    AdamWParameters::Split { high: other_high, low: other_low },
                ]
            }
        }
    }
}

impl AdamWGradient<'_> {
    pub fn split_at(&self, middle: usize) -> [Self; 2] {
        match self {
            AdamWGradient::F32(values) => {
                [AdamWGradient::F32(&values[..middle]), AdamWGradient::F32(&values[middle..])]
            }
            AdamWGradient::Bf16(values) => {
                [AdamWGradient::Bf16(&values[..middle]), AdamWGradient::Bf16(&values[middle..])]
            }
        }
    }
}

/// The constants of one step. Products are taken in single precision. `cuda/adamw.cu` has the same fields.
///
/// Constants near 1 are stored as their distance from 1, computed in double precision: single precision would
/// round most of that distance away, and the bias corrections would no longer match the moments.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AdamWUpdate {
    /// The factor of the gradient, for clipping.
    pub scale: f32,
    /// 1 - beta1: the weight of a gradient in the first moment.
    pub mean_weight: f32,
    /// 1 - beta2: the weight of its square in the second.
    pub square_weight: f32,
    pub epsilon: f32,
    /// Learning rate * weight decay: the share of a parameter that is subtracted.
    pub decay: f32,
    /// Learning rate / (1 - beta1^t).
    pub rate: f32,
    /// 1 / (1 - beta2^t).
    pub correction: f32,
}

/// Numbers per piece of a thread's work.
const PIECE: usize = 1 << 14;

/// One step. All slices have the same length.
pub fn step(
    cpu: Cpu,
    parameters: AdamWParameters,
    mean: &mut [f32],
    square: &mut [f32],
    gradient: AdamWGradient,
    update: AdamWUpdate,
) {
    match gradient {
        AdamWGradient::F32(gradient) => step_by(cpu, parameters, mean, square, gradient, update),
        AdamWGradient::Bf16(gradient) => step_by(cpu, parameters, mean, square, gradient, update),
    }
}

fn step_by<G: Scalar + Sync>(
    cpu: Cpu,
    parameters: AdamWParameters,
    mean: &mut [f32],
    square: &mut [f32],
    gradient: &[G],
    update: AdamWUpdate,
) {
    let length = mean.len();
    assert!(square.len() == length && gradient.len() == length);
    let (mean, square) = (DisjointSlices::new(mean), DisjointSlices::new(square));
    match parameters {
        AdamWParameters::F32(parameters) => {
            assert!(parameters.len() == length);
            let parameters = DisjointSlices::new(parameters);
            cpu.parallel(|worker| {
                for range in pieces(worker.range(length, PIECE)) {
                    // SAFETY: workers have disjoint ranges.
                    let (parameters, mean, square) = unsafe {
                        (
                            parameters.slice_mut(range.clone()),
                            mean.slice_mut(range.clone()),
                            square.slice_mut(range.clone()),
                        )
                    };
                    let (gradient, moments) = (&gradient[range], mean.iter_mut().zip(square));
                    with_cpu_features(|| {
                        for ((parameter, gradient), (mean, square)) in
                            parameters.iter_mut().zip(gradient).zip(moments)
                        {
                            *parameter = moved(*parameter, gradient.as_f32(), mean, square, update);
                        }
                    });
                }
            });
        }
        AdamWParameters::Split { high, low } => {
            assert!(high.len() == length && low.len() == length);
            let (high, low) = (DisjointSlices::new(high), DisjointSlices::new(low));
            cpu.parallel(|worker| {
                for range in pieces(worker.range(length, PIECE)) {
                    // SAFETY: workers have disjoint ranges.
                    let (high, low, mean, square) = unsafe {
                        (
                            high.slice_mut(range.clone()),
                            low.slice_mut(range.clone()),
                            mean.slice_mut(range.clone()),
                            square.slice_mut(range.clone()),
                        )
                    };
                    let (gradient, moments) = (&gradient[range], mean.iter_mut().zip(square));
                    with_cpu_features(|| {
                        let halves = high.iter_mut().zip(low).zip(gradient);
                        for (((high, low), gradient), (mean, square)) in halves.zip(moments) {
                            let parameter = joined(*high, *low);
                            (*high, *low) = split(moved(parameter, gradient.as_f32(), mean, square, update));
                        }
                    });
                }
            });
        }
    }
}

/// The sum of squares, in f64; not finite if an element is not.
pub fn sum_of_squares(cpu: Cpu, gradient: AdamWGradient) -> f64 {
    match gradient {
        AdamWGradient::F32(gradient) => sum_of(cpu, gradient),
        AdamWGradient::Bf16(gradient) => sum_of(cpu, gradient),
    }
}

fn sum_of<G: Scalar + Sync>(cpu: Cpu, gradient: &[G]) -> f64 {
    let mut sums = vec![0.0f64; gradient.len().div_ceil(PIECE)];
    let parts = DisjointSlices::new(&mut sums);
    cpu.parallel(|worker| {
        for range in pieces(worker.range(gradient.len(), PIECE)) {
            let piece = range.start / PIECE;
            let mut lanes = [0.0f64; LANES];
            with_cpu_features(|| {
                let values = gradient[range].chunks_exact(LANES);
                for (lane, value) in lanes.iter_mut().zip(values.remainder()) {
                    *lane += f64::from(value.as_f32()) * f64::from(value.as_f32());
                }
                for values in values {
                    for (lane, value) in lanes.iter_mut().zip(values) {
                        *lane += f64::from(value.as_f32()) * f64::from(value.as_f32());
                    }
                }
            });
            // SAFETY: every piece has its own sum.
            unsafe { parts.slice_mut(piece..piece + 1)[0] = lanes.iter().sum() };
        }
    });
    // Piece by piece, so that the sum does not depend on the number of threads.
    sums.iter().sum()
}

fn pieces(range: std::ops::Range<usize>) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = range.end;
    range.step_by(PIECE).map(move |start| start..(start + PIECE).min(end))
}

/// A number in two halves; see [`AdamWParameters::Split`].
pub fn split(value: f32) -> (bf16, i16) {
    let bits = value.to_bits();
    let high = (bits.wrapping_add(0x8000) >> 16) as u16;
    // The number's bits minus those of the high half, as integers: the wrapped difference of their low 16
    // bits.
    (bf16::from_bits(high), bits as u16 as i16)
}

/// The low half of a number whose high half was rounded to nearest, ties to even. A tie that was rounded down
/// can't be represented: it gets the low half of the next smaller number.
pub fn low_half(value: f32, high: bf16) -> i16 {
    let low = value.to_bits() as u16 as i16;
    if low == i16::MIN && u32::from(high.to_bits()) == value.to_bits() >> 16 { i16::MAX } else { low }
}

/// The inverse of [`split`].
pub fn joined(high: bf16, low: i16) -> f32 {
    // Rounding up carried 1 into the high half exactly where the low half is negative.
    let carried = u32::from(high.to_bits()).wrapping_sub(u32::from(low < 0));
    f32::from_bits((carried << 16) | u32::from(low as u16))
}

/// [`joined`] of each pair, in their order.
///
/// # Panics
/// If the lengths differ.
pub fn joined_values(high: &[bf16], low: &[i16]) -> Vec<f32> {
    assert!(high.len() == low.len(), "each high half has a low half");
    let mut values = vec![0.0; high.len()];
    with_cpu_features(|| {
        for ((value, high), low) in values.iter_mut().zip(high).zip(low) {
            *value = joined(*high, *low);
        }
    });
    values
}

#[inline(always)]
fn moved(parameter: f32, gradient: f32, mean: &mut f32, square: &mut f32, update: AdamWUpdate) -> f32 {
    let gradient = gradient * update.scale;
    *mean = (*mean - *mean * update.mean_weight) + gradient * update.mean_weight;
    *square = (*square - *square * update.square_weight) + gradient * gradient * update.square_weight;
    let denominator = (*square * update.correction).sqrt() + update.epsilon;
    parameter - (parameter * update.decay + update.rate * *mean / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_f32_joins_to_the_same_and_the_high_half_is_the_nearest_bf16() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            if !value.is_finite() || value.abs() > 3e38 {
                continue;
            }
            let (high, low) = split(value);
            assert_eq!(joined(high, low).to_bits(), value.to_bits());
            let nearest = bf16::from_f32(value);
            // A tie may go to either side.
            let error = |half: bf16| (f64::from(half.to_f32()) - f64::from(value)).abs();
            assert!(error(high) <= error(nearest), "{value}: {high} {nearest}");
        }
        for value in [0.0f32, -0.0, 1.0, -1.0, 1e-45, -1e-40] {
            let (high, low) = split(value);
            assert_eq!(joined(high, low).to_bits(), value.to_bits());
        }
    }

    /// The changes by weight decay and by the gradient are added before the parameter is rounded: each alone
    /// may be less than half a unit in its last place.
    #[test]
    fn a_parameter_is_rounded_once() {
        let (mut parameter, mut mean, mut square) = ([1.0f32], [0.0], [0.0]);
        let small = f32::EPSILON * 0.24;
        let update = AdamWUpdate {
            scale: 1.0,
            mean_weight: 1.0,
            square_weight: 1.0,
            epsilon: f32::MIN_POSITIVE,
            decay: small,
            rate: small,
            correction: 1.0,
        };
        let parameters = AdamWParameters::F32(&mut parameter);
        step(Cpu::new(1), parameters, &mut mean, &mut square, AdamWGradient::F32(&[0.5]), update);
        assert_eq!(parameter, [1.0f32.next_down()]);
    }

    /// Against algorithm 2 in f64, for all types of parameters and gradient and any number of threads.
    #[test]
    fn steps_equal_the_definition() {
        let length = PIECE + 777;
        let number = |at: usize, seed: usize| ((at * 31 + seed * 17) % 257) as f32 / 128.0 - 1.0;
        let update = AdamWUpdate {
            scale: 0.5,
            mean_weight: 0.1,
            square_weight: 0.05,
            epsilon: 1e-8,
            decay: 0.001,
            rate: 0.01,
            correction: 2.0,
        };
        for cpu in [1, 3].map(Cpu::new) {
            for is_bf16 in [false, true] {
                let start: Vec<f32> = (0..length).map(|at| number(at, 1)).collect();
                let gradient: Vec<f32> =
                    (0..length).map(|at| bf16::from_f32(number(at, 2)).to_f32()).collect();
                let halves: Vec<bf16> = gradient.iter().map(|&value| bf16::from_f32(value)).collect();
                let (mut mean, mut square) = (vec![0.25; length], vec![0.125; length]);
                let mut whole = start.clone();
                let (mut high, mut low): (Vec<bf16>, Vec<i16>) =
                    start.iter().map(|&value| split(value)).unzip();
                if is_bf16 {
                    let parameters = AdamWParameters::Split { high: &mut high, low: &mut low };
                    step(cpu, parameters, &mut mean, &mut square, AdamWGradient::Bf16(&halves), update);
                    whole = high.iter().zip(&low).map(|(&high, &low)| joined(high, low)).collect();
                } else {
                    step(
                        cpu,
                        AdamWParameters::F32(&mut whole),
                        &mut mean,
                        &mut square,
                        AdamWGradient::F32(&gradient),
                        update,
                    );
                }
                for at in 0..length {
                    let scaled = f64::from(gradient[at]) * 0.5;
                    let (first, second) = (0.9 * 0.25 + 0.1 * scaled, 0.95 * 0.125 + 0.05 * scaled * scaled);
                    let expected =
                        f64::from(start[at]) * 0.999 - 0.01 * first / ((second * 2.0).sqrt() + 1e-8);
                    assert!((f64::from(whole[at]) - expected).abs() < 1e-6, "{at}: {} {expected}", whole[at]);
                    assert!(
                        (f64::from(mean[at]) - first).abs() < 1e-6
                            && (f64::from(square[at]) - second).abs() < 1e-6
                    );
                }
                let expected: f64 = gradient.iter().map(|&value| f64::from(value).powi(2)).sum();
                for gradient in [AdamWGradient::F32(&gradient), AdamWGradient::Bf16(&halves)] {
                    assert!((sum_of_squares(cpu, gradient) / expected - 1.0).abs() < 1e-12);
                }
            }
        }
        assert!(!sum_of_squares(Cpu::new(2), AdamWGradient::F32(&[1.0, f32::NAN])).is_finite());
        assert!(!sum_of_squares(Cpu::new(2), AdamWGradient::F32(&[1.0, f32::NEG_INFINITY])).is_finite());
    }
}
