//! The CPU engine: loops of our own, where libtorch's operators leave most of a processor idle: products of a few rows with a
//! large matrix, which wait for memory, and updates that touch every parameter once. They run on the
//! processor only.

pub mod adamw;
pub mod attend;
pub mod causal;
pub mod crew;
pub mod elements;
pub mod entries;
pub mod exp;
pub mod gated;
pub mod lanes;
pub mod lines;
pub mod product;
pub mod rotate;
pub mod thin;

use half::bf16;

/// libtorch's matrix library asks this before it uses the widest instructions, and by itself says yes on one
/// maker's processors only. What it then uses still follows from what the processor reports that it can do.
/// On others the answer doubles the rate of single-precision products.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[unsafe(no_mangle)]
pub extern "C" fn mkl_serv_intel_cpu_true() -> std::ffi::c_int {
    1
}

/// What the processor can do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512 {
        half: bool,
    },
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

impl Instructions {
    pub fn found() -> Instructions {
        #[cfg(target_arch = "x86_64")]
        {
            let widest = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            // Every processor with the two has these too.
            if widest && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
                return Instructions::Avx512 { half: is_x86_feature_detected!("avx512bf16") };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Instructions::Avx2;
            }
        }
        Instructions::Any
    }

    /// Results of different ones may differ in their last bits.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 { half: true } => "avx512 bf16",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 { half: false } => "avx512",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            Instructions::Any => "portable",
        }
    }
}

/// A number as it is stored.
pub trait Stored: Copy {
    fn single(self) -> f32;
    /// The nearest one, ties to the even one.
    fn of(number: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(number: f32) -> f32 {
        number
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn of(number: f32) -> bf16 {
        let bits = number.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry the digits of a NaN into its exponent.
        bf16::from_bits(if number.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

/// A loop that is compiled for each kind of registers.
pub trait Loop {
    /// To be inlined in any case: a function that is called would be compiled for the smallest registers.
    fn run(self);
}

/// A closure is inlined where it is short.
impl<F: FnOnce()> Loop for F {
    #[inline(always)]
    fn run(self) {
        self();
    }
}

/// Runs a loop with the widest registers that the processor has. None of them changes a result: nothing is
/// fused or reordered.
pub fn with_instructions(work: impl Loop) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        fn widest(work: impl Loop) {
            work.run();
        }
        #[target_feature(enable = "avx2")]
        fn wide(work: impl Loop) {
            work.run();
        }
        match Instructions::found() {
            // SAFETY: the processor has them.
            Instructions::Avx512 { .. } => return unsafe { widest(work) },
            // SAFETY: the processor has them.
            Instructions::Avx2 => return unsafe { wide(work) },
            Instructions::Any => {}
        }
    }
    work.run();
}

/// Each number as the nearest half-precision one, ties to the even one.
pub fn round(from: &[f32], to: &mut [bf16]) {
    with_instructions(|| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = bf16::of(*from);
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
        let mut halves = vec![bf16::ZERO; numbers.len()];
        round(&numbers, &mut halves);
        for (number, half) in numbers.iter().zip(halves) {
            assert!(half == bf16::from_f32(*number) || (half.is_nan() && number.is_nan()), "{number} {half}");
        }
    }
}
