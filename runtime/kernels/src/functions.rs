//! Elementary functions in forms that the compiler can vectorise: without branches and without calls.

use serde::{Deserialize, Serialize};

/// The exponential. Relative error below 2e-7. It is 0 below -87, and never infinite: above 88 it stays at
/// exp(88).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it to a number below 2^22 rounds the number to an integer, held in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// log(2) in two parts; the first has so few bits that its product with an exponent is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let inside = x.clamp(-88.0, 88.0);
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = inside - exponent * LN_2[0] - exponent * LN_2[1];
    // exp(r) = 1 + r + r^2 P(r) for |r| <= log(2) / 2, a minimax fit.
    let sum = 0.001_381_893_9 * rest + 0.008_368_704;
    let sum = sum * rest + 0.041_668_29;
    let sum = sum * rest + 0.166_665_21;
    let sum = sum * rest + 0.499_999_94;
    let near_one = sum * (rest * rest) + rest + 1.0;
    // 2^n: the integer, shifted to the bits of the exponent.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { near_one * power }
}

/// The two constants of GELU by tanh (arXiv:1606.08415, section 2); the first is sqrt(2 / pi).
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

/// The argument of GELU's hyperbolic tangent.
#[inline(always)]
fn gelu_inner(x: f32, scale: f32) -> f32 {
    scale * (x + GELU_CUBE * x * x * x)
}

/// GELU with the C library's accurate tanh: for decoding, where its speed does not matter.
pub(crate) fn gelu(x: f32) -> f32 {
    // Differs from `GELU_SCALE` in the last digit; using that would change the bits of decoded results.
    let scale = std::f32::consts::FRAC_2_PI.sqrt();
    0.5 * x * (1.0 + gelu_inner(x, scale).tanh())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// GELU by tanh (arXiv:1606.08415).
    Gelu,
}

impl Activation {
    /// Its value and its derivative.
    #[inline(always)]
    pub(crate) fn at(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Silu => {
                let share = 1.0 / (1.0 + exp(-x));
                (x * share, share * (1.0 + x * (1.0 - share)))
            }
            Activation::Gelu => {
                let tanh = 1.0 - 2.0 / (1.0 + exp(2.0 * gelu_inner(x, GELU_SCALE)));
                let inner = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
                (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Activation, exp, gelu};

    #[test]
    fn gelu_equals_its_definition() {
        for step in -800..800 {
            let x = step as f32 / 100.0 + 0.003;
            let exact = f64::from(x);
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (exact + 0.044_715 * exact.powi(3));
            let exact = 0.5 * exact * (1.0 + inner.tanh());
            for got in [gelu(x), Activation::Gelu.at(x).0] {
                assert!((f64::from(got) - exact).abs() < 4e-6, "{x}: {got} {exact}");
            }
        }
    }

    #[test]
    fn exp_equals_the_exponential_in_f64() {
        for step in -8_690..8_790 {
            let x = step as f32 / 100.0 + 0.003;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "{x}: {} {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-90.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(100.0).is_finite() && exp(f32::NAN).is_nan());
    }
}
