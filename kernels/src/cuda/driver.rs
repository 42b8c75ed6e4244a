//! The functions of CUDA's driver and of its compiler that kernels of our own need, found by their names in
//! the library that libtorch has for its own use of them: no header of CUDA is needed where this is compiled.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::Gpu;
use crate::accelerator;
use crate::os::Library;

type Pointer = *mut c_void;

/// A function of a compiled module, for as long as the process runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(Pointer);

// SAFETY: a handle of the driver's, which any thread may launch.
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

/// Links to the driver and to its compiler.
const LIBRARY: &CStr = c"libcaffe2_nvrtc.so";

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    let found = DRIVER.get_or_init(|| {
        let library = Library::open(LIBRARY)?;
        let driver = Driver::find(&library)
            .ok_or_else(|| "a function of CUDA's driver or of NVRTC is missing".to_owned())?;
        // The compiler looks for this one by name when it starts, and not where it is itself.
        if let Some(folder) = library.folder_of(c"nvrtcCompileProgram") {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("libnvrtc-builtins.so") {
                    let path = CString::new(entry.path().to_string_lossy().into_owned());
                    // One that can't be opened is missed when something is compiled.
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

/// Of the process's GPU: major and minor.
///
/// # Errors
/// With what is missing.
pub(super) fn capability(gpu: Gpu) -> Result<[i32; 2], String> {
    static ASKED: OnceLock<Result<[i32; 2], String>> = OnceLock::new();
    let ask = || {
        let driver = driver()?;
        // The driver works for what this thread has a context of, which libtorch makes when it is asked for
        // something.
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

/// Compiles a source for a GPU: its functions of these names.
///
/// # Errors
/// With what the compiler says, or the driver.
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
    // SAFETY: all calls below get pointers to values that outlive them, of the sizes that were asked for, and
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
/// The program is one of the driver's, and options are strings that end with 0.
unsafe fn image(driver: &Driver, program: Pointer, options: &[*const c_char]) -> Result<Vec<u8>, String> {
    let mut size = 0;
    // SAFETY: buffers have the sizes that were asked for just before.
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

/// Asks for a function to run on a stream, in so many blocks of so many threads.
///
/// # Safety
/// Arguments are pointers to values of the types that the function takes, in its order; what they point to on
/// the GPU has the sizes that it reads and writes, and stays until the stream has come past it.
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

/// Asks for bytes to be copied on a stream, from or to the GPU.
///
/// # Safety
/// Both have as many bytes and stay until the stream has come past the copy; what is in the host's memory is
/// page-locked, and nobody else touches it meanwhile.
pub(super) unsafe fn copy(to: Pointer, from: Pointer, bytes: usize, stream: Pointer) {
    let driver = driver().expect("who has page-locked memory has the driver");
    // SAFETY: the caller's promise. With unified addressing, which every GPU has that libtorch knows, the
    // driver tells from an address whose memory it is.
    let code = unsafe { (driver.cuMemcpyAsync)(to as u64, from as u64, bytes, stream) };
    assert_eq!(code, 0, "cuMemcpyAsync failed");
}

/// Whether the driver can be used at all.
///
/// # Errors
/// With what is missing.
pub(super) fn available() -> Result<(), String> {
    driver().map(|_| ())
}
