//! Peak memory of a task, measured only where no other task ran, because the system counts per process.

use std::sync::atomic::{AtomicUsize, Ordering};

use mopd_kernels::os::trim_heap;

use crate::machine::memory::{peak_of, reset_peak_of};
use crate::machine::place::Place;

/// Counts the running tasks of a run.
pub struct Tasks {
    place: Place,
    running: AtomicUsize,
    begun: AtomicUsize,
}

/// A running task.
pub struct RunningTask<'a> {
    tasks: &'a Tasks,
    /// The task's number, if no other task ran when it began.
    exclusive: Option<usize>,
}

impl Tasks {
    pub fn at(place: Place) -> Tasks {
        Tasks { place, running: AtomicUsize::new(0), begun: AtomicUsize::new(0) }
    }

    pub fn begin(&self) -> RunningTask<'_> {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        // The previous task's free memory is fragmented by small blocks in use: without a trim, large blocks
        // of this task would add to it.
        trim_heap();
        let exclusive = (others == 0 && reset_peak_of(self.place).is_some()).then_some(number);
        RunningTask { tasks: self, exclusive }
    }
}

impl RunningTask<'_> {
    /// Peak memory of this process on the models' device since the task began, in bytes; `None` if another
    /// task ran meanwhile, or if the system does not report it.
    pub fn peak_memory(&self) -> Option<u64> {
        let last = self.tasks.begun.load(Ordering::SeqCst).checked_sub(1);
        if self.exclusive.is_some() && self.exclusive == last { peak_of(self.tasks.place) } else { None }
    }
}

impl Drop for RunningTask<'_> {
    fn drop(&mut self) {
        self.tasks.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_of_what_ran_alone() {
        let tasks = Tasks::at(Place::cpu());
        let first = tasks.begin();
        let exclusive = first.peak_memory().is_some();
        let second = tasks.begin();
        assert_eq!((first.peak_memory(), second.peak_memory()), (None, None));
        drop(second);
        assert_eq!(first.peak_memory(), None, "the other has been there");
        drop(first);
        // Where the system reports it.
        assert_eq!(tasks.begin().peak_memory().is_some(), exclusive);
    }
}
