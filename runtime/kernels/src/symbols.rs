//! Functions of loaded libraries, found by name, and one function that libtorch's matrix library looks up in
//! this program.
//!
//! libtorch ships a matrix library (oneMKL on x86-64) and an OpenMP library, and exports their symbols. This
//! module uses them for what libtorch's operators don't offer:
//!
//! - `cblas_gemm_bf16bf16f32`: bf16 products summed and returned in f32, where libtorch rounds them to bf16.
//!   Without it: f32 products of converted matrices.
//! - `sgemm_`: small f32 products inside of one thread. Without it: plain loops.
//! - `GOMP_parallel`, `omp_get_thread_num`, `omp_get_num_threads`: libtorch's own threads, which keep
//!   spinning on their cores. Without them: threads of this crate.
//! - `mkl_serv_intel_cpu_true` (defined here): lets oneMKL use AVX-512 on CPUs of other makers than Intel.
//!   Without it: half the rate of f32 products there.
//! - `mkl_serv_cbwr_set`: with AVX2, results that do not depend on a matrix's alignment. Without it: last
//!   bits of products that differ from run to run.
//!
//! `MOPD_LIBRARY_SYMBOLS=off` turns all of them off: results are correct but slower, with other last bits.
//! The variable is part of the keys of results, because it changes bits.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::CpuFeatures;

/// The environment variable that turns this module off.
pub const SWITCH: &str = "MOPD_LIBRARY_SYMBOLS";

fn is_enabled() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os(SWITCH).is_none_or(|value| value != "off"))
}

/// oneMKL calls this before it uses the widest instructions. Its own version returns true on Intel's CPUs
/// only. Which instructions it then uses still depends on the features that the CPU reports.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[unsafe(no_mangle)]
pub extern "C" fn mkl_serv_intel_cpu_true() -> c_int {
    c_int::from(is_enabled() || by_the_library())
}

/// The result of oneMKL's own version.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn by_the_library() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

/// Runs before `main`, because oneMKL accepts the setting only before its first product.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = ask_for_reproducible_products;

/// oneMKL's AVX2 loops sum in an order that depends on the alignment of matrices, unless strict conditional
/// numerical reproducibility (Intel's term) is requested. Its AVX-512 loops do not depend on alignment. A
/// user's own `MKL_CBWR` takes precedence.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
extern "C" fn ask_for_reproducible_products() {
    /// `MKL_CBWR_AVX2 | MKL_CBWR_STRICT` of `mkl_service.h`.
    const STRICT_AVX2: c_int = 10 | 0x1_0000;
    if CpuFeatures::detect() != CpuFeatures::Avx2 || std::env::var_os("MKL_CBWR").is_some() {
        return;
    }
    if let Some(address) = find(c"mkl_serv_cbwr_set") {
        // SAFETY: the function of that name takes an int and returns one.
        let set = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(address) };
        set(STRICT_AVX2);
    }
}

fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string; the handle means all libraries that are loaded already.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (is_enabled() && !address.is_null()).then_some(address)
}

/// `C = alpha op(A) op(B) + beta C` with A and B of bf16.
pub(crate) type Bf16Gemm = unsafe extern "C" fn(
    order: c_int,
    transposed_a: c_int,
    transposed_b: c_int,
    rows: c_int,
    columns: c_int,
    inner: c_int,
    alpha: f32,
    a: *const c_void,
    stride_a: c_int,
    b: *const c_void,
    stride_b: c_int,
    beta: f32,
    c: *mut f32,
    stride_c: c_int,
);

pub(crate) fn bf16_gemm() -> Option<Bf16Gemm> {
    static FOUND: OnceLock<Option<Bf16Gemm>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let address = find(c"cblas_gemm_bf16bf16f32")?;
        // SAFETY: the library's function of that name has this signature (integers of 32 bits: libtorch links
        // the LP64 interface).
        Some(unsafe { std::mem::transmute::<*mut c_void, Bf16Gemm>(address) })
    })
}

/// `C = alpha op(A) op(B) + beta C` of column-major f32 matrices.
pub(crate) type F32Gemm = unsafe extern "C" fn(
    transposed_a: *const c_char,
    transposed_b: *const c_char,
    rows: *const c_int,
    columns: *const c_int,
    inner: *const c_int,
    alpha: *const f32,
    a: *const f32,
    stride_a: *const c_int,
    b: *const f32,
    stride_b: *const c_int,
    beta: *const f32,
    c: *mut f32,
    stride_c: *const c_int,
);

pub(crate) fn f32_gemm() -> Option<F32Gemm> {
    static FOUND: OnceLock<Option<F32Gemm>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let address = find(c"sgemm_")?;
        // SAFETY: the function of that name has this signature in every such library with integers of 32
        // bits; libtorch needs one.
        Some(unsafe { std::mem::transmute::<*mut c_void, F32Gemm>(address) })
    })
}

/// Runs a function with an argument on a number of threads, the calling one included.
pub(crate) type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);
/// The index of the calling thread, or the number of threads.
pub(crate) type ThreadCountFn = unsafe extern "C" fn() -> c_int;

pub(crate) struct OpenMp {
    pub parallel: Parallel,
    pub thread: ThreadCountFn,
    pub threads: ThreadCountFn,
}

pub(crate) fn open_mp() -> Option<&'static OpenMp> {
    static FOUND: OnceLock<Option<OpenMp>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let [parallel, thread, threads] =
            [find(c"GOMP_parallel")?, find(c"omp_get_thread_num")?, find(c"omp_get_num_threads")?];
        // SAFETY: functions of these names have these signatures, in every OpenMP library that has them.
        unsafe {
            Some(OpenMp {
                parallel: std::mem::transmute::<*mut c_void, Parallel>(parallel),
                thread: std::mem::transmute::<*mut c_void, ThreadCountFn>(thread),
                threads: std::mem::transmute::<*mut c_void, ThreadCountFn>(threads),
            })
        }
    });
    found.as_ref()
}
