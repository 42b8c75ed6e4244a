//! Compiles a checked experiment to a plan: settings and formulas are converted for the runtime, objectives
//! become graphs with derivatives, stages get their keys and costs.

mod axes;
mod cost;
mod executable;
mod expression;
mod finite;
mod formula;
mod key;
mod leaves;
mod normal_form;
mod objective;
mod parts;
mod positions;
mod postorder;
mod refusal;
mod scores;
mod steps;
#[cfg(test)]
mod tests;
mod unsupported;

use mopd_experiment as checked;
use mopd_experiment::formula::{Formula, FormulaKind, Signal as CheckedSignal};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::{Sources, Span};

pub(crate) use leaves::{FormulaGraph, GraphLeaf};
pub use normal_form::normal_form;
pub(crate) use objective::{WholeObjective, whole};
pub(crate) use postorder::ordered;

use objective::StageRequest;
use refusal::{Origins, refused};
use steps::ExecutableExperiment;

use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{
    GradientPartition, Live, Objective, OwnData, PlainSignal, Plan, Rollout, Scorers, Signal, Train,
};

/// Compiles a checked experiment, in steps with a type each: `ExecutableExperiment`, `Lowered`, [`Plan`]. Its
/// [`Origin`]s index `origins`. `fused` is the arithmetic of its objectives
/// ([`mopd_expr::graph::Graph::fused`]), which is part of the plan's hash; [`mopd_expr::jit::fuses`]
/// returns the faster one for this machine.
///
/// # Errors
/// What the checker accepts and a plan can't express: constructs that this version can't execute (refused by
/// name, at their place), `live` inside something without a derivative, a `reduce` that does not end in one
/// number, numbers that are not finite.
pub fn compile(
    experiment: &checked::Experiment,
    origins: &[Span],
    sources: &Sources,
    fused: bool,
) -> Result<Plan, Vec<Diagnostic>> {
    let origins = Origins::new(origins);
    let mut plan = ExecutableExperiment::from_checked(experiment, origins).lower(fused)?.plan(sources);
    for (facts, model) in plan.stages.iter_mut().zip(&experiment.models) {
        facts.allowed_schedules =
            steps::allowed_schedules(&model.stage, &experiment.teachers, origins, sources);
    }
    Ok(plan)
}

/// The per-token values of an objective, before `reduce`. Signals and live primitives that the runtime does
/// not supply are [`Signal::Other`](mopd_plan::Signal) and [`Live::Other`](mopd_plan::Live).
#[derive(Clone, Debug)]
pub struct Expressions {
    pub graph: Graph,
    /// The primitives of the graph's [`LiveId`](mopd_expr::graph::LiveId)s.
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
/// Facts that the runtime takes for granted (that a teacher scores, the vocabulary size) are signals here.
/// Where names are too long to be shown whole, and two look the same, the second is called `... (number
/// 2)`.
///
/// # Errors
/// The first construct that no graph has: adaptive schedules, scores of pairs, reductions on another rollout.
pub fn expressions(objective: &checked::Objective, origins: &[Span]) -> Result<Expressions, Box<Diagnostic>> {
    objective::expressions(objective, Origins::new(origins))
}

/// The terms whose losses are read: by the objective, by ladders of its rollouts or of teachers' templates,
/// or by the weights of composed teachers.
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

/// Checks that the parts need only their own losses: only the first part updates the states.
fn across_parts(
    checked: &checked::Objective,
    first: &Objective,
    own_data: &[OwnData<Objective>],
    origins: Origins,
) -> Option<Box<Diagnostic>> {
    if first.states.len() < checked.states.len() {
        let at = origins.at(checked.states[0].origin);
        return Some(refused(
            at,
            "a `state` in an objective whose terms on the stage's rollout are all \
            constant",
        ));
    }
    let of_loss = |state: &&checked::State| {
        state.next.any(|node| {
            node.is(PlainSignal::Loss)
                || matches!(node.kind, FormulaKind::Signal(CheckedSignal::TermLoss { .. }))
        })
    };
    let state = checked.states.iter().find(of_loss).filter(|_| !own_data.is_empty())?;
    let construct = format!(
        "`loss` in the update of the state `{}` of an objective whose terms have their own completions",
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
    let whole = normal_form(&checked.objective, Some(checked));
    let rollouts: Vec<Rollout> = train.rollouts().cloned().collect();
    let read_losses = read_losses(checked, &roles.learned, &train.scorers);
    let each_term =
        train.options.alignment.is_some_and(|alignment| alignment.between == GradientPartition::Terms);
    let (mut first, mut own_data, mut failed) = (None, Vec::new(), None);
    for (rollout, part) in rollouts.into_iter().zip(checked.parts()) {
        let normal_form = match first {
            None => whole.clone(),
            Some(_) => normal_form(&part.objective, Some(&part)),
        };
        let request = StageRequest {
            temperature: part.objective.temperature_on(&part.rollout),
            vocabulary: tokens,
            read_losses: &read_losses,
            each_term,
            normal_form,
            fused,
        };
        match objective::lower(&part.objective, request, origins) {
            Ok(objective) if first.is_none() => first = Some((rollout, objective)),
            Ok(objective) => own_data.push(OwnData { rollout, objective }),
            // A part without live terms needs no completions, unless all parts are so.
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
    let trained = train.with_objectives(rollout, objective, own_data);
    match unsupported::refusal(&trained, checked, &read_losses, experiment, origins) {
        Some(refusal) => Err(refusal),
        None => Ok(trained),
    }
}
