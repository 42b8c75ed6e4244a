//! The memory of this machine, as the system reports it, within the limits of a container.

/// Bytes of host memory that this process may still allocate: those available on the machine, or in its
/// container if that is less. `None` where the system does not report it.
pub fn available() -> Option<u64> {
    of_machine("MemAvailable:").into_iter().chain(group::available()).min()
}

/// Bytes of host memory of the machine, or the limit of its container if that is less. `None` where the
/// system does not report it.
pub fn total() -> Option<u64> {
    of_machine("MemTotal:").into_iter().chain(group::limit()).min()
}

fn of_machine(field: &str) -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, field)
}

/// Bytes of a line such as `VmHWM:     1234 kB`.
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory limits of control groups (cgroups), which containers and job schedulers use.
mod group {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    /// Bytes left in the group of this process or one of its ancestors, whichever has least.
    pub fn available() -> Option<u64> {
        least(left)
    }

    /// The limit of the group of this process or one of its ancestors, whichever is least.
    pub fn limit() -> Option<u64> {
        // A group without a limit may have an impossibly large number.
        least(|folder, [limit, _]| number(folder, limit).filter(|limit| *limit < 1 << 60))
    }

    /// The least number of a group of this process, of those that have one.
    fn least(of: impl Fn(&Path, [&str; 2]) -> Option<u64>) -> Option<u64> {
        let own = read_to_string("/proc/self/cgroup").ok()?;
        let all = own.lines().flat_map(|line| {
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
            folders.filter_map(|folder| of(folder, files)).collect()
        });
        all.min()
    }

    /// Bytes left in a group. A group without a limit has a word there, or an impossibly large number.
    fn left(folder: &Path, [limit, used]: [&str; 2]) -> Option<u64> {
        let used = number(folder, used)?.saturating_sub(reclaimable(folder));
        Some(number(folder, limit)?.saturating_sub(used))
    }

    fn number(folder: &Path, file: &str) -> Option<u64> {
        read_to_string(folder.join(file)).ok()?.trim().parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_available_than_there_is() {
        let (Some(available), Some(total)) = (available(), total()) else { return };
        assert!(available <= total && (1 << 20..1 << 50).contains(&total), "{available} {total}");
    }
}
