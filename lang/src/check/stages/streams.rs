//! The completions that each term of an objective is trained on, and tests of what terms read.

use mopd_experiment::formula::{
    Divergence, FormulaKind, FormulaNode, Function, Live, ModelSignal, Role, Signal,
};
use mopd_experiment::{Objective, Rollout, Sampling, Temperature, Term, TokensOf};

/// A term and the completions that it is trained on.
pub struct TermRollout<'a> {
    pub term: &'a Term,
    pub rollout: &'a Rollout,
}

/// Each term with its completions. Terms of preference pairs are left out: the pairs have their own.
pub fn streams<'a>(objective: &'a Objective, rollout: &'a Rollout) -> Vec<TermRollout<'a>> {
    objective
        .terms
        .iter()
        .filter(|term| term.preferences().is_empty())
        .map(|term| TermRollout { term, rollout: term.data.as_deref().unwrap_or(rollout) })
        .collect()
}

/// Whether `test` holds for a node of a term, or of the selection and weight that all terms share.
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

/// Whether the node reads the student before the first update from the batch: `ratio` does.
pub fn reads_old(node: &FormulaNode) -> bool {
    matches!(&node.kind, FormulaKind::Signal(signal) if signal.roles().contains(&Role::Old))
}

/// Whether the node is a log-ratio of the student, now or before these updates, to the sampler: what corrects
/// for who drew a token.
pub fn corrects_for_sampler(node: &FormulaNode) -> bool {
    let FormulaKind::Apply { function: Function::Subtract, operands } = &node.kind else { return false };
    let [above, below] = operands.as_slice() else { return false };
    let of_student = matches!(
        &above.0.kind,
        FormulaKind::Live(Live::Part(ModelSignal::Logp))
            | FormulaKind::Signal(Signal::Of { role: Role::Student | Role::Old, part: ModelSignal::Logp })
    );
    let sampler = Signal::Of { role: Role::Sampler, part: ModelSignal::Logp };
    of_student && matches!(&below.0.kind, FormulaKind::Signal(signal) if *signal == sampler)
}

/// Whether the node depends on the temperature of the trained policy: see [`Objective::temperature_on`].
pub fn reads_policy_temperature(node: &FormulaNode) -> bool {
    let with_sampler = |divergence: &Divergence| {
        [&divergence.left, &divergence.right].iter().any(|side| side.roles().contains(&Role::Sampler))
    };
    match &node.kind {
        FormulaKind::Signal(Signal::Of { role, part: ModelSignal::Logp | ModelSignal::EndLogp }) => {
            *role != Role::Sampler
        }
        FormulaKind::Live(Live::Part(ModelSignal::Logp | ModelSignal::EndLogp)) => true,
        FormulaKind::Signal(Signal::Divergence(divergence))
        | FormulaKind::Live(Live::Divergence(divergence)) => with_sampler(divergence),
        _ => false,
    }
}

pub fn reads_verdict(node: &FormulaNode) -> bool {
    matches!(&node.kind, FormulaKind::Signal(signal) if signal.is_of_reward())
}

/// The sampling of the student's completions, where it is not plainly the student's own distribution.
pub fn reshaped(rollout: &Rollout) -> Option<&Sampling> {
    let facts = rollout.source.facts();
    match facts.tokens {
        TokensOf::Student(sampling) => Some(sampling).filter(|sampling| !sampling.is_plain()),
        TokensOf::By(..) | TokensOf::Data | TokensOf::Open => None,
        // The whole text is another role's.
        TokensOf::Changed(_) if facts.writer.is_some() => None,
        TokensOf::Inside
        | TokensOf::Earlier
        | TokensOf::OfModel
        | TokensOf::Mixture(_)
        | TokensOf::Changed(_) => rollout.source.inner().into_iter().find_map(reshaped),
    }
}

/// Whether the student draws some of the completions at temperature 0.
pub fn draws_greedily(rollout: &Rollout) -> bool {
    match rollout.source.facts().tokens {
        TokensOf::Student(sampling) => sampling.temperature() == Temperature::Constant(0.0),
        _ => rollout.source.inner().into_iter().any(draws_greedily),
    }
}

/// Whether the term's gradient is a number times the gradient of the token's log-probability.
pub fn is_score_function(objective: &Objective, term: &Term) -> bool {
    let scored = term.value.any(|node| matches!(node.kind, FormulaKind::Live(Live::Part(ModelSignal::Logp))));
    let factor = |node: &FormulaNode| matches!(node.kind, FormulaKind::Signal(_));
    let weights = objective.weight.iter().chain(&term.weight).any(|formula| formula.any(factor));
    scored && (weights || term.value.any(factor))
}
