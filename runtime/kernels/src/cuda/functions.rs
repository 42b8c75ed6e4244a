//! Functions of CUDA's libraries that are found by name at run time, so that the build needs no CUDA headers.

/// A struct of function pointers, and `find`, which looks them up in a library.
macro_rules! functions {
    ($(#[$doc:meta])* $Set:ident { $($name:ident($($argument:ty),*);)* }) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(super) struct $Set {
            $($name: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
        }

        impl $Set {
            /// `None` where a function is missing.
            pub(super) fn find(library: &crate::os::Library) -> Option<$Set> {
                Some($Set {
                    $($name: {
                        let name = std::ffi::CString::new(stringify!($name)).ok()?;
                        let address = library.symbol(name.as_c_str())?;
                        // SAFETY: CUDA's headers declare the function of this name so: `cuda.h` and `nvrtc.h`
                        // of CUDA 13, whose functions keep their signatures within a version.
                        unsafe {
                            std::mem::transmute::<
                                *mut std::ffi::c_void,
                                unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

pub(super) use functions;

/// # Errors
/// For a code other than 0, which means success in all of CUDA's libraries.
pub(super) fn checked(code: std::ffi::c_int, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what} failed with code {code}")) }
}
