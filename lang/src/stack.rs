//! Room on the stack for what walks down definitions and formulas, as far down as the limits let them go.

/// What the deepest chain of definitions needs ([`crate::check::DEEPEST_CHAIN`]), measured and doubled. Pages
/// are taken as they are used.
const SIZE: usize = 512 << 20;

/// With so much left, there is enough.
const ENOUGH: usize = SIZE / 2;

/// Runs `work` with room for the deepest program that the checker lets through.
pub fn with_room<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(ENOUGH, SIZE, work)
}
