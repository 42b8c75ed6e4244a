//! NVRTC, CUDA's compiler of sources at run time. It needs no GPU.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use super::functions::{checked, functions};
use crate::os::Library;

type Pointer = *mut c_void;

functions! {
    /// The compiler's functions.
    Nvrtc {
        nvrtcCreateProgram(*mut Pointer, *const c_char, *const c_char, c_int, *const Pointer, *const Pointer);
        nvrtcCompileProgram(Pointer, c_int, *const *const c_char);
        nvrtcGetProgramLogSize(Pointer, *mut usize);
        nvrtcGetProgramLog(Pointer, *mut c_char);
        nvrtcGetCUBINSize(Pointer, *mut usize);
        nvrtcGetCUBIN(Pointer, *mut c_char);
        nvrtcDestroyProgram(*mut Pointer);
    }
}

/// A source with the constants that it is compiled for.
pub(super) struct KernelSource {
    pub text: &'static str,
    pub defines: Vec<(&'static str, i64)>,
}

/// A GPU's compute capability: major and minor.
pub(super) type ComputeCapability = [i32; 2];

impl Nvrtc {
    /// The compiler in a library, or in one that it links to.
    pub fn of(library: &Library) -> Option<Nvrtc> {
        let nvrtc = Nvrtc::find(library)?;
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
        Some(nvrtc)
    }

    /// The code of a source for GPUs of this capability, as the driver loads it.
    ///
    /// # Errors
    /// The compiler's messages.
    pub fn compile(&self, source: &KernelSource, capability: ComputeCapability) -> Result<Vec<u8>, String> {
        let [major, minor] = capability;
        let options: Vec<CString> = std::iter::once(format!("--gpu-architecture=sm_{major}{minor}"))
            .chain(source.defines.iter().map(|(name, value)| format!("-D{name}={value}")))
            .map(|option| CString::new(option).expect("no option has a 0 in it"))
            .collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let text = CString::new(source.text).expect("no source has a 0 in it");
        let mut program = null_mut();
        // SAFETY: all calls get pointers to values that outlive them and have the requested sizes, and
        // strings that end with 0.
        unsafe {
            let name = c"mopd.cu".as_ptr();
            let created = (self.nvrtcCreateProgram)(&raw mut program, text.as_ptr(), name, 0, null(), null());
            checked(created, "nvrtcCreateProgram")?;
            let code = self.code(program, &options);
            (self.nvrtcDestroyProgram)(&raw mut program);
            code
        }
    }

    /// # Safety
    /// The program comes from NVRTC, and options are strings that end with 0.
    unsafe fn code(&self, program: Pointer, options: &[*const c_char]) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: buffers have the sizes that were requested just before.
        unsafe {
            if (self.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr()) != 0 {
                (self.nvrtcGetProgramLogSize)(program, &raw mut size);
                let mut log = vec![0u8; size.max(1)];
                (self.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast());
                let log = String::from_utf8_lossy(&log);
                return Err(format!("NVRTC can't compile it: {}", log.trim_end_matches('\0').trim()));
            }
            checked((self.nvrtcGetCUBINSize)(program, &raw mut size), "nvrtcGetCUBINSize")?;
            let mut code = vec![0u8; size];
            checked((self.nvrtcGetCUBIN)(program, code.as_mut_ptr().cast()), "nvrtcGetCUBIN")?;
            Ok(code)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The capabilities of A100, H100 and B200.
    const CAPABILITIES: [ComputeCapability; 3] = [[8, 0], [9, 0], [10, 0]];

    /// Compiles a source for several GPUs, where the compiler is installed: `MOPD_NVRTC` names its library,
    /// or the loader finds it. Returns false where it is not.
    pub fn assert_compiles(what: &str, source: &KernelSource) -> bool {
        let named = std::env::var("MOPD_NVRTC").ok().and_then(|path| CString::new(path).ok());
        let name = named.as_deref().unwrap_or(c"libnvrtc.so.13");
        let Ok(library) = Library::open(name) else {
            assert!(named.is_none(), "MOPD_NVRTC names no library: {name:?}");
            eprintln!("skipped: NVRTC is not installed, so `{what}` was not compiled");
            return false;
        };
        let nvrtc = Nvrtc::of(&library).expect("the functions of NVRTC");
        for capability in CAPABILITIES {
            let code = nvrtc.compile(source, capability);
            assert!(
                code.is_ok_and(|code| !code.is_empty()),
                "{what} for {capability:?}: {:?}",
                nvrtc.compile(source, capability).err()
            );
        }
        true
    }

    #[test]
    fn a_mistake_is_reported_with_the_line() {
        let good =
            KernelSource { text: "__global__ void f(float* x) { x[0] = SIZE; }", defines: vec![("SIZE", 3)] };
        if assert_compiles("a good source", &good) {
            let name = std::env::var("MOPD_NVRTC").unwrap_or("libnvrtc.so.13".to_owned());
            let library = Library::open(&CString::new(name).unwrap()).unwrap();
            let bad =
                KernelSource { text: "__global__ void f() {\n  undeclared = 1;\n}", defines: Vec::new() };
            let error = Nvrtc::of(&library).unwrap().compile(&bad, [9, 0]).unwrap_err();
            assert!(error.contains("mopd.cu(2)") && error.contains("undeclared"), "{error}");
        }
    }
}
