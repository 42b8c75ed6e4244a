//! A stack large enough for recursion over definitions and formulas, as deep as the limits allow.

use std::io;
use std::thread;

/// The stack that the deepest chain of definitions needs (`DEEPEST_CHAIN` of `mopd-lang`), measured and
/// doubled. Pages are allocated when they are used.
const SIZE: usize = 512 << 20;

/// With this much left, no new stack is allocated.
const ENOUGH: usize = SIZE / 2;

/// Bytes of address space that [`on_new_thread`] reserves.
pub const RESERVED: usize = SIZE;

/// Runs `work` with enough stack for the deepest program that the checker accepts.
pub fn with_room<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(ENOUGH, SIZE, work)
}

/// Runs `work` on a thread with so much stack that [`with_room`] allocates none there: where memory is short,
/// that fails in the middle of the work. `None` if `work` panicked.
///
/// # Errors
/// If there is not enough address space, or another thread is not allowed.
pub fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<Option<T>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("main".to_owned()).stack_size(RESERVED);
        Ok(thread.spawn_scoped(scope, work)?.join().ok())
    })
}
