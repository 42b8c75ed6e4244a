//! The C library's allocator.

/// Hands memory that is free in this process back to the system. The allocator keeps what was freed for
/// later: after a large stage that would be gigabytes that the next one does not need and another program
/// can't have.
pub fn trim_heap() {
    // SAFETY: the function takes any number, and locks what it looks at.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Keeps what is freed for what comes next, in one heap for all threads and for blocks of all sizes; before
/// there are any. A step of training frees as much as it takes, and asks for it again: memory that went back
/// to the system in between would have to be cleared page by page, which takes a sixth of a step.
pub fn disable_trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, -1),
        (libc::M_TOP_PAD, 1 << 20),
        (libc::M_MMAP_THRESHOLD, 32 << 20),
    ] {
        // SAFETY: the option exists, and a value that the allocator does not like it refuses.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Larger blocks are asked of the system one by one, and go back as soon as they are free, until the next
/// [`disable_trim`].
pub fn return_blocks_above(bytes: i32) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [(libc::M_MMAP_MAX, i32::MAX), (libc::M_MMAP_THRESHOLD, bytes)] {
        // SAFETY: as above.
        unsafe { libc::mallopt(option, value) };
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = bytes;
}
