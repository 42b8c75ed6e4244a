//! The functions of the CUDA driver that own kernels need. They are found in the library through which
//! libtorch uses them.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use super::Gpu;
use super::functions::{checked, functions};
use super::nvrtc::{ComputeCapability, KernelSource, Nvrtc};
use crate::accelerator;
use crate::os::Library;

type Pointer = *mut c_void;

/// A function of a compiled module, which stays loaded until the process ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(Pointer);

// SAFETY: a handle of the driver, which any thread may launch.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

functions! {
    /// The driver's functions.
    Driver {
        cuCtxGetDevice(*mut c_int);
        cuDeviceGetAttribute(*mut c_int, c_int, c_int);
        cuModuleLoadData(*mut Pointer, *const c_void);
        cuModuleGetFunction(*mut Pointer, Pointer, *const c_char);
        cuLaunchKernel(
            Pointer, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Pointer, *mut Pointer,
            *mut Pointer
        );
        cuMemcpyAsync(u64, u64, usize, Pointer);
    }
}

/// libtorch's library that links to the driver and to NVRTC.
const LIBRARY: &CStr = c"libcaffe2_nvrtc.so";

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

/// The driver and its compiler.
struct Cuda {
    driver: Driver,
    nvrtc: Nvrtc,
}

fn cuda() -> Result<&'static Cuda, String> {
    static CUDA: OnceLock<Result<Cuda, String>> = OnceLock::new();
    let find = || {
        let library = Library::open(LIBRARY)?;
        match (Driver::find(&library), Nvrtc::of(&library)) {
            (Some(driver), Some(nvrtc)) => Ok(Cuda { driver, nvrtc }),
            _ => Err("a function of CUDA's driver or of NVRTC is missing".to_owned()),
        }
    };
    CUDA.get_or_init(find).as_ref().map_err(Clone::clone)
}

/// The compute capability of the process's GPU: major and minor.
///
/// # Errors
/// If the driver or one of its functions is missing.
pub(super) fn capability(gpu: Gpu) -> Result<ComputeCapability, String> {
    static ASKED: OnceLock<Result<ComputeCapability, String>> = OnceLock::new();
    let ask = || {
        let driver = &cuda()?.driver;
        // The driver needs a context of this thread, which libtorch creates at its first call for the
        // GPU.
        accelerator::synchronize(gpu.index);
        let (mut device, mut capability) = (0, [0; 2]);
        // SAFETY: each call gets a place for the number that it writes.
        unsafe {
            checked((driver.cuCtxGetDevice)(&raw mut device), "cuCtxGetDevice")?;
            for (number, attribute) in capability.iter_mut().zip(CAPABILITY) {
                checked((driver.cuDeviceGetAttribute)(number, attribute, device), "cuDeviceGetAttribute")?;
            }
        }
        Ok(capability)
    };
    ASKED.get_or_init(ask).clone()
}

/// Compiles a source for a GPU, and returns its functions of these names.
///
/// # Errors
/// If the compiler or the driver fails, with its message.
pub(super) fn compile<const N: usize>(
    gpu: Gpu,
    source: &KernelSource,
    names: [&CStr; N],
) -> Result<[Function; N], String> {
    let Cuda { driver, nvrtc } = cuda()?;
    // This thread may have no context yet.
    accelerator::synchronize(gpu.index);
    let code = nvrtc.compile(source, capability(gpu)?)?;
    let mut functions = [Function(null_mut()); N];
    // SAFETY: the calls get places for the handles that they write, code that the compiler made, and strings
    // that end with 0.
    unsafe {
        let mut module = null_mut();
        checked((driver.cuModuleLoadData)(&raw mut module, code.as_ptr().cast()), "cuModuleLoadData")?;
        for (function, name) in functions.iter_mut().zip(names) {
            let got = (driver.cuModuleGetFunction)(&raw mut function.0, module, name.as_ptr());
            checked(got, "cuModuleGetFunction")?;
        }
    }
    Ok(functions)
}

/// Launches a function on a stream, with `blocks` blocks of `threads` threads.
///
/// # Safety
/// Arguments are pointers to values of the types that the function takes, in its order. GPU memory that they
/// refer to has the sizes that it reads and writes, and is valid until the stream has passed the launch.
pub(super) unsafe fn launch(
    function: Function,
    blocks: [u32; 2],
    threads: u32,
    stream: Pointer,
    arguments: &mut [Pointer],
) {
    let driver = &cuda().expect("who has a function has the driver").driver;
    // SAFETY: the caller's promise.
    let code = unsafe {
        (driver.cuLaunchKernel)(
            function.0,
            blocks[0],
            blocks[1],
            1,
            threads,
            1,
            1,
            0,
            stream,
            arguments.as_mut_ptr(),
            null_mut(),
        )
    };
    assert_eq!(code, 0, "cuLaunchKernel failed");
}

/// Launches a copy of bytes on a stream, from or to the GPU.
///
/// # Safety
/// Both ranges have `bytes` bytes and are valid until the stream has passed the copy. The host's memory is
/// page-locked, and no other code accesses it meanwhile.
pub(super) unsafe fn copy(to: Pointer, from: Pointer, bytes: usize, stream: Pointer) {
    let driver = &cuda().expect("who has page-locked memory has the driver").driver;
    // SAFETY: the caller's promise. With unified addressing, which every GPU supported by libtorch has, the
    // driver finds the device of an address.
    let code = unsafe { (driver.cuMemcpyAsync)(to as u64, from as u64, bytes, stream) };
    assert_eq!(code, 0, "cuMemcpyAsync failed");
}

/// Checks that the driver can be used.
///
/// # Errors
/// If the driver or one of its functions is missing.
pub(super) fn available() -> Result<(), String> {
    cuda().map(|_| ())
}
