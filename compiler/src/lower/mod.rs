//! From a checked experiment to a plan: settings and formulas are converted for the runtime, objectives
//! become graphs with derivatives, stages get their keys and costs.

mod agreement;
mod attempts;
mod axes;
mod balance;
mod blocks;
mod cost;
mod drafts;
mod executable;
mod expression;
mod finite;
mod formula;
mod guards;
mod key;
mod leaves;
mod normal_form;
mod objective;
mod other_tokenizer;
mod partial;
mod parts;
mod positions;
mod postorder;
mod recorded;
mod reduced;
mod sampler;
mod scalar_heads;
mod scores;
mod second_heads;
mod served;
mod steps;
#[cfg(test)]
mod tests;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment as checked;
use mopd_lang::formula::{Formula, FormulaKind, Signal as CheckedSignal};
use mopd_lang::source::{Sources, Span};

pub(crate) use leaves::{FormulaGraph, GraphLeaf};
pub use normal_form::normal_form;
pub(crate) use objective::{WholeObjective, whole};
pub(crate) use postorder::ordered;

use steps::ExecutableExperiment;

use crate::expr::graph::{Graph, NodeId};
use crate::plan::{Between, Live, Objective, OwnData, Plan, Scorers, Signal, Train};
use crate::refusal::{Origins, refused};

/// Compiles a checked experiment, in steps with a type each: `ExecutableExperiment`, `Lowered`, [`Plan`]. Its
/// [`Origin`]s index `origins`. `fused` is the arithmetic of its objectives
/// ([`crate::expr::graph::Graph::fused`]), part of the plan's hash: [`crate::expr::jit::fuses`] says which is
/// fast on this machine.
///
/// # Errors
/// What the checker accepts and a plan can't hold: constructs that this version can't execute (refused by
/// name, at their place), `live` inside something without a derivative, a `reduce` that does not end in one
/// number, numbers that are not finite.
pub fn compile(
    experiment: &checked::Experiment,
    origins: &[Span],
    sources: &Sources,
    fused: bool,
) -> Result<Plan, Vec<Diagnostic>> {
    let origins = Origins::new(origins);
    Ok(ExecutableExperiment::of(experiment, origins).lower(fused)?.plan(sources))
}

/// The per-token values of an objective, before `reduce`. Signals and live primitives that the runtime does
/// not supply are [`Signal::Other`](crate::plan::Signal) and [`Live::Other`](crate::plan::Live).
#[derive(Clone, Debug)]
pub struct Expressions {
    pub graph: Graph,
    /// The primitives of the graph's [`LiveId`](crate::expr::graph::LiveId)s.
    pub live: Vec<Live>,
    /// The mask, per token.
    pub select: Option<NodeId>,
    /// The weight of all terms, on its own axis.
    pub weight: Option<NodeId>,
    pub terms: Vec<TermExpressions>,
}

#[derive(Clone, Debug)]
pub struct TermExpressions {
    pub name: String,
    /// The value per token, without weights.
    pub value: NodeId,
    /// The term's own weight, on its own axis.
    pub weight: Option<NodeId>,
    /// Where the term applies, per token.
    pub when: Option<NodeId>,
}

/// The expressions of an objective as a graph, for evaluation without a run. Its [`Origin`]s index `origins`.
/// Facts that the runtime takes for granted, that a teacher answers and the vocabulary size, are signals
/// here. Where names are too long to be shown whole, and two look the same, the second is called `... (number
/// 2)`.
///
/// # Errors
/// What a graph can't express: adaptive schedules, scores of pairs, reductions over another rollout.
pub fn expressions(objective: &checked::Objective, origins: &[Span]) -> Result<Expressions, Box<Diagnostic>> {
    objective::expressions(objective, Origins::new(origins))
}

/// The terms whose losses are read: by the objective, by ladders of its rollouts or of what teachers see, or
/// by the weights of composed teachers.
fn read_losses(train: &checked::Train, learned: &[Formula], scorers: &Scorers) -> Vec<String> {
    let ladders = train.ladders();
    let moving = ladders.iter().chain(learned);
    let formulas = train.objective.formulas().into_iter().chain(moving).flat_map(Formula::parts);
    let of_formulas = formulas.filter_map(|part| match &part.0.kind {
        FormulaKind::Signal(CheckedSignal::TermLoss { term }) => Some(term.clone()),
        _ => None,
    });
    let of_weights = scorers.signals().into_iter().filter_map(|signal| match signal {
        Signal::TermLoss { term } => Some(term),
        _ => None,
    });
    of_formulas.chain(of_weights).collect()
}

/// The graph of a part knows only its own losses, and only the first part updates the states.
fn across_parts(
    checked: &checked::Objective,
    first: &Objective,
    own_data: &[OwnData<Objective>],
    origins: Origins,
) -> Option<Box<Diagnostic>> {
    if first.states.len() < checked.states.len() {
        let at = origins.at(checked.states[0].origin);
        return Some(refused(at, "a `state` where the terms on the stage's rollout are multiplied away,"));
    }
    let of_loss = |state: &&checked::State| {
        state.next.any(|node| {
            matches!(node.kind, FormulaKind::Signal(CheckedSignal::Loss | CheckedSignal::TermLoss { .. }))
        })
    };
    let state = checked.states.iter().find(of_loss).filter(|_| !own_data.is_empty())?;
    let construct = format!(
        "`loss` in the next value of the state `{}`, where terms have completions of their own,",
        state.name
    );
    Some(refused(origins.at(state.origin), construct))
}

fn trained(
    train: Train<&checked::Train>,
    tokens: Option<u32>,
    experiment: &checked::Experiment,
    origins: Origins,
    fused: bool,
) -> Result<Train<Objective>, Box<Diagnostic>> {
    let checked = train.objective;
    let roles = &executable::roles::find(checked, experiment).roles;
    let ladders = checked.ladders();
    let origins = Origins { roles, ladders: &ladders, ..origins };
    let whole = normal_form(&checked.objective, Some((&checked.rollout, checked.keep)));
    let rollouts = std::iter::once(train.rollout).chain(train.own_data.into_iter().map(|own| own.rollout));
    let read_losses = read_losses(checked, &roles.learned, &train.scorers);
    let each_term = train.alignment.is_some_and(|alignment| alignment.between == Between::Terms);
    let (mut first, mut own_data, mut failed) = (None, Vec::new(), None);
    for (rollout, part) in rollouts.zip(checked.parts()) {
        let temperature = part.objective.temperature_on(&part.rollout);
        let form = match first {
            None => whole.clone(),
            Some(_) => normal_form(&part.objective, Some((&part.rollout, part.keep))),
        };
        let (sizes, read) = ((temperature, tokens), (read_losses.as_slice(), each_term));
        match objective::lower(&part.objective, sizes, read, form, origins, fused) {
            Ok(objective) if first.is_none() => first = Some((rollout, objective)),
            Ok(objective) => own_data.push(OwnData { rollout, objective }),
            // A part without live terms needs no completions, unless all parts are like that.
            Err(error) if error.code == Code::NothingLive => failed = failed.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let Some((rollout, objective)) = first else {
        return Err(failed.expect("an objective has a term"));
    };
    if let Some(refusal) = across_parts(&checked.objective, &objective, &own_data, origins) {
        return Err(refusal);
    }
    let trained = Train {
        recipe: train.recipe,
        start: train.start,
        mixture: train.mixture,
        sees: train.sees,
        scorers: train.scorers,
        panels: train.panels,
        feedback: train.feedback,
        objective,
        own_data,
        rollout,
        passes: train.passes,
        filter: train.filter,
        curriculum: train.curriculum,
        shares: train.shares,
        trainable: train.trainable,
        optimizer: train.optimizer,
        private: train.private,
        length: train.length,
        learning_rate: train.learning_rate,
        ema: train.ema,
        guards: train.guards,
        extrapolation: train.extrapolation,
        validation: train.validation,
        alignment: train.alignment,
        execution: train.execution,
    };
    match unfit(&trained, checked, &read_losses, origins) {
        Some(refusal) => Err(refusal),
        None => Ok(trained),
    }
}

/// Refuses what a stage reads and does not have, or can't combine with its other settings.
fn unfit(
    train: &Train<Objective>,
    checked: &checked::Train,
    read_losses: &[String],
    origins: Origins,
) -> Option<Box<Diagnostic>> {
    let own_parts = train.own_data.iter().map(|own| (&own.rollout, &own.objective));
    let mut parts = std::iter::once((&train.rollout, &train.objective)).chain(own_parts);
    let known =
        |name: &String| parts.clone().flat_map(|(_, part)| &part.term_losses).any(|of| of.term == *name);
    let here = origins.span(train.objective.origin);
    if let Some(name) = read_losses.iter().find(|name| !known(name)) {
        let construct = format!("the signal `loss.{name}`, where no such term is trained,");
        return Some(refused(here, construct));
    }
    let reads = |(_, part): (_, &Objective)| part.signals().contains(&Signal::ValidationLoss);
    let reads = parts.clone().any(reads) || train.scorers.signals().contains(&Signal::ValidationLoss);
    if reads && train.validation.is_none() {
        return Some(refused(here, "the signal `loss.validation`, where the stage has no `validate`,"));
    }
    let (scorers, validation) = (&train.scorers, train.validation.as_ref());
    let unfit = |(rollout, part)| {
        other_tokenizer::unfit(part, scorers, origins)
            .or_else(|| partial::unfit(part, scorers, origins))
            .or_else(|| partial::without_confidence(part, &train.panels, origins))
            .or_else(|| attempts::unfit(part, rollout, scorers, origins))
            .or_else(|| agreement::unfit(part, rollout, scorers, origins))
            .or_else(|| drafts::unfit(part, rollout, scorers, origins))
            .or_else(|| sampler::unfit(part, rollout, origins))
            .or_else(|| {
                let student = train.sees.as_ref();
                let shown = recorded::ShownTemplates { scorers, feedback: &train.feedback, student };
                recorded::unfit((part, &checked.objective), rollout, shown, origins)
            })
    };
    let (objective, rollout) = (&train.objective, &train.rollout);
    let steps = guards::Steps { objective, rollout, scorers, validation };
    let refusal = parts.find_map(unfit).or_else(|| guards::unfit(&train.guards, &steps, origins));
    refusal.or_else(|| served::unfit(train, origins)).map(Into::into)
}
