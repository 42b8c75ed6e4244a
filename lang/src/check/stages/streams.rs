//! Where the sequences of a stage come from, and what its objective reads of them.

use crate::experiment::{Objective, Rollout, RolloutSource, Sampling, Term};
use crate::formula::{FormulaKind, FormulaNode, Live, ModelSignal, Role, Signal};

/// A term and the completions that it is trained on.
pub struct Stream<'a> {
    pub term: &'a Term,
    pub rollout: &'a Rollout,
}

/// Every term with its completions; a pair stands for itself.
pub fn streams<'a>(objective: &'a Objective, rollout: &'a Rollout) -> Vec<Stream<'a>> {
    objective
        .terms
        .iter()
        .filter(|term| term.preferences().is_empty())
        .map(|term| Stream { term, rollout: term.data.as_deref().unwrap_or(rollout) })
        .collect()
}

/// What a term reads, the selection and the weights that it shares with others included.
pub fn term_reads(objective: &Objective, term: &Term, test: impl Fn(&FormulaNode) -> bool + Copy) -> bool {
    let shared = objective.select.iter().chain(&objective.weight);
    let own = term.when.iter().chain(&term.weight).chain(std::iter::once(&term.value));
    shared.chain(own).any(|formula| formula.any(test))
}

pub fn reads_sampler(node: &FormulaNode) -> bool {
    match &node.kind {
        FormulaKind::Signal(signal) => signal.roles().contains(&Role::Sampler),
        FormulaKind::Live(live) => live.roles().contains(&Role::Sampler),
        _ => false,
    }
}

pub(in crate::check) fn reads_verdict(node: &FormulaNode) -> bool {
    matches!(&node.kind, FormulaKind::Signal(Signal::Reward | Signal::RewardPart { .. } | Signal::Correct))
}

/// How the student's own completions are drawn, where that is another distribution than its own.
pub(in crate::check) fn reshaped(rollout: &Rollout) -> Option<&Sampling> {
    match &rollout.source {
        RolloutSource::Sample(sampling) => Some(sampling).filter(|sampling| !sampling.is_plain()),
        RolloutSource::From { .. } | RolloutSource::Data { .. } | RolloutSource::Refine { .. } => None,
        other => other.inner().into_iter().find_map(reshaped),
    }
}

/// A term whose gradient is a number times that of the token's own log-probability.
pub fn is_score_function(objective: &Objective, term: &Term) -> bool {
    let scored = term.value.any(|node| matches!(node.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp))));
    let factor = |node: &FormulaNode| matches!(node.kind, FormulaKind::Signal(_));
    let weights = objective.weight.iter().chain(&term.weight).any(|formula| formula.any(factor));
    scored && (weights || term.value.any(factor))
}
