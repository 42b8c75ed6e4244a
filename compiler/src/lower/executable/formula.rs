//! Converts parts of formulas. `at` is the place of the formula that reads the part.

use std::collections::HashSet;
use std::rc::Rc;

use mopd_experiment::formula::text;
use mopd_experiment::formula::{self as checked, Formula, FormulaKind, FormulaNode, NamedSpan, Similarity};
use mopd_experiment::{Objective, Reduce, RolloutSource, Schedule};
use mopd_lang::source::Span;

use super::divergence::{divergence, support};
use super::{Converted, Diagnostic, refused, sums};
pub use crate::lower::refusal::role;
use crate::lower::refusal::{FormulaContext, Origins};
use crate::lower::scores::{ScorePosition, read_of};
use mopd_plan::{
    Axis, Function, Live, Memory, ModelSignal, PlainSignal, Reduction, Role, Scan, Signal, Statistic,
};

/// The executable form of a formula, apart from its operands. Some constructs are not in graphs and become a
/// few nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutableKind {
    Number(f64),
    Schedule(Schedule),
    Signal(Signal),
    /// The same number for every sequence.
    PerSequence(f64),
    /// `length - position - 1`
    Remaining,
    /// `span.final_turn`
    InFinalTurn,
    /// `turn`
    Turn,
    /// Whether the objective's `select` holds.
    Selected,
    /// Whether the prompt is of the domain at this place in the mixture of the stage.
    InDomain(usize),
    /// The same number for every domain.
    PerDomain(f64),
    Live(Live),
    /// The output of a scalar head: a role's, or the student's with gradient.
    Score {
        of: Option<Role>,
        on: ScorePosition,
    },
    /// The DPO loss of each pair, with `beta`.
    Dpo,
    /// The loss of each pair, from the scores of a scalar head.
    BradleyTerry {
        on: ScorePosition,
    },
    /// The squared difference between the output of a scalar head and a target.
    SquaredError {
        on: ScorePosition,
    },
    /// `student.confidence`, with gradient.
    Confidence,
    /// The binary cross-entropy between the student's confidence and a target.
    CrossEntropy,
    Apply(Function),
    Reduce(Reduction),
    Statistic {
        statistic: Statistic,
        over: Axis,
    },
    Scan {
        scan: Scan<Formula>,
        over: Axis,
    },
    Memory(Memory),
    /// One member's share among all members of a panel.
    Across {
        index: usize,
    },
}

/// All constructs of an objective that this version can't execute, each once, at the first place that uses
/// it.
pub fn refusals(objective: &Objective, origins: Origins) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    for part in objective.formulas().into_iter().flat_map(Formula::parts) {
        for summand in sums::summands(part, origins.roles) {
            found.extend(kind(&summand.0, origins.at(part.0.origin)).err().map(|refusal| *refusal));
        }
    }
    let reduces = objective.terms.iter().map(|term| &term.reduce).chain([&objective.reduce]);
    for Reduce { steps, origin, .. } in reduces.flatten() {
        let at = origins.at(*origin);
        for step in steps {
            found.extend(
                [step.elements, step.over]
                    .into_iter()
                    .filter_map(|of| axis(of, at).err())
                    .map(|refusal| *refusal),
            );
        }
    }
    found.extend(objective.formulas().into_iter().filter_map(bare_confidence).map(|bare| {
        let signal = text::formula(bare, usize::MAX);
        let construct = format!("the signal `{signal}`, which may be missing, outside of `across`");
        let help = "`softmax(..., across: panel, missing: uniform)` sets the value where it is missing";
        (*refused(origins.at(bare.0.origin), construct)).help(help)
    }));
    found.sort_by_key(|refusal| refusal.primary.span);
    let mut once: Vec<Diagnostic> = Vec::new();
    for refusal in found {
        if once.iter().all(|known| known.message != refusal.message) {
            once.push(refusal);
        }
    }
    once
}

/// A stated confidence without a default for a missing one.
fn bare_confidence(formula: &Formula) -> Option<&Formula> {
    let (mut seen, mut waiting): (HashSet<*const FormulaNode>, Vec<&Formula>) =
        (HashSet::new(), vec![formula]);
    while let Some(formula) = waiting.pop() {
        if !seen.insert(Rc::as_ptr(&formula.0)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Signal(checked::Signal::Of {
                part: checked::ModelSignal::StatedConfidence, ..
            }) => {
                return Some(formula);
            }
            FormulaKind::Across { among, .. } => waiting.extend(among),
            _ => waiting.extend(formula.operands()),
        }
    }
    None
}

/// The executable form of a formula, for a plan that runs.
pub fn kind(formula: &FormulaNode, at: FormulaContext) -> Converted<ExecutableKind> {
    // The objective defines the blocks: see `lower/objective/blocks.rs`.
    if formula.axis != Axis::Block {
        axis(formula.axis, at)?;
    }
    if let FormulaKind::Statistic { over, .. } | FormulaKind::Scan { over, .. } = &formula.kind {
        axis(*over, at)?;
    }
    kind_on_any_axis(formula, at)
}

/// The treatment of reductions over another rollout.
#[derive(Clone, Copy)]
pub enum CrossRolloutReads<'a> {
    Refused,
    /// In the gain of a learned policy: the student's log-probability of recorded text may be read.
    Recorded,
    /// In a choice of prompts: anything of their completions may be read.
    Measured(&'a dyn Fn(&FormulaNode, FormulaContext) -> Converted<Signal>),
}

impl CrossRolloutReads<'_> {
    /// Whether these reductions are accepted, as numbers of their own.
    pub fn is_read(self) -> bool {
        !matches!(self, CrossRolloutReads::Refused)
    }
}

/// [`kind`] where reductions over another rollout may be accepted.
pub fn kind_with(
    formula: &FormulaNode,
    at: FormulaContext,
    elsewhere: CrossRolloutReads,
) -> Converted<ExecutableKind> {
    let FormulaKind::Reduce { reduction, operand, among, on: Some(rollout), .. } = &formula.kind else {
        return kind(formula, at);
    };
    match elsewhere {
        CrossRolloutReads::Refused => return kind(formula, at),
        CrossRolloutReads::Measured(measure) => return measure(formula, at).map(ExecutableKind::Signal),
        CrossRolloutReads::Recorded => {}
    }
    let logp = checked::Signal::Of { role: checked::Role::Student, part: checked::ModelSignal::Logp };
    let is_logp = matches!(&operand.0.kind, FormulaKind::Signal(of) if *of == logp);
    match &rollout.source {
        RolloutSource::Data { field }
            if *reduction == Reduction::Mean
                && formula.axis == Axis::Batch
                && is_logp
                && among.is_none()
                && rollout.edits.is_empty() =>
        {
            Ok(ExecutableKind::Signal(Signal::RecordedLogp { field: field.clone() }))
        }
        _ => {
            let construct = "a reduction over another rollout (`on`) that is not \
                             `mean(student.logp, over: batch, on: data(...))`";
            Err(refused(at, construct))
        }
    }
}

/// The executable form of a formula whose inputs are all supplied as numbers, along every axis.
pub fn kind_of_anything(formula: &FormulaNode, at: FormulaContext) -> Converted<ExecutableKind> {
    let other = |of: &checked::Signal| {
        ExecutableKind::Signal(Signal::Other { text: text::signal(of), axis: formula.axis })
    };
    match &formula.kind {
        // These depend on the runtime, not on the objective.
        FormulaKind::Signal(
            of @ (checked::Signal::Available { .. } | checked::Signal::Plain(PlainSignal::VocabularySize)),
        ) => Ok(other(of)),
        FormulaKind::Signal(of) => signal(of, at).or_else(|_| Ok(other(of))),
        FormulaKind::Live(of) if formula.axis == Axis::Token => {
            live(of, at).or_else(|_| Ok(ExecutableKind::Live(Live::Other { text: text::live(of) })))
        }
        _ => kind_on_any_axis(formula, at),
    }
}

fn kind_on_any_axis(formula: &FormulaNode, at: FormulaContext) -> Converted<ExecutableKind> {
    Ok(match &formula.kind {
        FormulaKind::Number(value) => ExecutableKind::Number(*value),
        FormulaKind::Schedule(schedule) => ExecutableKind::Schedule(schedule.clone()),
        FormulaKind::Adaptive(checked::Adaptive::Ladder { .. }) => {
            return Err(refused(at, "a `ladder` in this place"));
        }
        FormulaKind::Adaptive(checked::Adaptive::Learned { .. }) => {
            return Err(refused(at, "a learned schedule"));
        }
        FormulaKind::Signal(of) => signal(of, at)?,
        FormulaKind::Live(checked::Live::Preference(preference)) => match preference.kind {
            checked::PreferenceKind::Dpo { .. } if preference.on.is_none() => ExecutableKind::Dpo,
            checked::PreferenceKind::Dpo { .. } => {
                return Err(refused(at, "`live dpo` on one span of a completion"));
            }
            checked::PreferenceKind::BradleyTerry => {
                let on =
                    preference.on.as_ref().map_or(Ok(ScorePosition::Completion), |span| read_on(span, at))?;
                ExecutableKind::BradleyTerry { on }
            }
        },
        FormulaKind::Live(checked::Live::SquaredError { part, dimensions: None, .. })
            if let Some(on) = read_of(part) =>
        {
            ExecutableKind::SquaredError { on }
        }
        FormulaKind::Live(checked::Live::Part(part)) if let Some(on) = read_of(part) => {
            ExecutableKind::Score { of: None, on }
        }
        FormulaKind::Live(checked::Live::Part(checked::ModelSignal::Confidence)) => {
            ExecutableKind::Confidence
        }
        FormulaKind::Live(checked::Live::BinaryCrossEntropy {
            part: checked::ModelSignal::Confidence,
            ..
        }) => ExecutableKind::CrossEntropy,
        FormulaKind::Live(of) => live(of, at)?,
        FormulaKind::Entry(_) => return Err(refused(at, "a side of a divergence outside of it")),
        FormulaKind::Variable(name) => return Err(refused(at, format!("`{name}` without a value"))),
        FormulaKind::Apply { function, .. } => ExecutableKind::Apply(*function),
        FormulaKind::Reduce { on: Some(_), .. } => {
            return Err(refused(at, "a reduction over another rollout (`on`)"));
        }
        FormulaKind::Reduce { reduction, .. } => ExecutableKind::Reduce(*reduction),
        FormulaKind::Statistic { statistic, over, .. } => {
            ExecutableKind::Statistic { statistic: *statistic, over: *over }
        }
        FormulaKind::Scan { scan, over, .. } => ExecutableKind::Scan { scan: scan.clone(), over: *over },
        FormulaKind::Memory { memory, .. } => ExecutableKind::Memory(*memory),
        FormulaKind::Across { index, .. } => ExecutableKind::Across { index: *index },
    })
}

fn read_on(span: &NamedSpan, at: FormulaContext) -> Converted<ScorePosition> {
    match span {
        NamedSpan::Tag(tag) => Ok(ScorePosition::Span { tag: tag.clone() }),
        NamedSpan::FinalTurn => Err(refused(at, "a score on `span.final_turn`")),
    }
}

/// The role whose scalar head is read.
fn scored(of: &checked::Role, at: FormulaContext) -> Converted<Role> {
    match role(of, at)? {
        Role::Sampler => Err(refused(at, "the scalar head of the sampler")),
        role => Ok(role),
    }
}

/// The axis, refused if the runtime's batches do not have it.
pub fn axis(axis: Axis, at: impl Into<Span>) -> Converted<Axis> {
    match axis {
        Axis::Run | Axis::Batch | Axis::Domain | Axis::Group | Axis::Sequence | Axis::Turn | Axis::Token => {
            Ok(axis)
        }
        Axis::Block | Axis::Vocab => Err(refused(at, format!("one number per {}", axis.name()))),
    }
}

fn signal(signal: &checked::Signal, at: FormulaContext) -> Converted<ExecutableKind> {
    use checked::Signal as Checked;
    let unknown = || Err(refused(at, format!("the signal `{}`", text::signal(signal))));
    Ok(ExecutableKind::Signal(match signal {
        Checked::Plain(PlainSignal::Remaining) => return Ok(ExecutableKind::Remaining),
        Checked::Plain(PlainSignal::Turn) => return Ok(ExecutableKind::Turn),
        Checked::Plain(PlainSignal::Selected) => return Ok(ExecutableKind::Selected),
        Checked::Plain(PlainSignal::Block | PlainSignal::Masked) => return unknown(),
        Checked::Plain(plain) => Signal::Plain(*plain),
        Checked::Of { role: of, part } => {
            // Of `old`, numbers of each token are kept and no distribution, which `role` refuses.
            let role = if *of == checked::Role::Old { Role::Old } else { role(of, at)? };
            if let Some(on) = read_of(part) {
                return Ok(ExecutableKind::Score { of: Some(scored(of, at)?), on });
            }
            match part {
                ModelSignal::Mean | ModelSignal::Deviation => return unknown(),
                ModelSignal::Confidence if role == Role::Student => Signal::Confidence,
                ModelSignal::Confidence => return unknown(),
                part if role == Role::Old && !part.definition().from_distribution => return unknown(),
                part => Signal::Of { role, part: *part },
            }
        }
        Checked::Divergence(of) => Signal::Divergence(divergence(of, at)?),
        Checked::Overlap { left, right, k } => {
            Signal::Overlap { left: role(left, at)?, right: role(right, at)?, k: *k }
        }
        Checked::Mass { role: of, support: on } => {
            let role = role(of, at)?;
            let with = if role == Role::Student { Role::TEACHER } else { role };
            Signal::Mass { role, support: support(on, with, at)? }
        }
        Checked::InNucleus { role: of, p } => Signal::InNucleus { role: role(of, at)?, p: *p },
        Checked::SupportSize { support: of } => {
            Signal::SupportSize { support: support(of, Role::TEACHER, at)? }
        }
        Checked::InSpan(NamedSpan::FinalTurn) => return Ok(ExecutableKind::InFinalTurn),
        Checked::InSpan(NamedSpan::Tag(tag)) => Signal::InSpan { tag: tag.clone() },
        Checked::RewardPart { part } => Signal::RewardPart { part: part.clone() },
        // A teacher that is a model of the run, and in no panel, scores wherever it has an input.
        Checked::Available { role: of } => match role(of, at)? {
            role if at.roles.partial.contains(&role) => Signal::Available { role },
            _ => return Ok(ExecutableKind::PerSequence(1.0)),
        },
        Checked::TermLoss { term } => Signal::TermLoss { term: term.clone() },
        Checked::State { name, axis, .. } => Signal::State { name: name.clone(), axis: *axis },
        Checked::ValidationLoss => Signal::ValidationLoss,
        Checked::OfSteps { number, window } => Signal::OfSteps { number: *number, window: *window },
        Checked::Data { field } => Signal::Data { field: field.clone() },
        Checked::DomainIs { domain, .. } => {
            return match at.roles.domains.as_slice() {
                [] => unknown(),
                [only] => Ok(ExecutableKind::PerDomain(f64::from(u8::from(only == domain)))),
                domains => Ok(match domains.iter().position(|known| known == domain) {
                    Some(place) => ExecutableKind::InDomain(place),
                    None => ExecutableKind::PerDomain(0.0),
                }),
            };
        }
        Checked::Random { draw, axis } => Signal::Uniform { draw: *draw, axis: self::axis(*axis, at)? },
        Checked::DataIs { field, text } => Signal::DataIs { field: field.clone(), text: text.clone() },
        Checked::Agreement { role: of, samples, by: Similarity::Edit } => {
            Signal::Agreement { role: role(of, at)?, samples: *samples }
        }
        Checked::SpanScore { role: of, span } => {
            return Ok(ExecutableKind::Score { of: Some(scored(of, at)?), on: read_on(span, at)? });
        }
        Checked::Agreement { .. } => return unknown(),
    }))
}

fn live(live: &checked::Live, at: FormulaContext) -> Converted<ExecutableKind> {
    let unknown = |what: &str| Err(refused(at, what));
    Ok(ExecutableKind::Live(match live {
        checked::Live::Part(checked::ModelSignal::Logp) => Live::Logp,
        checked::Live::Part(checked::ModelSignal::EndLogp) => Live::EndLogp,
        checked::Live::Divergence(of) => Live::Divergence(divergence(of, at)?),
        checked::Live::Likelihood { of } => Live::Likelihood { of: role(of, at)? },
        checked::Live::Ranking { order: checked::Support::TopK { role: of, k } } => {
            Live::Ranking { role: role(of, at)?, k: *k }
        }
        checked::Live::Ranking { .. } => return unknown("`live ranking` of anything but `top_k`"),
        checked::Live::Part(part) => return unknown(&format!("`live student.{}`", part.name())),
        checked::Live::Preference(_) => return unknown("a preference in this place"),
        checked::Live::SquaredError { .. } => return unknown("`live mse`"),
        checked::Live::BinaryCrossEntropy { .. } => return unknown("`live bce`"),
    }))
}
