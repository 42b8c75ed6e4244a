//! Budgets of a table: what the training of each row cost, in steps or sequences, with or without teachers.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::{Budget, BudgetUnit, ModelId, Normalized, Row, Stage};

use crate::check::declarations::{Declarations, ExperimentParts};

/// Compared rows must have spent alike. A row that others start from, or that scores are normalised by,
/// is a baseline and not compared.
pub fn check_budget(
    declarations: &mut Declarations,
    rows: &[Row],
    normalized: Option<&Normalized>,
    budget: Budget,
    span: Span,
) {
    let scales: Vec<ModelId> =
        normalized.iter().flat_map(|scale| scale.zero.iter().chain(&scale.one).copied()).collect();
    let mut beginnings: Vec<ModelId> = scales;
    for row in rows {
        for model in &row.models {
            let mut before = Vec::new();
            ancestry(&declarations.parts, *model, budget.teachers_charged, &mut before);
            beginnings.extend(before.into_iter().filter(|other| other != model));
        }
    }
    let mut spent: Vec<(String, u64)> = Vec::new();
    for row in rows {
        if row.models.iter().any(|model| beginnings.contains(model)) {
            continue;
        }
        let mut stages = Vec::new();
        for model in &row.models {
            ancestry(&declarations.parts, *model, budget.teachers_charged, &mut stages);
        }
        // Merged weights spend nothing of their own.
        let merged =
            row.models.iter().all(|model| matches!(declarations.parts.model(*model).stage, Stage::Merge(_)));
        if merged && !budget.teachers_charged {
            continue;
        }
        let total: Option<u64> =
            stages.iter().map(|stage| own_cost(&declarations.parts, *stage, budget.unit)).sum();
        match total {
            Some(total) => spent.push((row.label.clone(), total)),
            // The tokens of a completion and the steps of an epoch are known only in the run.
            None => return,
        }
    }
    let Some((first, wanted)) = spent.first().cloned() else { return };
    if let Some((other, total)) = spent.iter().find(|(_, total)| *total != wanted) {
        let unit = match budget.unit {
            BudgetUnit::Steps => "steps",
            BudgetUnit::Sequences => "sequences",
            BudgetUnit::Tokens => "tokens",
        };
        let text = format!("`{first}` was trained with {wanted} {unit}, `{other}` with {total}");
        let help = match budget.teachers_charged {
            true => "change how long one of them trains; what their teachers took is counted",
            false => "change how long one of them trains",
        };
        declarations.report(
            Diagnostic::error(Code::UnequalBudget, span, text)
                .label("every row of this table spends the same")
                .help(help),
        );
    }
}

/// A model and its ancestors in training, each once; with `teachers`, everything that it learnt from as
/// well.
fn ancestry(parts: &ExperimentParts, model: ModelId, teachers: bool, found: &mut Vec<ModelId>) {
    if found.contains(&model) {
        return;
    }
    found.push(model);
    let stage = &parts.model(model).stage;
    if teachers {
        for input in stage.inputs(&parts.teachers) {
            ancestry(parts, input, teachers, found);
        }
        return;
    }
    match stage {
        Stage::Train(train) => ancestry(parts, train.start, teachers, found),
        Stage::Joint(joint) => {
            joint.members.iter().for_each(|member| ancestry(parts, member.start, teachers, found))
        }
        Stage::Member { joint, .. } => ancestry(parts, *joint, teachers, found),
        Stage::Merge(merge) => merge.base.iter().for_each(|base| ancestry(parts, *base, teachers, found)),
        Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => {}
    }
}

/// The cost of the stage itself; `None` where it can't be known before the run.
fn own_cost(parts: &ExperimentParts, model: ModelId, unit: BudgetUnit) -> Option<u64> {
    match &parts.model(model).stage {
        Stage::Train(train) => unit.spent(train, 1),
        Stage::Joint(joint) => joint.steps.iter().map(|step| unit.spent(&step.train, step.every)).sum(),
        _ => Some(0),
    }
}
