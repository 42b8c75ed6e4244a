//! Memory use and limits of this process, as the system reports them.

use std::sync::atomic::{AtomicU64, Ordering};

use mopd_kernels::accelerator;
use mopd_kernels::os::{MmapLargeBlocksGuard, trim_heap};
pub use mopd_store::host_memory::available;
use mopd_store::host_memory::kilobytes;
use tch::Device;

use super::place::Place;

/// Peak memory before the last reset, in bytes: on the host, and on a GPU.
static BEFORE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn before(place: Place) -> &'static AtomicU64 {
    &BEFORE[usize::from(place.kernels().is_some())]
}

/// Peak memory of this process so far on the device of `place`, in bytes; 0 where the system does not report
/// it.
pub fn peak_memory(place: Place) -> u64 {
    peak_of(place).unwrap_or(0).max(before(place).load(Ordering::Relaxed))
}

/// Peak host memory in bytes since [`reset_peak_memory`]; `None` where the system does not report it.
pub fn peak_since_reset() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes of host memory that this process holds now; `None` where the system does not report it.
pub fn resident() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that tensors at a place may still take; `None` where the system does not report it.
pub fn available_at(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => Some(accelerator::memory(index)?.free),
        _ => available(),
    }
}

/// Bytes that tensors of this process may take at a place, those that it holds already included.
pub fn capacity_of(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => {
            let memory = accelerator::memory(index)?;
            Some(memory.free + memory.held)
        }
        _ => Some(available()? + resident().unwrap_or(0)),
    }
}

/// Resets [`peak_since_reset`] and returns the bytes held now; `None` where the system does not support
/// it.
pub fn reset_peak_memory() -> Option<u64> {
    trim_heap();
    before(Place::cpu()).fetch_max(peak_since_reset()?, Ordering::Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_since_reset()
}

/// [`reset_peak_memory`] on the device of a place.
pub fn reset_peak_of(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => {
            before(place).fetch_max(peak_of(place)?, Ordering::Relaxed);
            accelerator::reset_peak_memory(index);
            Some(accelerator::memory(index)?.held)
        }
        _ => reset_peak_memory(),
    }
}

/// [`peak_since_reset`] on the device of a place.
pub fn peak_of(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => Some(accelerator::memory(index)?.peak),
        _ => peak_since_reset(),
    }
}

/// Returns free memory to the system and to the GPU's driver, for other processes.
pub fn release_free() {
    trim_heap();
    accelerator::empty_cache();
}

/// Runs `f` while every block above 64 KiB goes back to the system as soon as it is freed, so that the memory
/// held is the memory needed, even for models that are so small that the allocator would keep what they
/// free. This is slow.
pub fn with_exact_memory<T>(f: impl FnOnce() -> T) -> T {
    let _exact = MmapLargeBlocksGuard::new(64 << 10);
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_in_bytes() {
        assert_eq!(kilobytes("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n", "VmHWM:"), Some(1234 * 1024));
        assert_eq!(kilobytes("Name:\tx\n", "VmHWM:"), None);
        // A test process holds a few megabytes, and not all of any machine.
        let peak = peak_memory(Place::cpu());
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }
}
