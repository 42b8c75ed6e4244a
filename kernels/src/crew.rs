//! Threads that go through the same phases side by side.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Threads that libtorch's operators have, and a crew may have.
pub fn threads() -> usize {
    tch::get_num_threads() as usize
}

/// One of the threads.
pub struct Member<'a> {
    pub index: usize,
    pub count: usize,
    shared: &'a Shared,
}

struct Shared {
    count: usize,
    arrived: AtomicUsize,
    phase: AtomicUsize,
    /// Pieces that were taken in this phase beside each member's first; see [`Member::pieces`].
    taken: AtomicUsize,
    broken: AtomicBool,
}

/// Runs `work` on `count` threads, the calling one among them.
///
/// # Panics
/// If one of them does: the others leave at their next [`Member::wait`].
pub fn together(count: usize, work: impl Fn(Member) + Sync) {
    let count = count.max(1);
    let zero = || AtomicUsize::new(0);
    let shared =
        Shared { count, arrived: zero(), phase: zero(), taken: zero(), broken: AtomicBool::new(false) };
    let member = |index| work(Member { index, count, shared: &shared });
    if count == 1 {
        return member(0);
    }
    if pool::together(count, &member) {
        return;
    }
    std::thread::scope(|scope| {
        let member = &member;
        for index in 1..count {
            scope.spawn(move || member(index));
        }
        member(0);
    });
}

/// The threads of libtorch's own operators. Between two of these they look for work for a while and keep
/// their cores: threads beside them would wait for that.
mod pool {
    use std::any::Any;
    use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, OnceLock};

    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    /// Of the OpenMP library that libtorch brings along.
    struct OpenMp {
        /// Runs a function on so many threads, the calling one among them.
        parallel: unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint),
        thread: unsafe extern "C" fn() -> c_int,
        threads: unsafe extern "C" fn() -> c_int,
    }

    fn open_mp() -> Option<&'static OpenMp> {
        static FOUND: OnceLock<Option<OpenMp>> = OnceLock::new();
        let find = |name: &CStr| {
            // SAFETY: the name is a C string; a null handle asks for what is loaded already.
            let address = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
            (!address.is_null()).then_some(address)
        };
        let found = FOUND.get_or_init(|| {
            let [parallel, thread, threads] =
                [find(c"GOMP_parallel")?, find(c"omp_get_thread_num")?, find(c"omp_get_num_threads")?];
            // SAFETY: functions of these names have these signatures, in every OpenMP library that has them.
            unsafe {
                Some(OpenMp {
                    parallel: std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint),
                    >(parallel),
                    thread: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(thread),
                    threads: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(threads),
                })
            }
        });
        found.as_ref()
    }

    struct Job<'a> {
        open_mp: &'a OpenMp,
        count: usize,
        work: &'a (dyn Fn(usize) + Sync),
        /// There were other than so many threads, so that nobody did anything.
        refused: AtomicBool,
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }

    extern "C" fn run(job: *mut c_void) {
        // SAFETY: `together` waits for all threads with the job on its stack.
        let job = unsafe { &*job.cast::<Job>().cast_const() };
        // SAFETY: these functions only tell.
        let (thread, threads) = unsafe { ((job.open_mp.thread)(), (job.open_mp.threads)()) };
        if usize::try_from(threads) != Ok(job.count) {
            job.refused.store(true, Ordering::Relaxed);
            return;
        }
        // A panic must not go through functions of another language.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(thread as usize))) {
            *job.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }

    /// Whether there were that many threads, and have done the work.
    pub fn together(count: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
        let Some(open_mp) = open_mp() else { return false };
        let job = Job { open_mp, count, work, refused: AtomicBool::new(false), panic: Mutex::new(None) };
        // SAFETY: the function and its argument live until all threads are back, which is when this returns.
        unsafe { (open_mp.parallel)(run, std::ptr::from_ref(&job).cast_mut().cast(), count as c_uint, 0) };
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            resume_unwind(panic);
        }
        !job.refused.into_inner()
    }
}

impl Member<'_> {
    /// Goes on when every member has come here: what they wrote before can be read after.
    pub fn wait(&self) {
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
            assert!(!broken.load(Ordering::Relaxed), "another thread of the crew failed");
            // A phase lasts microseconds: sleeping would take longer than it. Where there are more threads
            // than cores, the one that is waited for needs this one's core.
            turns += 1;
            if turns.is_multiple_of(4096) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// `0..items` in pieces of `unit`, each for the member that comes for it first: where one is slowed down,
    /// by memory or by another program, the others need not wait for its part. Each with the one that the
    /// member does next. A member's first piece is always that of its own index. Once between two
    /// [`Member::wait`]s, and with the same numbers by all members.
    pub fn pieces(
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

    /// This member's part of `0..items`, in pieces of `unit`.
    pub fn part(&self, items: usize, unit: usize) -> Range<usize> {
        let units = items.div_ceil(unit);
        let bound = |index: usize| (units * index / self.count * unit).min(items);
        bound(self.index)..bound(self.index + 1)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// A buffer that members of a crew write different parts of between two [`Member::wait`]s.
pub struct Parts<'a, T> {
    start: *mut T,
    length: usize,
    _borrowed: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a slice whose parts are handed out under the condition that [`Parts::part`] states.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> Parts<'a, T> {
        Parts { start: buffer.as_mut_ptr(), length: buffer.len(), _borrowed: std::marker::PhantomData }
    }

    /// # Safety
    /// Between two waits, no element is in parts of two members unless all of them only read it.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// From where on a member writes, for what is no range: a part of every row of a matrix. What is written
    /// there, it alone may read or write until the next wait, and within the buffer.
    pub fn place(&self, index: usize) -> *mut T {
        assert!(index < self.length);
        // SAFETY: in bounds.
        unsafe { self.start.add(index) }
    }

    /// # Safety
    /// Until the next wait nobody writes.
    pub unsafe fn all(&self) -> &[T] {
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
            let (a, b) = (Parts::new(&mut first), Parts::new(&mut second));
            together(count, |member| {
                for round in 0..50u64 {
                    let part = member.part(37, 4);
                    // SAFETY: parts are apart; a wait stands between writing and reading.
                    for (offset, value) in unsafe { a.part(part.clone()) }.iter_mut().enumerate() {
                        *value = round + (part.start + offset) as u64;
                    }
                    member.wait();
                    // SAFETY: nobody writes `a` before the next wait.
                    let sum = unsafe { a.all() }.iter().sum::<u64>();
                    // SAFETY: parts are apart.
                    unsafe { b.part(part) }.fill(sum);
                    member.wait();
                    // SAFETY: nobody writes `b` before the next wait.
                    assert!(unsafe { b.all() }.iter().all(|&value| value == 37 * round + 36 * 37 / 2));
                    member.wait();
                }
            });
        }
    }

    #[test]
    fn every_piece_is_taken_once_in_every_phase() {
        for count in [1, 3] {
            let taken: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            together(count, |member| {
                for _ in 0..20 {
                    let mut announced = Some(member.index * 7..member.index * 7 + 7);
                    for (piece, next) in member.pieces(50, 7) {
                        assert_eq!(Some(&piece), announced.as_ref());
                        announced = next;
                        for item in piece {
                            taken[item].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    assert_eq!(announced, None);
                    member.wait();
                }
            });
            assert!(taken.iter().all(|taken| taken.load(Ordering::Relaxed) == 20));
        }
    }

    #[test]
    fn a_failure_ends_all() {
        let failed = std::panic::catch_unwind(|| {
            together(3, |member| {
                assert!(member.index != 1, "on purpose");
                member.wait();
            });
        });
        assert!(failed.is_err());
    }
}
