//! Memory in large pages.

/// Bytes of a page of the larger kind on the processors that there are.
const HUGE: usize = 2 << 20;

/// Asks the system to back memory that nobody has written yet with large pages, as far as it lies within
/// whole ones. Whoever reads all of it again and again waits for fewer translations of addresses.
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
