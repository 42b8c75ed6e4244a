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

    /// The compiler: `MOPD_NVRTC` names its library, or the loader finds it. `None` where it is not
    /// installed.
    fn installed() -> Option<Nvrtc> {
        let named = std::env::var("MOPD_NVRTC").ok().and_then(|path| CString::new(path).ok());
        let Ok(library) = Library::open(named.as_deref().unwrap_or(c"libnvrtc.so.13")) else {
            assert!(named.is_none(), "MOPD_NVRTC names no library");
            assert!(std::env::var_os("MOPD_REQUIRE_TOOLS").is_none(), "NVRTC is not installed");
            eprintln!("note: skipped: NVRTC is not installed, so no kernel was compiled");
            return None;
        };
        Some(Nvrtc::of(&library).expect("the functions of NVRTC"))
    }

    /// Compiles a source for several GPUs, where the compiler is installed.
    pub fn assert_compiles(what: &str, source: &KernelSource) {
        let Some(nvrtc) = installed() else { return };
        for capability in CAPABILITIES {
            match nvrtc.compile(source, capability) {
                Ok(code) => assert!(!code.is_empty()),
                Err(why) => panic!("{what} for {capability:?}: {why}"),
            }
        }
    }

    #[test]
    fn a_mistake_is_reported_with_the_line() {
        let text = "__global__ void f() {\n  undeclared = 1;\n}";
        let Some(nvrtc) = installed() else { return };
        let error = nvrtc.compile(&KernelSource { text, defines: Vec::new() }, [9, 0]).unwrap_err();
        assert!(error.contains("mopd.cu(2)") && error.contains("undeclared"), "{error}");
    }

    #[test]
    fn sizes_are_constants_of_a_source() {
        let text = "__global__ void f(float* x) { x[0] = SIZE; }";
        assert_compiles("a source", &KernelSource { text, defines: vec![("SIZE", 3)] });
    }
}
