//! A thread pool whose workers run the same phases in parallel, with barriers between them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The token that permits CPU loops, with their number of threads. The runtime creates it in one place, where
/// its tensors are known to be on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    threads: usize,
}

impl Cpu {
    pub const fn new(threads: usize) -> Cpu {
        Cpu { threads: if threads == 0 { 1 } else { threads } }
    }

    pub fn threads(self) -> usize {
        self.threads
    }

    /// The same with another number of threads.
    pub fn with_threads(self, threads: usize) -> Cpu {
        Cpu::new(threads)
    }

    /// Runs `work` on every thread, the calling one included.
    ///
    /// # Panics
    /// If one of them panics: the others stop at their next [`PoolWorker::barrier`].
    pub fn parallel(self, work: impl Fn(PoolWorker) + Sync) {
        parallel(self.threads, work);
    }

    /// Fills a buffer in parts of whole `unit`s, one part per thread. `fill` gets the index at which its part
    /// begins.
    pub fn fill<T: Send>(self, into: &mut [T], unit: usize, fill: impl Fn(usize, &mut [T]) + Sync) {
        let (length, parts) = (into.len(), DisjointSlices::new(into));
        self.parallel(|worker| {
            let range = worker.range(length, unit);
            // SAFETY: workers have disjoint ranges.
            fill(range.start, unsafe { parts.slice_mut(range) });
        });
    }

    /// Runs `work` on every item, each on one thread. Each thread has its own scratch.
    pub fn for_each<T: Send, S: Send>(
        self,
        items: &mut [T],
        scratch: &mut [S],
        work: impl Fn(usize, &mut T, &mut S) + Sync,
    ) {
        assert!(scratch.len() >= self.threads, "every thread has a scratch");
        let (count, items, scratch) = (items.len(), DisjointSlices::new(items), DisjointSlices::new(scratch));
        self.parallel(|worker| {
            // SAFETY: each worker has its own scratch and items.
            let scratch = unsafe { &mut scratch.slice_mut(worker.index..worker.index + 1)[0] };
            for index in worker.range(count, 1) {
                // SAFETY: as above.
                work(index, unsafe { &mut items.slice_mut(index..index + 1)[0] }, scratch);
            }
        });
    }
}

/// A thread of the pool, as its work sees it.
pub struct PoolWorker<'a> {
    pub index: usize,
    pub count: usize,
    shared: &'a Shared,
}

struct Shared {
    count: usize,
    arrived: AtomicUsize,
    phase: AtomicUsize,
    /// Chunks that were taken in this phase, each worker's first one excepted; see [`PoolWorker::chunks`].
    taken: AtomicUsize,
    broken: AtomicBool,
}

fn parallel(count: usize, work: impl Fn(PoolWorker) + Sync) {
    let zero = || AtomicUsize::new(0);
    let shared =
        Shared { count, arrived: zero(), phase: zero(), taken: zero(), broken: AtomicBool::new(false) };
    let worker = |index| work(PoolWorker { index, count, shared: &shared });
    if count == 1 {
        return worker(0);
    }
    if openmp::parallel(count, &worker) {
        return;
    }
    std::thread::scope(|scope| {
        let worker = &worker;
        for index in 1..count {
            scope.spawn(move || worker(index));
        }
        worker(0);
    });
}

/// Runs work on the OpenMP threads of libtorch's own operators. These spin for a while after each operator
/// and keep their cores: other threads would have to wait for them.
mod openmp {
    use std::any::Any;
    use std::ffi::{c_uint, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::symbols::{OpenMp, open_mp};

    struct Job<'a> {
        open_mp: &'a OpenMp,
        count: usize,
        work: &'a (dyn Fn(usize) + Sync),
        /// Whether OpenMP started another number of threads, so that no work was done.
        refused: AtomicBool,
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }

    extern "C" fn run(job: *mut c_void) {
        // SAFETY: `parallel` waits for all threads with the job on its stack.
        let job = unsafe { &*job.cast::<Job>().cast_const() };
        // SAFETY: these functions only return numbers.
        let (thread, threads) = unsafe { ((job.open_mp.thread)(), (job.open_mp.threads)()) };
        if usize::try_from(threads) != Ok(job.count) {
            job.refused.store(true, Ordering::Relaxed);
            return;
        }
        // A panic must not unwind through functions of another language.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(thread as usize))) {
            *job.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }

    /// Runs the work; returns false, without running it, if OpenMP did not start `count` threads.
    pub fn parallel(count: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        let Some(open_mp) = open_mp() else { return false };
        let job = Job { open_mp, count, work, refused: AtomicBool::new(false), panic: Mutex::new(None) };
        // SAFETY: the function and its argument live until all threads are done, which is when this returns.
        unsafe { (open_mp.parallel)(run, std::ptr::from_ref(&job).cast_mut().cast(), count as c_uint, 0) };
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            resume_unwind(panic);
        }
        !job.refused.into_inner()
    }
}

impl PoolWorker<'_> {
    /// Waits until every worker has arrived: writes before the barrier are visible after it.
    pub fn barrier(&self) {
        let Shared { count, arrived, phase, taken, broken } = self.shared;
        if *count == 1 {
            taken.store(0, Ordering::Relaxed);
            return;
        }
        let before = phase.load(Ordering::Acquire);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == *count {
            arrived.store(0, Ordering::Relaxed);
            taken.store(0, Ordering::Relaxed);
            phase.store(before.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut turns = 0u32;
        while phase.load(Ordering::Acquire) == before {
            assert!(!broken.load(Ordering::Relaxed), "another thread of the pool failed");
            // A phase lasts microseconds, less than going to sleep takes. With more threads than cores, the
            // thread that is waited for needs this one's core, hence the yield.
            turns += 1;
            if turns.is_multiple_of(4096) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Splits `0..items` into chunks of `unit`, taken dynamically, so that a worker that is slowed down, by
    /// memory or another program, takes fewer. Yields this worker's chunks, each with the one it does next. A
    /// worker's first chunk is always that of its own index. To be called at most once between two
    /// [`PoolWorker::barrier`]s, and by all workers with the same arguments.
    pub fn chunks(
        &self,
        items: usize,
        unit: usize,
    ) -> impl Iterator<Item = (Range<usize>, Option<Range<usize>>)> {
        let range =
            move |index: usize| (index * unit < items).then(|| index * unit..((index + 1) * unit).min(items));
        let mut next = range(self.index);
        std::iter::from_fn(move || {
            let piece = next.take()?;
            next = range(self.count + self.shared.taken.fetch_add(1, Ordering::Relaxed));
            Some((piece, next.clone()))
        })
    }

    /// This worker's part of `0..items`, in whole `unit`s.
    pub fn range(&self, items: usize, unit: usize) -> Range<usize> {
        let units = items.div_ceil(unit);
        let bound = |index: usize| (units * index / self.count * unit).min(items);
        bound(self.index)..bound(self.index + 1)
    }
}

impl Drop for PoolWorker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// A buffer of which workers write disjoint parts between two [`PoolWorker::barrier`]s.
pub struct DisjointSlices<'a, T> {
    start: *mut T,
    length: usize,
    _borrowed: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: a part is used by one worker at a time, as [`DisjointSlices::slice_mut`] requires, so elements are
// only sent. [`DisjointSlices::as_slice`] shares them, and requires `T: Sync`.
unsafe impl<T: Send> Sync for DisjointSlices<'_, T> {}

impl<'a, T> DisjointSlices<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> DisjointSlices<'a, T> {
        DisjointSlices {
            start: buffer.as_mut_ptr(),
            length: buffer.len(),
            _borrowed: std::marker::PhantomData,
        }
    }

    /// # Safety
    /// No element is in two parts that are used between the same two barriers.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// A pointer for writes to a part that is not a range, such as some columns of a matrix. The writes must
    /// stay within the buffer, and until the next barrier only this worker may access what it writes.
    pub fn pointer_at(&self, index: usize) -> *mut T {
        assert!(index < self.length);
        // SAFETY: in bounds.
        unsafe { self.start.add(index) }
    }

    /// # Safety
    /// Until the next barrier no worker writes to the buffer.
    pub unsafe fn as_slice(&self) -> &[T]
    where
        T: Sync,
    {
        // SAFETY: in bounds, and shared by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_see_what_the_phase_before_wrote() {
        for count in [1, 2, 5] {
            let (mut first, mut second) = (vec![0u64; 37], vec![0u64; 37]);
            let (a, b) = (DisjointSlices::new(&mut first), DisjointSlices::new(&mut second));
            parallel(count, |worker| {
                for round in 0..50u64 {
                    let part = worker.range(37, 4);
                    // SAFETY: parts are disjoint; a barrier separates writing and reading.
                    for (offset, value) in unsafe { a.slice_mut(part.clone()) }.iter_mut().enumerate() {
                        *value = round + (part.start + offset) as u64;
                    }
                    worker.barrier();
                    // SAFETY: no worker writes `a` before the next barrier.
                    let sum = unsafe { a.as_slice() }.iter().sum::<u64>();
                    // SAFETY: parts are apart.
                    unsafe { b.slice_mut(part) }.fill(sum);
                    worker.barrier();
                    // SAFETY: no worker writes `b` before the next barrier.
                    assert!(unsafe { b.as_slice() }.iter().all(|&value| value == 37 * round + 36 * 37 / 2));
                    worker.barrier();
                }
            });
        }
    }

    #[test]
    fn every_piece_is_taken_once_in_every_phase() {
        for count in [1, 3] {
            let taken: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            parallel(count, |worker| {
                for _ in 0..20 {
                    let mut announced = Some(worker.index * 7..worker.index * 7 + 7);
                    for (piece, next) in worker.chunks(50, 7) {
                        assert_eq!(Some(&piece), announced.as_ref());
                        announced = next;
                        for item in piece {
                            taken[item].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    assert_eq!(announced, None);
                    worker.barrier();
                }
            });
            assert!(taken.iter().all(|taken| taken.load(Ordering::Relaxed) == 20));
        }
    }

    #[test]
    fn panic_of_one_worker_ends_all_workers() {
        let failed = std::panic::catch_unwind(|| {
            parallel(3, |worker| {
                assert!(worker.index != 1, "on purpose");
                worker.barrier();
            });
        });
        assert!(failed.is_err());
    }
}
