//! Detection of CPU features, and loops that are compiled once per instruction set.

/// How a CPU with AVX-512 multiplies bf16 numbers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bf16Products {
    /// By conversion to f32.
    Converted,
    /// By AVX512-BF16, in pairs of numbers per lane.
    Lanes,
}

/// The instruction sets that the loops are compiled for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CpuFeatures {
    #[cfg(target_arch = "x86_64")]
    Avx512(Bf16Products),
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

impl CpuFeatures {
    pub fn detect() -> CpuFeatures {
        #[cfg(target_arch = "x86_64")]
        {
            let widest = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            // Every processor with the two has these too.
            if widest && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
                return CpuFeatures::Avx512(if !is_x86_feature_detected!("avx512bf16") {
                    Bf16Products::Converted
                } else {
                    Bf16Products::Lanes
                });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return CpuFeatures::Avx2;
            }
        }
        CpuFeatures::Any
    }

    /// Whether the CPU multiplies bf16 numbers without conversion.
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, CpuFeatures::Avx512(Bf16Products::Lanes));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// A name for keys: results may differ in their last bits between instruction sets.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            CpuFeatures::Avx512(Bf16Products::Lanes) => "avx512 bf16",
            #[cfg(target_arch = "x86_64")]
            CpuFeatures::Avx512(Bf16Products::Converted) => "avx512",
            #[cfg(target_arch = "x86_64")]
            CpuFeatures::Avx2 => "avx2",
            CpuFeatures::Any => "portable",
        }
    }
}

/// A loop that is compiled for each instruction set.
pub trait SimdKernel {
    /// Must be `#[inline(always)]`: a called function would be compiled for the narrowest registers.
    fn run(self);
}

/// A closure is inlined where it is short.
impl<F: FnOnce()> SimdKernel for F {
    #[inline(always)]
    fn run(self) {
        self();
    }
}

/// Runs a loop with the widest registers that the CPU has. The choice changes no result, because the compiler
/// neither fuses nor reorders operations.
pub fn with_cpu_features(work: impl SimdKernel) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        fn with_avx512(work: impl SimdKernel) {
            work.run();
        }
        #[target_feature(enable = "avx2")]
        fn with_avx2(work: impl SimdKernel) {
            work.run();
        }
        match CpuFeatures::detect() {
            // SAFETY: the processor has them.
            CpuFeatures::Avx512(_) => return unsafe { with_avx512(work) },
            // SAFETY: the processor has them.
            CpuFeatures::Avx2 => return unsafe { with_avx2(work) },
            CpuFeatures::Any => {}
        }
    }
    work.run();
}
