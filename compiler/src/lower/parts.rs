//! Selects the parts of a formula that become nodes.

use mopd_experiment::formula::{self as checked, Formula, FormulaKind, FormulaNode};
use mopd_plan::Function;

/// The parts of a formula that become separate nodes. The parts of a divergence belong to the primitive.
pub(super) fn operands(formula: &FormulaNode) -> Vec<&Formula> {
    match &formula.kind {
        FormulaKind::Apply { .. } if switched_off(formula) => Vec::new(),
        FormulaKind::Apply { .. }
        | FormulaKind::Reduce { .. }
        | FormulaKind::Statistic { .. }
        | FormulaKind::Scan { .. }
        | FormulaKind::Memory { .. }
        | FormulaKind::Live(
            checked::Live::Preference(_)
            | checked::Live::SquaredError { .. }
            | checked::Live::BinaryCrossEntropy { .. },
        )
        | FormulaKind::Across { .. } => formula.operands(),
        FormulaKind::Number(_)
        | FormulaKind::Schedule(_)
        | FormulaKind::Adaptive(_)
        | FormulaKind::Signal(_)
        | FormulaKind::Live(_)
        | FormulaKind::Variable(_)
        | FormulaKind::Entry(_) => Vec::new(),
    }
}

/// Whether a formula is a product with the literal 0.
pub(super) fn switched_off(formula: &FormulaNode) -> bool {
    match &formula.kind {
        FormulaKind::Apply { function: Function::Multiply, operands } => {
            operands.iter().any(|operand| operand.constant() == Some(0.0))
        }
        _ => false,
    }
}
