//! Checks of stages with several `mini_batches`. The update of a mini-batch has only the numbers of its own
//! prompts. A comparison with other prompts of the rollout, such as the whitening of advantages in verl and
//! TRL, is of the whole batch there, before it is divided (`masked_whiten` in verl's `core_algos.py`), so a
//! comparison inside the mini-batch would be another method. Comparisons of the current student's numbers are
//! computed within the loss there, and are of the mini-batch here too.

use mopd_experiment as checked;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, Role};
use mopd_lang::diag::Diagnostic;
use mopd_plan::producers::sampler;
use mopd_plan::{DivergenceParameter, Objective, Train};

use crate::lower::refusal::{Origins, refused};

/// The first number that the update of a mini-batch would need and that is not computed for it.
pub fn refusal(
    train: &Train<Objective>,
    checked: &checked::Objective,
    origins: Origins,
) -> Option<Diagnostic> {
    if train.options.mini_batches <= 1 {
        return None;
    }
    let of_terms = checked
        .terms
        .iter()
        .flat_map(|term| std::iter::once(&term.value).chain(&term.when).chain(&term.weight));
    let formulas = of_terms.chain(&checked.select).chain(&checked.weight);
    let compared =
        formulas.flat_map(Formula::parts).find(|part| compares_prompts(&part.0) && !of_student(part));
    if let Some(part) = compared {
        let construct = "a comparison of the prompts of a whole batch with several `mini_batches`";
        let help = "compare within a prompt's samples, `over: group`, or leave out `mini_batches`";
        return Some((*refused(origins.span(part.0.origin), construct)).help(help));
    }
    // Its distributions have to be stored before the first update, for all mini-batches.
    let sampled = |(rollout, objective): (_, &Objective)| matches!(sampler(objective, rollout), Ok(Some(_)));
    if train.objectives().any(sampled) {
        let construct = "reading the whole distribution of the sampler with several `mini_batches`";
        let help = "the log-probabilities of the sampled tokens are recorded: read `sampler.logp`";
        return Some((*refused(origins.span(train.objective.origin), construct)).help(help));
    }
    let members = train.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let mut weights = members
        .filter_map(|choice| choice.teacher.composition())
        .flat_map(|composition| &composition.members)
        .map(|member| &member.weight);
    let compared = |weight: &DivergenceParameter| match weight {
        DivergenceParameter::Number(_) => false,
        DivergenceParameter::Formula(formula) => formula.graph.compares_prompts(),
    };
    weights.any(compared).then(|| {
        let construct =
            "a composed teacher whose weights compare the prompts of a batch, with several `mini_batches`";
        *refused(origins.span(train.objective.origin), construct)
    })
}

fn compares_prompts(node: &FormulaNode) -> bool {
    match &node.kind {
        FormulaKind::Reduce { .. } => matches!(node.axis, Axis::Batch | Axis::Domain),
        FormulaKind::Statistic { over, .. } | FormulaKind::Scan { over, .. } => {
            matches!(over, Axis::Batch | Axis::Domain)
        }
        _ => false,
    }
}

/// Whether it reads a number that changes with the weights of the student.
fn of_student(formula: &Formula) -> bool {
    formula.any(|node| match &node.kind {
        FormulaKind::Signal(signal) => signal.roles().contains(&Role::Student),
        FormulaKind::Live(_) => true,
        _ => false,
    })
}
