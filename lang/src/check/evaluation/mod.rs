//! Evaluation of models: held-out prompts, tables, budgets, and grids of experiments.

pub mod benchmarks;
pub mod budgets;
pub mod compare;
pub mod sweep;

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Experiment, Model};
use crate::source::{FileId, Span};

/// Warnings about models that the entry file trains and a run would leave out, because no table needs them.
/// This needs the whole experiment, which is not assembled while a file is edited.
pub fn left_out(experiment: &Experiment, origins: &[Span]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    for model in experiment.left_out() {
        let Model { name, origin, .. } = experiment.model(model);
        let span = origins[origin.0 as usize];
        // Members of a family are declared once; models that a stage makes inside are not the author's.
        if span.file == FileId(0) && !found.iter().any(|said| said.primary.span == span) {
            let warning = Diagnostic::warning(Code::UnusedModel, span, format!("no table needs `{name}`"));
            let help = format!("add `{name}` to the `models` of a `compare`, or remove it");
            found.push(warning.label("it is not trained").help(help));
        }
    }
    found
}
