//! What memory this process holds, as the system counts it.

use std::sync::atomic::{AtomicU64, Ordering};

use mopd_kernels::accelerator;
use mopd_kernels::os::{BlocksOfTheSystem, trim_heap};
use tch::Device;

use super::place::Place;

/// Most memory that was held before the count began anew, in bytes: of the machine, and of a GPU.
static BEFORE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn before(place: Place) -> &'static AtomicU64 {
    &BEFORE[usize::from(place.kernels().is_some())]
}

/// Most memory that this process has held so far where tensors are, in bytes; 0 where the system does not
/// tell.
pub fn peak_memory(place: Place) -> u64 {
    peak_of(place).unwrap_or(0).max(before(place).load(Ordering::Relaxed))
}

/// The same of the machine, since the last [`reset_peak_memory`]; none where the system does not tell.
pub fn peak_since_reset() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes that this process holds now; none where the system does not tell.
pub fn resident() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that this process may still take: what is free on the machine, or in the container that it runs in,
/// if that is less. None where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    machine.into_iter().chain(group::available()).min()
}

/// Bytes that tensors at a place may still take; none where the system does not tell.
pub fn available_at(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => Some(accelerator::memory(index)?.free),
        _ => available(),
    }
}

/// Bytes that tensors at a place may take in all, those of this process included.
pub fn capacity_of(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => {
            let memory = accelerator::memory(index)?;
            Some(memory.free + memory.held)
        }
        _ => Some(available()? + resident().unwrap_or(0)),
    }
}

/// Limits of control groups (cgroups), by which containers and job schedulers bound the memory of their
/// programs.
mod group {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    /// The least that is left in the group of this process and those around it.
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
            // Inside a container the path may be that outside; its own group is then the root.
            let folders =
                folder.ancestors().chain([Path::new(root)]).take_while(|folder| folder.starts_with(root));
            folders.filter_map(|folder| left(folder, files)).collect()
        });
        left.min()
    }

    /// A group without a limit says so in words, or with a number that no machine has.
    fn left(folder: &Path, [limit, used]: [&str; 2]) -> Option<u64> {
        let number = |file: &str| read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(reclaimable(folder))))
    }

    /// Files in memory that are dropped when it is wanted.
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
    fn what_is_left_of_a_limit_counts_files_in_memory_as_free() {
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

/// Begins the count of [`peak_since_reset`] anew. Answers what is held now, in bytes; none where the system
/// can't.
pub fn reset_peak_memory() -> Option<u64> {
    trim_heap();
    before(Place::cpu()).fetch_max(peak_since_reset()?, Ordering::Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_since_reset()
}

/// [`reset_peak_memory`] of what tensors at a place hold.
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

/// [`peak_since_reset`] of what tensors at a place hold.
pub fn peak_of(place: Place) -> Option<u64> {
    match place.device {
        Device::Cuda(index) => Some(accelerator::memory(index)?.peak),
        _ => peak_since_reset(),
    }
}

/// Gives what nobody holds back to the system and to the driver of a GPU, for others.
pub fn release_free() {
    trim_heap();
    accelerator::empty_cache();
}

/// Does something while every block of some size goes back to the system as soon as it is free. So what is
/// held is what is needed, also by models that are small enough for the allocator to keep what they free. It
/// is slow.
pub fn exactly<T>(f: impl FnOnce() -> T) -> T {
    let _exact = BlocksOfTheSystem::above(64 << 10);
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
