//! The functions of the CUDA driver and of NVRTC, its compiler, that own kernels need. They are found by name
//! in the library through which libtorch uses them, so that the build needs no CUDA headers.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::Gpu;
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

macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        #[allow(non_snake_case)]
        struct Driver {
            $($name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Driver {
            fn find(library: &Library) -> Option<Driver> {
                Some(Driver {
                    $($name: {
                        let address = library.symbol(CString::new(stringify!($name)).ok()?.as_c_str())?;
                        // SAFETY: CUDA's headers declare the function of this name so: `cuda.h` and `nvrtc.h`
                        // of CUDA 13, whose functions keep their signatures within a version.
                        unsafe { std::mem::transmute::<Pointer, unsafe extern "C" fn($($argument),*) -> c_int>(address) }
                    },)*
                })
            }
        }
    };
}

functions! {
    nvrtcCreateProgram(*mut Pointer, *const c_char, *const c_char, c_int, *const Pointer, *const Pointer);
    nvrtcCompileProgram(Pointer, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(Pointer, *mut usize);
    nvrtcGetProgramLog(Pointer, *mut c_char);
    nvrtcGetCUBINSize(Pointer, *mut usize);
    nvrtcGetCUBIN(Pointer, *mut c_char);
    nvrtcDestroyProgram(*mut Pointer);
    cuCtxGetDevice(*mut c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuModuleLoadData(*mut Pointer, *const c_void);
    cuModuleGetFunction(*mut Pointer, Pointer, *const c_char);
    cuLaunchKernel(
        Pointer, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Pointer, *mut Pointer, *mut Pointer
    );
    cuMemcpyAsync(u64, u64, usize, Pointer);
}

/// libtorch's library that links to the driver and to NVRTC.
const LIBRARY: &CStr = c"libcaffe2_nvrtc.so";

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    let found = DRIVER.get_or_init(|| {
        let library = Library::open(LIBRARY)?;
        let driver = Driver::find(&library)
            .ok_or_else(|| "a function of CUDA's driver or of NVRTC is missing".to_owned())?;
        // NVRTC opens this library by name, and does not search its own folder.
        if let Some(folder) = library.folder_of(c"nvrtcCompileProgram") {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("libnvrtc-builtins.so") {
                    let path = CString::new(entry.path().to_string_lossy().into_owned());
                    // If it can't be opened, compilation reports it.
                    let _ = path.map(|path| Library::open(&path));
                }
            }
        }
        Ok(driver)
    });
    found.as_ref().map_err(Clone::clone)
}

fn checked(code: c_int, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what} failed with code {code}")) }
}

/// The compute capability of the GPU: major and minor.
///
/// # Errors
/// If the driver or one of its functions is missing.
pub(super) fn capability(gpu: Gpu) -> Result<[i32; 2], String> {
    static ASKED: OnceLock<Result<[i32; 2], String>> = OnceLock::new();
    let ask = || {
        let driver = driver()?;
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
    source: &str,
    defines: &[(&str, i64)],
    names: [&CStr; N],
) -> Result<[Function; N], String> {
    let driver = driver()?;
    // This thread may have no context yet.
    accelerator::synchronize(gpu.index);
    let [major, minor] = capability(gpu)?;
    // SAFETY: all calls below get pointers to values that outlive them and have the requested sizes, and
    // strings that end with 0.
    unsafe {
        let options: Vec<CString> = std::iter::once(format!("--gpu-architecture=sm_{major}{minor}"))
            .chain(defines.iter().map(|(name, value)| format!("-D{name}={value}")))
            .map(|option| CString::new(option).expect("no option has a 0 in it"))
            .collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let source = CString::new(source).expect("no source has a 0 in it");
        let mut program = null_mut();
        let created = (driver.nvrtcCreateProgram)(
            &raw mut program,
            source.as_ptr(),
            c"mopd.cu".as_ptr(),
            0,
            null(),
            null(),
        );
        checked(created, "nvrtcCreateProgram")?;
        let image = image(driver, program, &options);
        (driver.nvrtcDestroyProgram)(&raw mut program);
        let image = image?;
        let mut module = null_mut();
        checked((driver.cuModuleLoadData)(&raw mut module, image.as_ptr().cast()), "cuModuleLoadData")?;
        let mut functions = [Function(null_mut()); N];
        for (function, name) in functions.iter_mut().zip(names) {
            let got = (driver.cuModuleGetFunction)(&raw mut function.0, module, name.as_ptr());
            checked(got, "cuModuleGetFunction")?;
        }
        Ok(functions)
    }
}

/// # Safety
/// The program comes from NVRTC, and options are strings that end with 0.
unsafe fn image(driver: &Driver, program: Pointer, options: &[*const c_char]) -> Result<Vec<u8>, String> {
    let mut size = 0;
    // SAFETY: buffers have the sizes that were requested just before.
    unsafe {
        if (driver.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr()) != 0 {
            (driver.nvrtcGetProgramLogSize)(program, &raw mut size);
            let mut log = vec![0u8; size.max(1)];
            (driver.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast());
            let log = String::from_utf8_lossy(&log);
            return Err(format!("NVRTC can't compile it: {}", log.trim_end_matches('\0').trim()));
        }
        checked((driver.nvrtcGetCUBINSize)(program, &raw mut size), "nvrtcGetCUBINSize")?;
        let mut image = vec![0u8; size];
        checked((driver.nvrtcGetCUBIN)(program, image.as_mut_ptr().cast()), "nvrtcGetCUBIN")?;
        Ok(image)
    }
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
    let driver = driver().expect("who has a function has the driver");
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
    let driver = driver().expect("who has page-locked memory has the driver");
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
    driver().map(|_| ())
}
