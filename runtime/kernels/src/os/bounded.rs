//! Runs untrusted code, such as chat templates, within limits of memory, stack and time.
//!
//! One instruction of a template can allocate any amount of memory, and a value can contain itself, so that
//! printing or parsing it overflows the stack; the template engine's own limit counts instructions only. So
//! the engine runs on its own thread, whose allocations are counted. When the thread holds too much memory,
//! or its stack is nearly full, it is suspended for ever and the caller gets an error. Its memory, which is
//! bounded, is never freed. The thread is suspended before it enters the allocator, or by the stack's guard
//! page in other code, so that it holds no lock that other threads need.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Most bytes that may be allocated at a time.
const MEMORY: isize = 256 << 20;
/// Bytes of stack.
const STACK: usize = 64 << 20;
/// Bytes of the stack that are reserved for the allocator.
const RESERVE: usize = 512 << 10;
/// Interval at which the caller checks whether the thread was stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The limit that was exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    Memory,
    Depth,
    /// The time that runs share ([`TimeBudget`]), and what each has besides.
    Time {
        shared: Duration,
        each: Duration,
    },
    /// The engine panicked, with this message.
    Panic(String),
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitExceeded::Memory => write!(f, "takes more than {} MiB of memory", MEMORY >> 20),
            LimitExceeded::Depth => write!(f, "nests deeper than {} MiB of stack hold", STACK >> 20),
            LimitExceeded::Time { shared, each } => write!(
                f,
                "takes longer than {} ms for each conversation and {} s for all of them together",
                each.as_millis(),
                shared.as_secs_f64()
            ),
            LimitExceeded::Panic(words) => write!(f, "makes the template engine fail: {words}"),
        }
    }
}

/// Processor time for all runs of one piece of code. Each run has some of its own; what it takes beyond that
/// is shared, so that many runs can't take many times as long as one may. What runs leave of their own
/// refills the shared part.
#[derive(Debug)]
pub struct TimeBudget {
    each: Duration,
    shared: Duration,
    /// Nanoseconds left of the shared part.
    left: AtomicU64,
}

impl TimeBudget {
    pub fn new(each: Duration, shared: Duration) -> TimeBudget {
        TimeBudget { each, shared, left: AtomicU64::new(nanoseconds(shared)) }
    }

    /// Time for a run that begins now.
    fn limit(&self) -> Duration {
        self.each + Duration::from_nanos(self.left.load(Ordering::Relaxed))
    }

    /// Adds to what is left of the shared part.
    pub fn earn(&self, time: Duration) {
        let most = nanoseconds(self.shared);
        self.change(|left| left.saturating_add(nanoseconds(time)).min(most));
    }

    fn spend(&self, used: Duration) {
        match used.checked_sub(self.each) {
            Some(beyond) => self.change(|left| left.saturating_sub(nanoseconds(beyond))),
            None => self.earn(self.each - used),
        }
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let changed = |left| Some(change(left));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const RUNS: u8 = 0;
const STOPPED_FOR_MEMORY: u8 = 1;
const STOPPED_FOR_DEPTH: u8 = 2;
/// The thread took too long, and is to be stopped at its next allocation.
const TO_BE_STOPPED: u8 = 3;

thread_local! {
    // Without destructors, so that the allocator and a signal handler can read them at any moment.
    /// The state of this thread; null while it runs no bounded work.
    static STATE: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
    /// Bytes that it allocated and did not free.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The lowest address that its stack may reach.
    static FLOOR: Cell<usize> = const { Cell::new(0) };
    static SANDBOX_THREAD: RefCell<Option<SandboxThread>> = const { RefCell::new(None) };
}

/// The thread that runs this thread's bounded work.
struct SandboxThread {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    state: &'static AtomicU8,
    clock: ThreadClock,
}

/// Runs `work` within the limits and within the time of a budget. `work` must own its data, because a stopped
/// thread keeps it for ever.
pub fn run<T: Send + 'static>(
    budget: &TimeBudget,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LimitExceeded> {
    let failed = |words: &dyn fmt::Display| LimitExceeded::Panic(words.to_string());
    let sandbox = match SANDBOX_THREAD.take() {
        Some(sandbox) => sandbox,
        None => start().map_err(|error| failed(&error))?,
    };
    let (state, (answer, answered)) = (sandbox.state, channel());
    state.store(RUNS, Ordering::SeqCst);
    let job = move || {
        HELD.set(0);
        STATE.set(state);
        let result = catch_unwind(AssertUnwindSafe(work));
        STATE.set(ptr::null());
        // The caller may have given up waiting.
        let _ = answer.send(result);
    };
    sandbox.jobs.send(Box::new(job)).map_err(|_| failed(&"its thread is gone"))?;
    let began = sandbox.clock.now();
    let used = || sandbox.clock.now().saturating_sub(began);
    loop {
        match answered.recv_timeout(POLL_INTERVAL) {
            Ok(result) => {
                budget.spend(used());
                SANDBOX_THREAD.set(Some(sandbox));
                return result.map_err(|panic| failed(&words(panic.as_ref())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(failed(&"its thread is gone")),
            Err(RecvTimeoutError::Timeout) => match state.load(Ordering::SeqCst) {
                STOPPED_FOR_MEMORY => return Err(LimitExceeded::Memory),
                STOPPED_FOR_DEPTH => return Err(LimitExceeded::Depth),
                _ if used() > budget.limit() => {
                    // Fails if the thread stopped itself at this moment; it stays stopped then.
                    let _ = state.compare_exchange(RUNS, TO_BE_STOPPED, Ordering::SeqCst, Ordering::SeqCst);
                    budget.spend(used());
                    return Err(LimitExceeded::Time { shared: budget.shared, each: budget.each });
                }
                _ => {}
            },
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

fn start() -> io::Result<SandboxThread> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(fault::install);
    let state: &'static AtomicU8 = Box::leak(Box::new(AtomicU8::new(RUNS)));
    let (jobs, work) = channel::<Box<dyn FnOnce() + Send>>();
    let (started, clock) = channel();
    std::thread::Builder::new().name("template".to_owned()).stack_size(STACK).spawn(move || {
        FLOOR.set(fault::stack_end() + RESERVE);
        fault::own_signal_stack();
        let _ = started.send(ThreadClock::of_this_thread());
        work.into_iter().for_each(|job| job());
    })?;
    let clock = clock.recv().map_err(io::Error::other)?;
    Ok(SandboxThread { jobs, state, clock })
}

/// The processor time of a thread, which other threads can read: on a busy machine, time goes by in which a
/// thread does nothing.
#[derive(Clone, Copy)]
struct ThreadClock {
    #[cfg(target_os = "linux")]
    id: libc::clockid_t,
    began: Instant,
}

impl ThreadClock {
    fn of_this_thread() -> ThreadClock {
        #[cfg(target_os = "linux")]
        let id = {
            let mut id = libc::CLOCK_MONOTONIC;
            // SAFETY: the call writes the id, or leaves the clock of the whole system there.
            unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
            id
        };
        ThreadClock {
            #[cfg(target_os = "linux")]
            id,
            began: Instant::now(),
        }
    }

    fn now(self) -> Duration {
        #[cfg(target_os = "linux")]
        {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the call writes into `time`.
            if unsafe { libc::clock_gettime(self.id, &mut time) } == 0 {
                return Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
            }
        }
        self.began.elapsed()
    }
}

/// The allocator of every program that links this crate.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The system's allocator, which counts the allocations of threads with bounded work.
struct CountingAllocator;

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: by the caller's promise, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[inline]
fn count(bytes: isize) {
    let state = STATE.get();
    if !state.is_null() {
        bounded(state, bytes);
    }
}

#[cold]
#[inline(never)]
fn bounded(state: *const AtomicU8, bytes: isize) {
    // SAFETY: states are never freed.
    let state = unsafe { &*state };
    let here = ptr::from_ref(&bytes).addr();
    let held = HELD.get().saturating_add(bytes);
    HELD.set(held);
    if here < FLOOR.get() {
        stop(state, STOPPED_FOR_DEPTH);
    }
    if bytes > 0 && held > MEMORY {
        stop(state, STOPPED_FOR_MEMORY);
    }
    if state.load(Ordering::Relaxed) == TO_BE_STOPPED {
        stop(state, TO_BE_STOPPED);
    }
}

fn stop(state: &AtomicU8, why: u8) -> ! {
    state.store(why, Ordering::SeqCst);
    loop {
        fault::sleep();
    }
}

/// The end of a stack, and the handler of faults beyond it.
mod fault {
    use std::mem::{MaybeUninit, zeroed};
    use std::ptr;
    use std::sync::OnceLock;

    use super::{STACK, STATE, STOPPED_FOR_DEPTH, stop};

    /// Bytes of the stack that the handler runs on.
    const SIGNAL_STACK: usize = 256 << 10;

    /// The process's previous handlers of these signals.
    static BEFORE: OnceLock<[libc::sigaction; 2]> = OnceLock::new();
    const FAULTS: [libc::c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

    pub fn install() {
        let before = FAULTS.map(|signal| {
            let mut before = MaybeUninit::zeroed();
            // SAFETY: with a null action, the call only reads the current one.
            unsafe {
                libc::sigaction(signal, ptr::null(), before.as_mut_ptr());
                before.assume_init()
            }
        });
        let _ = BEFORE.set(before);
        for signal in FAULTS {
            // SAFETY: a zeroed action is valid; the handler has the signature that the flag promises.
            unsafe {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        }
    }

    /// Safe code of a bounded thread faults only where its stack ends. On other threads, the previous handler
    /// runs.
    extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let state = STATE.get();
        if !state.is_null() {
            // SAFETY: states are never freed.
            stop(unsafe { &*state }, STOPPED_FOR_DEPTH);
        }
        let index = usize::from(signal == FAULTS[1]);
        // SAFETY: the action was the system's own; a handler has one of two signatures, and the flags say
        // which.
        unsafe {
            let before = BEFORE.get().map_or(zeroed(), |before| before[index]);
            match before.sa_sigaction {
                libc::SIG_DFL | libc::SIG_IGN => {
                    // The fault happens again, and ends the process.
                    libc::signal(signal, libc::SIG_DFL);
                }
                handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                }
                handler => {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
    }

    /// Gives this thread a signal stack, because a handler can't run on a full stack.
    pub fn own_signal_stack() {
        let stack = Box::leak(vec![0u8; SIGNAL_STACK].into_boxed_slice());
        let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK };
        // SAFETY: the memory is never freed.
        unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
    }

    /// The lowest address of this thread's stack.
    #[cfg(target_os = "linux")]
    pub fn stack_end() -> usize {
        let (mut start, mut size) = (ptr::null_mut(), 0);
        // SAFETY: the attributes are filled in before they are read, and destroyed afterwards.
        let found = unsafe {
            let mut attributes = MaybeUninit::zeroed();
            let found = libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) == 0
                && libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size) == 0;
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            found
        };
        if found { start.addr() } else { stack_end_estimate() }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn stack_end() -> usize {
        stack_end_estimate()
    }

    /// An estimate for a thread that has just started; the system uses some of its stack itself.
    fn stack_end_estimate() -> usize {
        let local = 0u8;
        ptr::from_ref(&local).addr().saturating_sub(STACK) + (1 << 20)
    }

    pub fn sleep() {
        // SAFETY: it waits for a signal.
        unsafe { libc::pause() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LimitExceeded> {
        super::run(&TimeBudget::new(Duration::from_secs(20), Duration::ZERO), work)
    }

    #[inline(never)]
    fn deep(level: u64) -> u64 {
        let numbers = std::hint::black_box([level; 16]);
        if level == u64::MAX { 0 } else { deep(numbers[3] + 1) + numbers[7] }
    }

    #[inline(never)]
    fn deep_with_memory(level: u64) -> u64 {
        let numbers = std::hint::black_box(vec![level; 2]);
        if level == u64::MAX { 0 } else { deep_with_memory(numbers[0] + 1) + numbers[1] }
    }

    /// Each excess ends with an error, and later work succeeds.
    #[test]
    fn too_much_is_stopped_and_the_process_goes_on() {
        assert_eq!(run(|| 6 * 7), Ok(42));
        assert_eq!(run(|| vec![1u8; 10 << 30].len()), Err(LimitExceeded::Memory));
        assert_eq!(run(|| deep(0)), Err(LimitExceeded::Depth));
        assert_eq!(run(|| deep_with_memory(0)), Err(LimitExceeded::Depth));
        let growing = || {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![0u8; 1000]);
            }
        };
        assert_eq!(run::<()>(growing), Err(LimitExceeded::Memory));
        let taken_and_freed = || (0..10_000).map(|_| vec![0u8; 1 << 20].len()).sum::<usize>();
        assert_eq!(run(taken_and_freed), Ok(10_000 << 20), "what was given back does not count");
        assert_eq!(
            run(|| -> u8 { panic!("on purpose") }),
            Err(LimitExceeded::Panic("on purpose".to_owned()))
        );
        assert_eq!(run(|| 6 * 7), Ok(42));
        // Other threads use the allocator as before, also for more.
        assert_eq!(std::thread::spawn(|| vec![0u8; 300 << 20].len()).join().unwrap(), 300 << 20);
    }

    fn busy(time: Duration) -> usize {
        let began = ThreadClock::of_this_thread();
        let start = began.now();
        let mut taken = 0;
        while began.now() - start < time {
            taken += vec![0u8; 100].len();
        }
        taken
    }

    /// What one run takes too long, the others lack.
    #[test]
    fn runs_share_their_time() {
        let ms = Duration::from_millis;
        let budget = TimeBudget::new(ms(50), ms(300));
        let exceeded = LimitExceeded::Time { shared: ms(300), each: ms(50) };
        let mut done = 0;
        let stopped = (0..100).find_map(|_| {
            let outcome = super::run(&budget, move || busy(ms(150)));
            done += usize::from(outcome.is_ok());
            outcome.err()
        });
        assert_eq!(stopped, Some(exceeded.clone()));
        assert!((2..=3).contains(&done), "{done}");
        // A run within its own time goes on, and refills what is shared.
        assert!(super::run(&budget, || 1).is_ok());
        (0..4).for_each(|_| assert!(super::run(&budget, || 1).is_ok()));
        assert!(super::run(&budget, move || busy(ms(150))).is_ok());
        assert_eq!(super::run(&budget, move || busy(ms(400))), Err(exceeded));
        budget.earn(ms(1_000));
        assert_eq!(budget.limit(), ms(350));
    }
}
