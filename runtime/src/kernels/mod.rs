//! Loops of our own, where libtorch's operators leave most of a processor idle: products of a few rows with a large matrix,
//! which wait for memory, and updates that touch every parameter once. They run on the processor only.

pub mod attend;
pub mod crew;
pub mod thin;

use half::bf16;

/// libtorch's matrix library asks this before it uses the widest instructions, and by itself says yes on one maker's processors
/// only. What it then uses still follows from what the processor reports that it can do. On others the answer doubles the
/// rate of single-precision products.
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
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return Instructions::Avx512 { half: is_x86_feature_detected!("avx512bf16") };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Instructions::Avx2;
            }
        }
        Instructions::Any
    }
}

/// A number as it is stored.
pub trait Stored: Copy {
    fn single(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}
