//! What is declared of a function along an axis, however it computes.

use crate::Unit;

/// One entry of the tables of reductions, statistics, scans and memory.
#[derive(Clone, Copy, Debug)]
pub struct OperatorEntry {
    pub name: &'static str,
    /// How it is written, for help texts.
    pub usage: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// The unit of the result, given that of the elements.
    pub unit: fn(Unit) -> Unit,
}

pub(crate) fn same(of: Unit) -> Unit {
    of
}
