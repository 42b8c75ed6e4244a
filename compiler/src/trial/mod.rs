//! An objective on given numbers: its loss, every part of it, and the derivative of the loss, without a
//! model and without a run. `mopd try` shows it.
//!
//! The graph is that of a run, with what the runtime would supply given by name: a distribution of a role, or
//! a number as the language calls it. It is evaluated by the interpreter in f64 and by the compiled code in
//! f32, on the same numbers, rounded to f32 as those of a run are. Through given distributions the derivative
//! goes on to the student's logits, in f64.

mod blocks;
mod example;
mod expected;
mod numbers;
mod part;
mod supply;

use mopd_lang::diag::Diagnostic;
use mopd_lang::experiment::Objective;
use mopd_lang::source::Span;
use serde::Serialize;

pub use expected::{UnmetExpectation, differences};
pub use numbers::{TokenPlace, TrialNumbers};

use crate::expr::batch::Batch;
use crate::expr::graph::{Graph, NodeId};
use crate::expr::interpret::interpret;
use crate::expr::signals::Axis;
use crate::expr::values::{EvaluationError, Values};
use crate::lower::{WholeObjective, whole};
use supply::{Supplied, supply};

/// What an objective is on some numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub loss: TrialValue,
    /// `let`s, `select`, weights and terms, in the objective's order.
    pub parts: Vec<TrialValue>,
    /// Derivatives of the loss by what is live.
    pub gradients: Vec<TrialValue>,
    /// By token and entry: the derivative of the loss by the student's logits. None where something live was
    /// given as a number, so that nothing is known of its logits.
    pub logits: Option<Vec<Vec<f64>>>,
    /// Prompt, completion and position of every token.
    pub places: Vec<TokenPlace>,
    /// Given and not read.
    pub unread: Vec<String>,
}

/// One number per element of an axis, by the interpreter and by the compiled code.
#[derive(Clone, Debug, Serialize)]
pub struct TrialValue {
    pub name: String,
    pub axis: Axis,
    pub f64: Vec<f64>,
    /// None where the code generator refuses the expression: a run interprets it too.
    pub f32: Option<Vec<f32>>,
}

/// Why there is no trial.
#[derive(Debug)]
pub enum NoTrial {
    /// Of the objective, with its place.
    Objective(Box<Diagnostic>),
    /// Of the numbers.
    Numbers(Vec<String>),
}

impl From<Box<Diagnostic>> for NoTrial {
    fn from(diagnostic: Box<Diagnostic>) -> NoTrial {
        NoTrial::Objective(diagnostic)
    }
}

/// `origins` is what the objective's [`Origin`](mopd_lang::experiment::Origin)s point into.
///
/// # Errors
/// A part of the objective that has no value on numbers alone; numbers that are missing, too many or too few.
pub fn run(objective: &Objective, origins: &[Span], numbers: &TrialNumbers) -> Result<Trial, NoTrial> {
    let objective =
        &part::chosen(objective, &numbers.terms).map_err(|fault| NoTrial::Numbers(vec![fault]))?;
    let WholeObjective { formulas, loss, chosen, parts, gradients } = whole(objective, origins)?;
    let temperature = objective.temperature.unwrap_or(1.0);
    let Supplied { batch, by_logits, unread } =
        supply(&formulas, chosen, numbers, temperature).map_err(NoTrial::Numbers)?;
    let graph = &formulas.graph;
    let fault = |error: &dyn std::fmt::Display| NoTrial::Numbers(vec![error.to_string()]);
    let exact = interpret(graph, &formulas.roots, &batch).map_err(|error| fault(&error))?;
    let compiled = compiled(graph, &formulas.roots, &batch).map_err(|error| fault(&error))?;
    let value = |name: &str, node: NodeId| TrialValue {
        name: name.to_owned(),
        axis: graph.axis(node),
        f64: exact.get(node).to_vec(),
        f32: compiled.as_ref().map(|compiled| compiled.get(node).to_vec()),
    };
    // The chain rule, token by token: a live number depends on the logits after its own prefix alone.
    // Where a support is empty, a live number depends on none of them.
    let entries = by_logits.iter().filter_map(|(_, known)| known.as_ref()).flatten().map(Vec::len).max();
    let mut logits = Some(vec![vec![0.0; entries.unwrap_or(0)]; batch.layout.tokens()]);
    for (live, node) in &gradients {
        let by_token = exact.get(*node);
        let known = by_logits.iter().find(|(known, _)| known == live).and_then(|(_, known)| known.as_ref());
        let Some(known) = known else {
            logits = None;
            continue;
        };
        for (token, sums) in logits.iter_mut().flatten().enumerate() {
            for (sum, partial) in sums.iter_mut().zip(&known[token]) {
                // A token that is not trained on has no part in it, whatever its divergence is.
                if by_token[token] != 0.0 {
                    *sum += by_token[token] * partial;
                }
            }
        }
    }
    let name = |live| supply::name(formulas.leaves(), live);
    Ok(Trial {
        loss: value("loss", loss),
        parts: parts.iter().map(|(name, node)| value(name, *node)).collect(),
        gradients: gradients.iter().map(|(live, node)| value(&name(*live), *node)).collect(),
        logits,
        places: numbers.places(),
        unread,
    })
}

/// By the machine code that a run would use; none where there is no generator for the expression, or for this
/// machine.
#[cfg(not(target_family = "wasm"))]
fn compiled(graph: &Graph, roots: &[NodeId], batch: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    crate::expr::jit::Program::compile(graph, roots).ok().map(|program| program.run(batch)).transpose()
}

#[cfg(target_family = "wasm")]
fn compiled(_: &Graph, _: &[NodeId], _: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    Ok(None)
}

/// Numbers to begin with: all that an objective reads, for a prompt with two completions. Where terms have
/// completions of their own, all that the first part of it reads.
///
/// # Errors
/// A part of the objective that has no value on numbers alone.
pub fn example(objective: &Objective, origins: &[Span]) -> Result<serde_json::Value, Box<Diagnostic>> {
    let parts = objective.parts();
    let first = parts.first().unwrap_or(objective);
    let mut example = example::of(&whole(first, origins)?.formulas);
    if parts.len() > 1 {
        example["terms"] = first.terms.iter().map(|term| term.name.as_str()).collect();
    }
    Ok(example)
}
