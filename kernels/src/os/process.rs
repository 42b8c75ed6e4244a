/// Kills a process, or a process group where the number is negative. A process that has ended is no error.
pub fn kill(process: i32) {
    // SAFETY: a system call that touches no memory.
    unsafe { libc::kill(process, libc::SIGKILL) };
}

/// Ends this process at once, with all threads, without the static destructors of libraries.
///
/// libtorch's destructors unregister every operator, which takes a third of the time of a process that only
/// starts and ends; a thread that still computes would find the tables half empty.
///
/// Unflushed buffers are lost.
pub fn exit_at_once(status: u8) -> ! {
    // SAFETY: a system call that touches no memory and doesn't return.
    unsafe { libc::_exit(status.into()) }
}
