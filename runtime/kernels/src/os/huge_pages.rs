//! Memory in huge pages.

/// Bytes of a huge page on x86-64, and on AArch64 with pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Asks the system to back unwritten memory with huge pages, where it covers whole ones. Repeated reads of
/// all of it then have fewer TLB misses.
pub fn advise_huge_pages<T>(memory: &mut [T]) {
    let range = memory.as_mut_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(HUGE), range.end.addr() / HUGE * HUGE);
    #[cfg(target_os = "linux")]
    if start < end {
        let first = memory.as_mut_ptr().with_addr(start);
        // SAFETY: the pages are within memory that is the caller's alone, and their contents stay. A system
        // that has no such pages refuses, which changes nothing.
        unsafe { libc::madvise(first.cast(), end - start, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, end);
}
