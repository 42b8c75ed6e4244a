//! Formulas in postorder. Formulas share parts, so traversing them as trees could take exponential time; code
//! that searches a formula uses this list instead.

use std::collections::HashSet;
use std::rc::Rc;

use mopd_experiment::formula::{Formula, FormulaNode};

/// The parts of some formulas, each once, operands before users, in the order in which they are read. It is
/// not recursive, because a sum of ten thousand summands is a deep formula.
pub(crate) fn ordered<'a>(
    roots: impl IntoIterator<Item = &'a Formula>,
    operands: impl Fn(&'a Formula) -> Vec<&'a Formula>,
) -> Vec<&'a Formula> {
    let mut known: HashSet<*const FormulaNode> = HashSet::new();
    let mut found = Vec::new();
    for root in roots {
        let mut pending = vec![root];
        while let Some(formula) = pending.last().copied() {
            if known.contains(&Rc::as_ptr(&formula.0)) {
                pending.pop();
                continue;
            }
            let before = pending.len();
            // The first operand is on top.
            let operands = operands(formula).into_iter().rev();
            pending.extend(operands.filter(|operand| !known.contains(&Rc::as_ptr(&operand.0))));
            if pending.len() == before {
                known.insert(Rc::as_ptr(&formula.0));
                found.push(formula);
                pending.pop();
            }
        }
    }
    found
}
