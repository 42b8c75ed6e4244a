//! Evaluation of models: held-out prompts, tables, budgets, and grids of experiments.

pub mod benchmarks;
pub mod budgets;
pub mod compare;
pub mod sweep;

use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, Span};
use mopd_experiment::{Experiment, Model, ModelId, Origin, TeacherWeights};

/// Warnings about models that the entry file trains and a run would leave out, because no table needs them.
/// This needs the whole experiment, which is not assembled while a file is edited.
/// A model that another one is a change of is read as a text: `changed` has the places of their values.
pub fn left_out(experiment: &Experiment, origins: &[Span], changed: &[Span]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let left_out = experiment.left_out();
    // A family of teachers has one for each domain, of which an arm of the route may replace one.
    let replaced = |id: ModelId, origin: Origin| {
        let mut siblings = experiment.models.iter().zip(0..).filter(|(model, _)| model.origin == origin);
        experiment.teachers.iter().any(|teacher| teacher.weights == TeacherWeights::Model(id))
            && siblings.any(|(_, sibling)| !left_out.contains(&ModelId(sibling)))
    };
    for model in &left_out {
        let Model { name, origin, .. } = experiment.model(*model);
        let span = origins[origin.0 as usize];
        let is_of =
            |value: &Span| value.file == span.file && value.start <= span.start && span.end <= value.end;
        if changed.iter().any(is_of) {
            continue;
        }
        if name.ends_with(']') && replaced(*model, *origin) {
            continue;
        }
        // Members of a family are declared once; models that a stage makes inside are not the author's.
        if span.file == FileId(0) && !found.iter().any(|said| said.primary.span == span) {
            let warning = Diagnostic::warning(Code::UnusedModel, span, format!("no table needs `{name}`"));
            let help = format!("add `{name}` to the `models` of a `compare`, or remove it");
            found.push(warning.label("it is not trained").help(help));
        }
    }
    found
}
