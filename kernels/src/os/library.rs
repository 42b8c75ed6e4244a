use std::ffi::CStr;

/// Loads a shared library into this process for good, with its symbols for all. What its initialisers do is
/// the library's affair: it is one that this program was built for.
///
/// # Errors
/// With the loader's reason.
#[cfg(unix)]
pub fn load_library(name: &CStr) -> Result<(), String> {
    // SAFETY: the name is a C string.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: after a failed `dlopen` in this thread, `dlerror` gives a C string that lives until the next
    // such call.
    Err(unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "unknown reason".to_owned()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    })
}
