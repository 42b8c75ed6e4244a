use std::ffi::OsStr;
use std::ffi::{CStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Loads a shared library into this process permanently, with global symbols. Its initialisers are trusted,
/// because it is a library that this program was built for.
///
/// # Errors
/// With the loader's reason.
pub fn load_library(name: &CStr) -> Result<(), String> {
    Library::open(name).map(drop)
}

/// A shared library that stays loaded until the process ends.
pub struct Library(*mut c_void);

impl Library {
    /// As [`load_library`].
    ///
    /// # Errors
    /// With the loader's reason.
    pub fn open(name: &CStr) -> Result<Library, String> {
        // SAFETY: the name is a C string.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if !handle.is_null() {
            return Ok(Library(handle));
        }
        // SAFETY: after a failed `dlopen` in this thread, `dlerror` gives a C string that lives until the
        // next such call.
        Err(unsafe {
            let text = libc::dlerror();
            if text.is_null() {
                "unknown reason".to_owned()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        })
    }

    /// The address of a function in this library, or in one of its dependencies.
    pub fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is of a library that is never closed, the name a C string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// The folder of the library file that contains the function.
    pub fn folder_of(&self, function: &CStr) -> Option<PathBuf> {
        let address = self.symbol(function)?;
        // SAFETY: numbers and pointers, all of which may be 0.
        let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `dladdr` writes what it finds; the name lives as long as the library, for good.
        unsafe {
            if libc::dladdr(address, &raw mut found) == 0 || found.dli_fname.is_null() {
                return None;
            }
            let path = PathBuf::from(OsStr::from_bytes(CStr::from_ptr(found.dli_fname).to_bytes()));
            path.parent().map(PathBuf::from)
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_the_folder_of_their_library() {
        let library = Library::open(c"libc.so.6").unwrap();
        assert!(library.symbol(c"strlen").is_some());
        assert!(library.folder_of(c"strlen").unwrap().is_dir());
        assert!(library.symbol(c"no_such_function").is_none());
        assert!(Library::open(c"libno-such.so").err().unwrap().contains("libno-such.so"));
    }
}
