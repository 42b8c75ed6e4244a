//! Evaluates an objective on given numbers: its loss, every part of it, and the derivative of the loss,
//! without a model or a run. For `mopd try`.
//!
//! The graph is that of a run; what the runtime would supply is given by name: the distribution of a role, or
//! a number under its name in the language. It is evaluated by the interpreter in f64 and by the compiled
//! code in f32, on the same numbers, rounded to f32 as in a run. If distributions are given, the derivative
//! is continued to the student's logits, in f64.

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

/// The results of an objective on some numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub loss: TrialValue,
    /// `let`s, `select`, weights and terms, in the objective's order.
    pub parts: Vec<TrialValue>,
    /// Derivatives of the loss by the live numbers.
    pub gradients: Vec<TrialValue>,
    /// By token and entry: the derivative of the loss by the student's logits. `None` where a live number was
    /// given directly, so that its logits are unknown.
    pub logits: Option<Vec<Vec<f64>>>,
    /// Prompt, completion and position of each token.
    pub places: Vec<TokenPlace>,
    /// The names of given numbers that are not read.
    pub unread: Vec<String>,
}

/// One number per element of an axis, by the interpreter and by the compiled code.
#[derive(Clone, Debug, Serialize)]
pub struct TrialValue {
    pub name: String,
    pub axis: Axis,
    pub f64: Vec<f64>,
    /// `None` where the code generator refuses the expression; a run interprets it, too.
    pub f32: Option<Vec<f32>>,
}

/// Why there is no trial.
#[derive(Debug)]
pub enum NoTrial {
    /// An error in the objective, with its place.
    Objective(Box<Diagnostic>),
    /// Errors in the numbers.
    Numbers(Vec<String>),
}

impl From<Box<Diagnostic>> for NoTrial {
    fn from(diagnostic: Box<Diagnostic>) -> NoTrial {
        NoTrial::Objective(diagnostic)
    }
}

/// The objective's [`Origin`](mopd_lang::experiment::Origin)s index `origins`.
///
/// # Errors
/// A part of the objective that has no value on numbers alone; missing numbers, or a wrong number of them.
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
    // The chain rule, token by token: a live number depends only on the logits after its own prefix, or on
    // none where a support is empty.
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
                // A token that is not trained on contributes nothing, whatever its divergence is.
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

/// With the machine code that a run would use; `None` where there is no code generator for the expression or
/// the machine.
#[cfg(not(target_family = "wasm"))]
fn compiled(graph: &Graph, roots: &[NodeId], batch: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    crate::expr::jit::Program::compile(graph, roots).ok().map(|program| program.run(batch)).transpose()
}

#[cfg(target_family = "wasm")]
fn compiled(_: &Graph, _: &[NodeId], _: &Batch) -> Result<Option<Values<f32>>, EvaluationError> {
    Ok(None)
}

/// Example numbers to start from: everything that an objective reads, for a prompt with two completions.
/// Where terms have completions of their own, everything that its first part reads.
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
