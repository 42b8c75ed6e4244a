//! What memory this process holds, as the system counts it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most memory that was held before the count began anew, in bytes.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Most memory that this process has held so far, in bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    peak_since_reset().unwrap_or(0).max(BEFORE.load(Ordering::Relaxed))
}

/// The same since the last [`reset_peak_memory`]; none where the system does not tell.
pub fn peak_since_reset() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Begins the count of [`peak_since_reset`] anew. Answers what is held now, in bytes; none where the system can't.
pub fn reset_peak_memory() -> Option<u64> {
    allocator::give_back();
    BEFORE.fetch_max(peak_since_reset()?, Ordering::Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_since_reset()
}

/// Tells the allocator to keep what is freed for what comes next, in one place for all threads; before there are any. A step of training
/// frees as much as it takes, and asks for it again: memory that went back to the system in between would have to be cleared page by
/// page, which takes a sixth of a step. It goes back where a stage begins ([`reset_peak_memory`]), and where nothing begins.
pub fn keep_what_is_freed() {
    allocator::keep();
}

/// Hands what is free back to the system: another program may want it while this one waits.
pub fn give_back() {
    allocator::give_back();
}

/// Does something while every block of some size goes back to the system as soon as it is free. So what is held is what is
/// needed, also by models that are small enough for the allocator to keep what they free. It is slow.
pub fn exactly<T>(f: impl FnOnce() -> T) -> T {
    struct Usual;
    impl Drop for Usual {
        fn drop(&mut self) {
            allocator::keep();
        }
    }
    allocator::keep_none_above(64 << 10);
    let _usual = Usual;
    f()
}

/// `VmHWM:     1234 kB`
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn malloc_trim(keep: usize) -> c_int;
        fn mallopt(option: c_int, value: c_int) -> c_int;
    }

    const M_TRIM_THRESHOLD: c_int = -1;
    const M_TOP_PAD: c_int = -2;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_MMAP_MAX: c_int = -4;
    const M_ARENA_MAX: c_int = -8;

    /// Hands memory that is free in this process back to the system. The allocator keeps what was freed for later: after a large
    /// stage that would be gigabytes that the next one does not need and another program can't have.
    pub fn give_back() {
        // SAFETY: the function takes any number, and locks what it looks at.
        unsafe { malloc_trim(0) };
    }

    /// Blocks of all sizes come from one heap, and stay in it.
    pub fn keep() {
        for (option, value) in
            [(M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 1 << 20), (M_MMAP_THRESHOLD, 32 << 20)]
        {
            // SAFETY: the option exists, and a value that the allocator does not like it refuses.
            unsafe { mallopt(option, value) };
        }
    }

    /// Larger blocks are asked of the system one by one, and go back as soon as they are free.
    pub fn keep_none_above(bytes: c_int) {
        for (option, value) in [(M_MMAP_MAX, c_int::MAX), (M_MMAP_THRESHOLD, bytes)] {
            // SAFETY: as above.
            unsafe { mallopt(option, value) };
        }
    }
}

/// Other allocators look after themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod allocator {
    pub fn give_back() {}
    pub fn keep() {}
    pub fn keep_none_above(_bytes: i32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_in_bytes() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n"), Some(1234 * 1024));
        assert_eq!(high_water_mark("Name:\tx\n"), None);
        // A test process holds a few megabytes, and not all of any machine.
        let peak = peak_memory();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }
}
