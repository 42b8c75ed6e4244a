//! Storage types of numbers, and rounding to them.

use half::bf16;

use crate::with_cpu_features;

/// A storage type: f32 or bf16. Products and sums are taken in f32.
pub trait Scalar: Copy {
    fn as_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(number: f32) -> Self;
}

impl Scalar for f32 {
    #[inline(always)]
    fn as_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(number: f32) -> f32 {
        number
    }
}

impl Scalar for bf16 {
    #[inline(always)]
    fn as_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(number: f32) -> bf16 {
        let bits = number.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry the digits of a NaN into its exponent.
        bf16::from_bits(if number.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

/// Rounds each number to the nearest bf16, ties to even.
pub fn round_to_bf16(from: &[f32], to: &mut [bf16]) {
    with_cpu_features(|| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Scalar::from_f32(*from);
        }
    });
}

/// As [`round_to_bf16`], and also overwrites `numbers` with the rounded values.
pub fn round_to_bf16_in_place(numbers: &mut [f32], to: &mut [bf16]) {
    with_cpu_features(|| {
        for (to, number) in to.iter_mut().zip(numbers) {
            *to = Scalar::from_f32(*number);
            *number = to.as_f32();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest() {
        let mut bits = 7u32;
        let numbers: Vec<f32> = (0..100_000)
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(bits)
            })
            .chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0])
            .collect();
        let mut rounded = vec![bf16::ZERO; numbers.len()];
        round_to_bf16(&numbers, &mut rounded);
        let (mut in_place, mut again) = (numbers.clone(), rounded.clone());
        round_to_bf16_in_place(&mut in_place, &mut again);
        let bits = |numbers: &[bf16]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&rounded));
        let same = |(single, half): (&f32, &bf16)| single.to_bits() == half.to_f32().to_bits();
        assert!(in_place.iter().zip(&rounded).all(same));
        for (number, got) in numbers.iter().zip(rounded) {
            assert!(got == bf16::from_f32(*number) || (got.is_nan() && number.is_nan()), "{number} {got}");
        }
    }
}
