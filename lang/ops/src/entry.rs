//! The table entry of a function along an axis.

use crate::Unit;

/// One entry of the tables of reductions, statistics, scans and memory.
#[derive(Clone, Copy, Debug)]
pub struct OperatorEntry {
    pub name: &'static str,
    /// The syntax of a call, for help texts.
    pub usage: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// The unit of the result, from the unit of the elements.
    pub unit: fn(Unit) -> Unit,
}

pub(crate) fn same(of: Unit) -> Unit {
    of
}
