//! Memory use and limits of this process, as the system reports them.

use std::sync::atomic::{AtomicU64, Ordering};

use mopd_kernels::accelerator;
use mopd_kernels::os::{MmapLargeBlocksGuard, trim_heap};
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

/// Bytes of host memory that this process may still allocate: those available on the machine, or in its
/// container if that is less. `None` where the system does not report it.
pub fn available() -> Option<u64> {
    let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    machine.into_iter().chain(group::available()).min()
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

/// Memory limits of control groups (cgroups), which containers and job schedulers use.
mod group {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    /// Bytes left in the group of this process or one of its ancestors, whichever has least.
    pub fn available() -> Option<u64> {
        let own = read_to_string("/proc/self/cgroup").ok()?;
        let left = own.lines().flat_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
            let (root, files) = match controllers {
                "" => ("/sys/fs/cgroup", ["memory.max", "memory.current"]),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"])
                }
                _ => return Vec::new(),
            };
            let folder = PathBuf::from(root).join(path.trim_start_matches('/'));
            // Inside a container, the path may be the host's; then the container's group is the root.
            let folders =
                folder.ancestors().chain([Path::new(root)]).take_while(|folder| folder.starts_with(root));
            folders.filter_map(|folder| left(folder, files)).collect()
        });
        left.min()
    }

    /// Bytes left in a group. A group without a limit has a word there, or an impossibly large number.
    fn left(folder: &Path, [limit, used]: [&str; 2]) -> Option<u64> {
        let number = |file: &str| read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(reclaimable(folder))))
    }

    /// Bytes of cached files, which the system drops when memory is needed.
    fn reclaimable(folder: &Path) -> u64 {
        let Ok(text) = read_to_string(folder.join("memory.stat")) else { return 0 };
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let file = |kind: &str| {
            field(&format!("{kind}_file ")).or(field(&format!("total_{kind}_file "))).unwrap_or(0)
        };
        file("inactive") + file("active")
    }

    #[cfg(test)]
    #[test]
    fn cgroup_limit_counts_page_cache_as_free() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let files = ["memory.max", "memory.current"];
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(left(folder.path(), files), None);
        write("memory.max", "1000\n");
        assert_eq!(left(folder.path(), files), Some(300));
        write("memory.stat", "anon 400\ninactive_file 250\n");
        assert_eq!(left(folder.path(), files), Some(550));
        write("memory.stat", "anon 400\ninactive_file 250\nactive_file 20\n");
        assert_eq!(left(folder.path(), files), Some(570));
        write("memory.current", "5000\n");
        assert_eq!(left(folder.path(), files), Some(0));
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

/// Bytes of a line such as `VmHWM:     1234 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
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
