//! Measures whether the threads of this process wait for cores.

use std::collections::HashMap;
use std::time::Duration;

/// For each thread of the process, by its id, how long it was ready to run but had no core. Empty where the
/// system does not report it.
pub struct CoreContention(HashMap<String, Duration>);

impl CoreContention {
    /// As Linux counts them (`Documentation/scheduler/sched-stats.rst`): the second number of a thread's
    /// `schedstat`, in nanoseconds.
    pub fn now() -> CoreContention {
        let waited = |thread: std::fs::DirEntry| {
            let counted = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let nanoseconds = counted.split_whitespace().nth(1)?.parse().ok()?;
            let number = thread.file_name().into_string().ok()?;
            Some((number, Duration::from_nanos(nanoseconds)))
        };
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        CoreContention(threads.filter_map(waited).collect())
    }

    /// The longest wait of a thread since `before`.
    pub fn longest_since(&self, before: &CoreContention) -> Duration {
        let since = |(number, waited): (&String, &Duration)| {
            waited.saturating_sub(before.0.get(number).copied().unwrap_or_default())
        };
        self.0.iter().map(since).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn where_more_threads_run_than_there_are_cores_one_waits() {
        let before = CoreContention::now();
        if before.0.is_empty() {
            return;
        }
        assert_eq!(before.longest_since(&before), Duration::ZERO);
        let (cores, over) = (std::thread::available_parallelism().unwrap().get(), AtomicBool::new(false));
        let waited = std::thread::scope(|scope| {
            for _ in 0..2 * cores {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop()
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(200));
            let waited = CoreContention::now().longest_since(&before);
            over.store(true, Ordering::Relaxed);
            waited
        });
        assert!(waited > Duration::ZERO);
    }
}
