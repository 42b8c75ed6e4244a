//! Budgets of a table: what the training of each row cost, in steps or sequences, with or without teachers.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::{Budget, BudgetUnit, ModelId, Normalized, Row, Stage};

use crate::check::Checker;

impl Checker {
    /// Compared rows must have spent alike. A row that others start from, or that scores are normalised by,
    /// is a baseline and not compared.
    pub(in crate::check) fn check_budget(
        &mut self,
        rows: &[Row],
        normalized: Option<&Normalized>,
        budget: Budget,
        place: Span,
    ) {
        let scales: Vec<ModelId> =
            normalized.iter().flat_map(|scale| scale.zero.iter().chain(&scale.one).copied()).collect();
        let mut beginnings: Vec<ModelId> = scales;
        for row in rows {
            for model in &row.models {
                let mut before = Vec::new();
                self.ancestry(*model, budget.teachers_charged, &mut before);
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
                self.ancestry(*model, budget.teachers_charged, &mut stages);
            }
            // Merged weights spend nothing of their own.
            let merged = row.models.iter().all(|model| matches!(self.model(*model).stage, Stage::Merge(_)));
            if merged && !budget.teachers_charged {
                continue;
            }
            let total: Option<u64> = stages.iter().map(|stage| self.own_cost(*stage, budget.unit)).sum();
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
            self.report(
                Diagnostic::error(Code::UnequalBudget, place, text)
                    .label("every row of this table spends the same")
                    .help(help),
            );
        }
    }

    /// A model and its ancestors in training, each once; with `teachers`, everything that it learnt from as
    /// well.
    fn ancestry(&self, model: ModelId, teachers: bool, found: &mut Vec<ModelId>) {
        if found.contains(&model) {
            return;
        }
        found.push(model);
        let stage = &self.model(model).stage;
        if teachers {
            for input in stage.inputs(&self.parts.teachers) {
                self.ancestry(input, teachers, found);
            }
            return;
        }
        match stage {
            Stage::Train(train) => self.ancestry(train.start, teachers, found),
            Stage::Joint(joint) => {
                joint.members.iter().for_each(|member| self.ancestry(member.start, teachers, found))
            }
            Stage::Member { joint, .. } => self.ancestry(*joint, teachers, found),
            Stage::Merge(merge) => merge.base.iter().for_each(|base| self.ancestry(*base, teachers, found)),
            Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => {}
        }
    }

    /// The cost of the stage itself; `None` where it can't be known before the run.
    fn own_cost(&self, model: ModelId, unit: BudgetUnit) -> Option<u64> {
        match &self.model(model).stage {
            Stage::Train(train) => unit.spent(train, 1),
            Stage::Joint(joint) => joint.steps.iter().map(|step| unit.spent(&step.train, step.every)).sum(),
            _ => Some(0),
        }
    }
}
