/// Kills a process, or a group of them where the number is negative. One that is gone already is no error.
#[cfg(unix)]
pub fn kill(process: i32) {
    // SAFETY: a system call that touches no memory.
    unsafe { libc::kill(process, libc::SIGKILL) };
}
