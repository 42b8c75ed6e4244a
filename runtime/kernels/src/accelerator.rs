//! GPU functions of libtorch: memory statistics, synchronisation, arithmetic settings. Each returns `None`,
//! or does nothing, where there is no GPU or this crate was built without libtorch's headers.

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Free, as the driver reports it.
    pub free: u64,
    pub total: u64,
    /// Held by tensors of this process now.
    pub held: u64,
    /// Largest `held` since [`reset_peak_memory`].
    pub peak: u64,
}

#[cfg(accelerator)]
pub(crate) mod ffi {
    use std::ffi::{c_char, c_int, c_void};

    unsafe extern "C" {
        pub fn mopd_device_memory(device: c_int, out: *mut u64) -> c_int;
        pub safe fn mopd_reset_peak_memory(device: c_int) -> c_int;
        pub safe fn mopd_empty_cache() -> c_int;
        pub safe fn mopd_synchronize(device: c_int) -> c_int;
        pub safe fn mopd_set_arithmetic(deterministic: c_int, tf32: c_int) -> c_int;
        pub fn mopd_stream(device: c_int, out: *mut *mut c_void) -> c_int;
        pub safe fn mopd_graph_begin(device: c_int) -> *mut c_void;
        pub fn mopd_graph_end(graph: *mut c_void) -> c_int;
        pub fn mopd_graph_replay(graph: *mut c_void) -> c_int;
        pub fn mopd_graph_free(graph: *mut c_void);
        pub fn mopd_pinned_new(bytes: usize, memory: *mut *mut c_void) -> *mut c_void;
        pub fn mopd_pinned_record(pinned: *mut c_void, device: c_int) -> c_int;
        pub fn mopd_pinned_wait(pinned: *mut c_void) -> c_int;
        pub fn mopd_pinned_free(pinned: *mut c_void);
        pub fn mopd_flash_attention(
            tensors: *const *mut c_void,
            longest: i64,
            scale: f64,
            window: i64,
            out: *mut *mut c_void,
        ) -> *const c_char;
    }
}

#[cfg(not(accelerator))]
pub(crate) mod ffi {
    use std::ffi::{c_char, c_int, c_void};
    use std::ptr::null_mut;

    /// # Safety
    /// As for the C++ function that it replaces; it writes nothing.
    pub unsafe fn mopd_device_memory(_: c_int, _: *mut u64) -> c_int {
        0
    }

    pub fn mopd_reset_peak_memory(_: c_int) -> c_int {
        0
    }

    pub fn mopd_empty_cache() -> c_int {
        0
    }

    pub fn mopd_synchronize(_: c_int) -> c_int {
        0
    }

    pub fn mopd_set_arithmetic(_: c_int, _: c_int) -> c_int {
        0
    }

    /// # Safety
    /// As for the C++ function that it replaces; it writes nothing.
    pub unsafe fn mopd_stream(_: c_int, _: *mut *mut c_void) -> c_int {
        0
    }

    pub fn mopd_graph_begin(_: c_int) -> *mut c_void {
        null_mut()
    }

    /// # Safety
    /// As for the C++ function that it replaces; there are no graphs here.
    pub unsafe fn mopd_graph_end(_: *mut c_void) -> c_int {
        0
    }

    /// # Safety
    /// As above.
    pub unsafe fn mopd_graph_replay(_: *mut c_void) -> c_int {
        0
    }

    /// # Safety
    /// As above.
    pub unsafe fn mopd_graph_free(_: *mut c_void) {}

    /// # Safety
    /// As for the C++ function that it replaces; it writes nothing.
    pub unsafe fn mopd_pinned_new(_: usize, _: *mut *mut c_void) -> *mut c_void {
        null_mut()
    }

    /// # Safety
    /// As for the C++ function that it replaces; there is no such memory here.
    pub unsafe fn mopd_pinned_record(_: *mut c_void, _: c_int) -> c_int {
        0
    }

    /// # Safety
    /// As above.
    pub unsafe fn mopd_pinned_wait(_: *mut c_void) -> c_int {
        0
    }

    /// # Safety
    /// As above.
    pub unsafe fn mopd_pinned_free(_: *mut c_void) {}

    /// # Safety
    /// As for the C++ function that it replaces; it writes nothing.
    pub unsafe fn mopd_flash_attention(
        _: *const *mut c_void,
        _: i64,
        _: f64,
        _: i64,
        _: *mut *mut c_void,
    ) -> *const c_char {
        c"this program was built without headers of libtorch".as_ptr()
    }
}

pub fn memory(device: usize) -> Option<DeviceMemory> {
    let mut numbers = [0u64; 4];
    // SAFETY: four numbers are written, or none.
    let known = unsafe { ffi::mopd_device_memory(device as i32, numbers.as_mut_ptr()) } != 0;
    let [free, total, held, peak] = numbers;
    known.then_some(DeviceMemory { free, total, held, peak })
}

/// Resets [`DeviceMemory::peak`].
pub fn reset_peak_memory(device: usize) {
    ffi::mopd_reset_peak_memory(device as i32);
}

/// Returns memory that no tensor holds to the driver, for other processes.
pub fn empty_cache() {
    ffi::mopd_empty_cache();
}

/// Waits until all work launched on the device is done. A clock that is read earlier measures only the
/// launches.
pub fn synchronize(device: usize) {
    ffi::mopd_synchronize(device as i32);
}

/// Sets how GPUs compute, for the whole process: whether sums are always taken in the same order, and whether
/// products of f32 matrices may round their factors to TF32.
pub fn set_arithmetic(deterministic: bool, tf32: bool) {
    ffi::mopd_set_arithmetic(deterministic.into(), tf32.into());
}

#[cfg(test)]
mod tests {
    use std::ffi::c_int;

    use super::*;

    /// Without a GPU, each function says that it did nothing; with one, the numbers fit together.
    #[test]
    fn functions_report_whether_there_is_a_gpu() {
        let there = memory(0).is_some();
        let done = [
            ffi::mopd_reset_peak_memory(0),
            ffi::mopd_empty_cache(),
            ffi::mopd_synchronize(0),
            ffi::mopd_set_arithmetic(1, 0),
        ];
        assert_eq!(done, [c_int::from(there); 4]);
        // No machine has this one.
        assert_eq!(memory(1 << 10), None);
        if let Some(DeviceMemory { free, total, held, peak }) = memory(0) {
            assert!(
                0 < total && free <= total && held <= peak && peak <= total,
                "{free} {total} {held} {peak}"
            );
        }
    }
}
