//! The C library's allocator.

/// Returns this process's free memory to the system. Otherwise the allocator keeps freed memory for later:
/// after a large stage, that can be gigabytes that the next stage does not need and other programs can't
/// use.
pub fn trim_heap() {
    // SAFETY: the function takes any number, and locks what it looks at.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Makes the allocator keep freed memory, in one heap for all threads and block sizes. To be called before
/// any thread is started. A training step frees as much as it allocates: memory that went back to the system
/// in between would have to be cleared page by page again, which takes a sixth of a step.
pub fn disable_trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, -1),
        (libc::M_TOP_PAD, 1 << 20),
        (libc::M_MMAP_THRESHOLD, 32 << 20),
    ] {
        // SAFETY: the option exists, and the allocator rejects invalid values.
        unsafe { libc::mallopt(option, value) };
    }
}

/// While this value lives, large blocks are mapped from the system one by one, and unmapped when freed. It
/// occupies the heap's free blocks meanwhile, because the allocator would use those first and keep them.
/// Their pages are not touched.
pub struct MmapLargeBlocksGuard {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    taken: Vec<*mut libc::c_void>,
}

impl MmapLargeBlocksGuard {
    pub fn new(bytes: usize) -> MmapLargeBlocksGuard {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            let threshold = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            for (option, value) in [(libc::M_MMAP_MAX, libc::c_int::MAX), (libc::M_MMAP_THRESHOLD, threshold)]
            {
                // SAFETY: as above.
                unsafe { libc::mallopt(option, value) };
            }
            // The largest free blocks first. Where the heap has no free block of a size, `malloc` maps one
            // from the system, whose address is beyond the heap's end.
            let mut taken = Vec::new();
            let mut size = 1 << 36;
            while size >= bytes.max(1) {
                // SAFETY: the block is freed here or when this is dropped, and never read.
                let (block, end) = unsafe { (libc::malloc(size), libc::sbrk(0)) };
                if !block.is_null() && block.addr() < end.addr() {
                    taken.push(block);
                    continue;
                }
                // SAFETY: it comes from `malloc`, and has no other owner.
                unsafe { libc::free(block) };
                size /= 2;
            }
            MmapLargeBlocksGuard { taken }
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        {
            let _ = bytes;
            MmapLargeBlocksGuard {}
        }
    }
}

impl Drop for MmapLargeBlocksGuard {
    fn drop(&mut self) {
        disable_trim();
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        for block in self.taken.drain(..) {
            // SAFETY: it comes from `malloc`, and has no other owner.
            unsafe { libc::free(block) };
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Runs in a process of its own with a single heap, like a worker.
    #[test]
    fn blocks_beside_a_used_heap_come_from_the_system() {
        const ALONE: &str = "MOPD_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "os::allocator::tests::blocks_beside_a_used_heap_come_from_the_system";
            let done = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(ALONE, "1")
                .env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        disable_trim();
        let in_heap = |block: &Vec<u8>| {
            // SAFETY: the call only returns the heap's end.
            block.as_ptr().addr() < unsafe { libc::sbrk(0) }.addr()
        };
        let block = |mebibytes: usize| Vec::<u8>::with_capacity(mebibytes << 20);
        // Free blocks between others that stay.
        let mut blocks: Vec<_> = (1..40).map(block).collect();
        assert!(blocks.iter().all(in_heap));
        let stay: Vec<_> = blocks.iter_mut().step_by(2).map(std::mem::take).collect();
        drop(blocks);
        assert!(in_heap(&block(3)));
        {
            let _exact = MmapLargeBlocksGuard::new(64 << 10);
            assert!(!(1..50).map(block).any(|of_system| in_heap(&of_system)));
        }
        assert!((1..50).map(block).all(|of_heap| in_heap(&of_heap)));
        drop(stay);
    }
}
