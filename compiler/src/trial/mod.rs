//! Evaluates an objective on given numbers, for `mopd try`: its loss, every part of it, and the derivative of
//! the loss, without a model or a run.
//!
//! The graph is that of a run. Inputs from the runtime are given by name instead: the distribution of a role,
//! or a number under its name in the language. The graph is evaluated by the interpreter in f64, and by the
//! compiled code in f32 on the same numbers, rounded to f32 as in a run. If distributions are given, the
//! derivative is continued to the student's logits, in f64.

mod blocks;
mod carried;
mod example;
mod expected;
mod numbers;
mod part;
mod supply;

use std::collections::BTreeSet;

use mopd_experiment::formula::{Formula, FormulaKind, Signal};
use mopd_experiment::{DomainId, Objective, Rollout, StageStep};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use serde::Serialize;

pub use expected::{UnmetExpectation, differences};
pub use numbers::{EarlierStep, TokenPlace, TrialNumbers};

use crate::lower::{WholeObjective, whole};
use carried::EarlierValues;
use mopd_expr::batch::Batch;
use mopd_expr::graph::{Graph, NodeId};
use mopd_expr::interpret::interpret_exact;
use mopd_expr::signals::Axis;
use mopd_expr::values::{EvaluationError, Values};
use supply::{TrialInputs, supply};

/// The results of an objective on some numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The temperature of the log-probabilities.
    pub temperature: f64,
    pub loss: TrialValue,
    /// `let`s, `select`, weights and terms, in the objective's order.
    pub parts: Vec<TrialValue>,
    /// Derivatives of the loss by the live numbers.
    pub gradients: Vec<TrialValue>,
    /// The derivative of the loss by the student's logits, by token and entry. `None` where a live number was
    /// given directly, so that its logits are unknown.
    pub logits: Option<Vec<Vec<f64>>>,
    /// Prompt, completion and position of each token.
    pub places: Vec<TokenPlace>,
    /// The names of given numbers that are not read.
    pub unread: Vec<String>,
}

/// One number per element of an axis, from the interpreter and from the compiled code.
#[derive(Clone, Debug, Serialize)]
pub struct TrialValue {
    pub name: String,
    pub axis: Axis,
    pub f64: Vec<f64>,
    /// `None` where the code generator refuses the expression. A run then uses the interpreter, too.
    pub f32: Option<Vec<f32>>,
}

/// The reason why there is no trial.
#[derive(Debug)]
pub enum TrialError {
    /// An error in the objective, with its place.
    Objective(Box<Diagnostic>),
    /// Errors in the numbers.
    Numbers(Vec<String>),
}

impl From<Box<Diagnostic>> for TrialError {
    fn from(diagnostic: Box<Diagnostic>) -> TrialError {
        TrialError::Objective(diagnostic)
    }
}

/// Evaluates an objective, in a stage on `rollout` if it is a model's: the rollout sets the temperature of
/// the log-probabilities. Its [`Origin`](mopd_experiment::Origin)s index `origins`.
///
/// # Errors
/// A part of the objective that has no value on numbers alone; missing numbers, or lists of a wrong length.
pub fn run(
    objective: &Objective,
    rollout: Option<&Rollout>,
    origins: &[Span],
    numbers: &TrialNumbers,
) -> Result<Trial, TrialError> {
    let objective =
        &part::chosen(objective, &numbers.terms).map_err(|fault| TrialError::Numbers(vec![fault]))?;
    let uncovered = uncovered(objective, numbers);
    if !uncovered.is_empty() {
        return Err(TrialError::Numbers(uncovered));
    }
    let whole = whole(objective, origins)?;
    let (mut carried, mut unread) = (EarlierValues::default(), BTreeSet::new());
    let earlier = numbers.earlier_steps().map_err(TrialError::Numbers)?;
    for (place, earlier) in earlier.iter().enumerate() {
        let of_step = |faults: Vec<String>| {
            faults.into_iter().map(|fault| format!("earlier step {}: {fault}", place + 1)).collect()
        };
        let (trial, left) = step(objective, &whole, rollout, earlier, &carried)
            .map_err(|faults| TrialError::Numbers(of_step(faults)))?;
        unread.extend(trial.unread);
        carried = left;
    }
    let (mut trial, _) = step(objective, &whole, rollout, numbers, &carried).map_err(TrialError::Numbers)?;
    unread.extend(std::mem::take(&mut trial.unread));
    Ok(Trial { unread: unread.into_iter().collect(), ..trial })
}

/// One step, with what the steps before it have left, and what it leaves.
///
/// # Errors
/// Everything that is missing or does not fit.
fn step(
    objective: &Objective,
    whole: &WholeObjective,
    rollout: Option<&Rollout>,
    numbers: &TrialNumbers,
    carried: &EarlierValues,
) -> Result<(Trial, EarlierValues), Vec<String>> {
    let WholeObjective { formulas, loss, chosen, parts, gradients } = whole;
    let temperature = match rollout {
        Some(rollout) => {
            let own = objective.terms.iter().find_map(|term| term.data.as_deref());
            objective.temperature_on(own.unwrap_or(rollout))
        }
        None => objective.temperature.unwrap_or(1.0).into(),
    };
    let temperature = temperature.at(StageStep { step: numbers.step, steps: numbers.steps });
    let TrialInputs { batch, exact, by_logits, unread } =
        supply(formulas, *chosen, numbers, carried, temperature)?;
    let graph = &formulas.graph;
    let fault = |error: &dyn std::fmt::Display| vec![error.to_string()];
    let memories = graph.carried(&formulas.roots);
    let roots: Vec<NodeId> =
        formulas.roots.iter().copied().chain(memories.iter().map(|(_, node)| *node)).collect();
    let exact = interpret_exact(graph, &roots, &batch, &exact).map_err(|error| fault(&error))?;
    let compiled = compiled(graph, &formulas.roots, &batch).map_err(|error| fault(&error))?;
    let value = |name: &str, node: NodeId| TrialValue {
        name: name.to_owned(),
        axis: graph.axis(node),
        f64: exact.get(node).to_vec(),
        f32: compiled.as_ref().map(|compiled| compiled.get(node).to_vec()),
    };
    // The chain rule, token by token: a live number depends only on the logits after its own prefix, or on
    // none where a support is empty.
    let entries = by_logits.iter().filter_map(|of| of.by_entry.as_ref()).flatten().map(Vec::len).max();
    let mut logits = Some(vec![vec![0.0; entries.unwrap_or(0)]; batch.layout.tokens()]);
    for (live, node) in gradients {
        let by_token = exact.get(*node);
        let known = by_logits.iter().find(|of| of.live == *live).and_then(|of| of.by_entry.as_ref());
        let Some(known) = known else {
            logits = None;
            continue;
        };
        for (token, sums) in logits.iter_mut().flatten().enumerate() {
            for (sum, partial) in sums.iter_mut().zip(&known[token]) {
                // A token that is not trained on contributes nothing, whatever its divergence is.
                if by_token[token] != 0.0 {
                    *sum += by_token[token] * partial;
                }
            }
        }
    }
    let name = |live| supply::name(formulas.leaves(), live);
    let left = carried.after(objective, numbers, &memories, |node| exact.get(node), parts);
    let trial = Trial {
        temperature,
        loss: value("loss", *loss),
        parts: parts.iter().map(|(name, node)| value(name, *node)).collect(),
        gradients: gradients.iter().map(|(live, node)| value(&name(*live), *node)).collect(),
        logits,
        places: numbers.places(),
        unread,
    };
    Ok((trial, left))
}

/// The domains of the prompts for which a `match` without `else` has no arm.
fn uncovered(objective: &Objective, numbers: &TrialNumbers) -> Vec<String> {
    let parts = objective.formulas().into_iter().flat_map(Formula::parts);
    let covered: Vec<&Formula> = parts.filter_map(|part| part.0.covered.as_ref()).collect();
    let holds = |covered: &Formula, domain: &str| {
        let own = covered.parts().into_iter().find_map(|part| match &part.0.kind {
            FormulaKind::Signal(Signal::DomainIs { domain: own, name }) if **name == *domain => Some(*own),
            _ => None,
        });
        covered.in_domain(own.unwrap_or(DomainId::UNDECLARED)).constant() == Some(1.0)
    };
    let lacking = |domain: &&str| !covered.iter().all(|covered| holds(covered, domain));
    let fault = |domain: &str| format!("a `match` without `else` has no arm for the domain `{domain}`");
    numbers.domains().into_iter().filter(lacking).map(fault).collect()
}

/// The values by the machine code of a run. `None` where there is no code generator for the expression or the
/// machine.
#[cfg(not(target_family = "wasm"))]
fn compiled(graph: &Graph, roots: &[NodeId], batch: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    mopd_expr::jit::Program::compile(graph, roots).ok().map(|program| program.run(batch)).transpose()
}

#[cfg(target_family = "wasm")]
fn compiled(_: &Graph, _: &[NodeId], _: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    Ok(None)
}

/// Example numbers: all inputs of an objective, for a prompt with two completions. Where terms have
/// completions of their own, the inputs of the first part.
///
/// # Errors
/// A part of the objective that has no value on numbers alone.
pub fn example(objective: &Objective, origins: &[Span]) -> Result<serde_json::Value, Box<Diagnostic>> {
    let parts = objective.parts();
    let first = parts.first().unwrap_or(objective);
    let mut example = example::example_numbers(&whole(first, origins)?.formulas);
    if parts.len() > 1 {
        example["terms"] = first.terms.iter().map(|term| term.name.as_str()).collect();
    }
    Ok(example)
}
