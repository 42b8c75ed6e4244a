//! Converts numbers that depend only on a row of the data.

use std::collections::HashMap;

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode, Signal};
use mopd_lang::diag::Code;
use mopd_plan::{DataFormula, DataNode};

use super::{Converted, Diagnostic, refused};
use crate::lower::refusal::Origins;

/// The formula for a plan. The checker accepts formulas of the data only; `other` names others in the error.
pub fn formula(formula: &Formula, other: &str, origins: Origins) -> Converted<DataFormula> {
    let mut nodes: Vec<DataNode> = Vec::new();
    // Shared parts of formulas are converted once. Not recursive, since formulas may be deep.
    let mut known: HashMap<*const FormulaNode, u32> = HashMap::new();
    let mut pending = vec![formula];
    while let Some(formula) = pending.last().copied() {
        let address = |formula: &Formula| std::rc::Rc::as_ptr(&formula.0);
        if known.contains_key(&address(formula)) {
            pending.pop();
            continue;
        }
        let before = pending.len();
        pending
            .extend(formula.operands().into_iter().filter(|operand| !known.contains_key(&address(operand))));
        if pending.len() > before {
            continue;
        }
        let node = match &formula.0.kind {
            FormulaKind::Number(value) if value.is_finite() => DataNode::Number { value: *value },
            FormulaKind::Number(value) => {
                let message =
                    format!("a number that data is compared with is {value}, which is not a finite number");
                return Err(
                    Diagnostic::error(Code::OutOfRange, origins.span(formula.0.origin), message).into()
                );
            }
            FormulaKind::Signal(Signal::Data { field }) => DataNode::Field { field: field.clone() },
            FormulaKind::Signal(Signal::DataIs { field, text }) => {
                DataNode::FieldIs { field: field.clone(), text: text.clone() }
            }
            FormulaKind::Apply { function, operands } => {
                let operands = operands.iter().map(|operand| known[&address(operand)]).collect();
                DataNode::Apply { function: *function, operands }
            }
            _ => return Err(refused(origins.span(formula.0.origin), other)),
        };
        known.insert(address(formula), nodes.len() as u32);
        nodes.push(node);
        pending.pop();
    }
    Ok(DataFormula { nodes })
}
