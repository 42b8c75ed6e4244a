//! A stack large enough for recursion over definitions and formulas, as deep as the limits allow.

/// The stack that the deepest chain of definitions needs ([`crate::check::DEEPEST_CHAIN`]), measured and
/// doubled. Pages are allocated when they are used.
const SIZE: usize = 512 << 20;

/// With this much left, no new stack is allocated.
const ENOUGH: usize = SIZE / 2;

/// Runs `work` with enough stack for the deepest program that the checker accepts.
pub fn with_room<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(ENOUGH, SIZE, work)
}
