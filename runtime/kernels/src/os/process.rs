use std::process::Child;

/// The id of a single process other than the system's first one.
///
/// For `kill(2)`, 0 means the caller's own group and -1 all processes, so that neither an id of 0 nor the
/// group 1 may get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(libc::pid_t);

impl ProcessId {
    /// `None` if no process of a user has this id.
    pub fn new(id: u32) -> Option<ProcessId> {
        libc::pid_t::try_from(id).ok().filter(|id| *id > 1).map(ProcessId)
    }

    pub fn of(child: &Child) -> Option<ProcessId> {
        ProcessId::new(child.id())
    }

    /// Kills the process. One that has ended is no error.
    pub fn kill(self) {
        send_kill(self.0);
    }

    /// Removes a child of this process that has ended, which nobody else waits for.
    pub fn reap(self) {
        // SAFETY: the call writes nothing where the pointer is null.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::WNOHANG) };
    }

    /// Kills all processes of the group that this process leads. A group that has ended is no error.
    pub fn kill_group(self) {
        send_kill(-self.0);
    }
}

/// Makes this process the parent of processes below it whose parents end, in place of the system's first
/// process. False where the system can't.
pub fn adopt_orphans() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a system call that touches no memory.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

fn send_kill(target: libc::pid_t) {
    // SAFETY: a system call that touches no memory.
    unsafe { libc::kill(target, libc::SIGKILL) };
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    use super::*;

    #[test]
    fn process_id_refuses_what_kill_reads_as_many_processes() {
        for id in [0, 1, 1 << 31, u32::MAX] {
            assert_eq!(ProcessId::new(id), None, "{id}");
        }
        assert!(ProcessId::new(std::process::id()).is_some());
    }

    #[test]
    fn kill_and_kill_group_end_the_child() {
        for kill in [ProcessId::kill, ProcessId::kill_group] {
            let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
            kill(ProcessId::of(&child).unwrap());
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
    }
}
