//! Checks for numbers that are not finite, and the errors with which they stop a stage.
//!
//! Signals are checked before the objective's program runs: a comparison with NaN is false, so `where` could
//! turn an invalid log-probability into a valid weight.

use mopd_expr::batch::Batch;
use mopd_plan::events::FailureKind;
use mopd_plan::{Axis, ModelSignal, Objective, Origin, Role, Signal, Train};

use super::objective::{Outputs, adjoints, present};
use super::optimizer::gradient_norm;
use super::rollouts::Rollouts;
use super::scoring::{Scoring, score};
use super::sequences::Sequences;
use super::stage::StageSources;
use crate::failure::{Error, Result};
use crate::model::{Weights, layout};
use crate::zip::zip_equal;

/// Checks the learning rate of every step before the first one: a computed rate may divide by 0, or become
/// negative where the number of steps follows from the data.
pub fn check_learning_rate(stage: &str, train: &Train<Objective>, steps: u32) -> Result<()> {
    let rate = |step| (step, train.learning_rate.at(step, steps));
    let unfit = (0..steps).map(rate).find(|(_, rate)| !(rate.is_finite() && *rate >= 0.0));
    unfit.map_or(Ok(()), |(step, rate)| {
        let message = format!("the learning rate of `{stage}` is {rate} at step {step} of {steps}");
        Err(Error::new(FailureKind::NonFinite, message)
            .help("a learning rate must be finite and at least 0 at every step"))
    })
}

/// Checks all weights that training or a merge made.
pub fn check_weights(weights: &Weights) -> Result<()> {
    let mut bad = Vec::new();
    for entry in layout(&weights.config) {
        let count = weights.of(&entry).iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            bad.push((count, entry));
        }
    }
    weights.release();
    let Some((count, first)) = bad.first() else { return Ok(()) };
    let (name, of) = (&first.name, first.len());
    let rest = match &bad[1..] {
        [] => String::new(),
        others => {
            let (count, parameters) = (others.iter().map(|(count, _)| count).sum::<usize>(), others.len());
            format!(", and {count} in {parameters} other parameters")
        }
    };
    let message = format!("the resulting weights are not finite: {count} of {of} numbers in `{name}`{rest}");
    Err(Error::new(FailureKind::NonFinite, message))
}

/// Checks every number per token that the objective or the diagnostics read.
pub fn check_signals(
    objective: &Objective,
    sources: &StageSources,
    sequences: &Sequences,
    batch: &Batch,
) -> Result<()> {
    for (signal, values) in batch.signals.iter().filter(|(signal, _)| signal.axis() == Axis::Token) {
        if let Some(bad) = NonFiniteSite::find(values, sources, sequences) {
            return Err(bad.failure(&named(signal, bad.teacher.as_deref())).at(objective.origin));
        }
    }
    for (primitive, values) in zip_equal(&objective.live, &batch.live) {
        if let Some(bad) = NonFiniteSite::find(values, sources, sequences) {
            return Err(bad.failure("a live primitive of the objective").at(primitive.origin));
        }
    }
    Ok(())
}

/// Checks the terms, the denominators, the adjoints, the loss, the next values of the states, and the gain of
/// `learned(...)`.
pub fn check(
    objective: &Objective,
    sources: &StageSources,
    sequences: &Sequences,
    outputs: &Outputs,
) -> Result<()> {
    let selected = objective.selected.map(|selected| outputs.get(selected));
    for term in &objective.terms {
        let values = outputs.get(term.value);
        let taken = |token: usize| selected.is_none_or(|selected| selected[token] != 0.0);
        if let Some(bad) = NonFiniteSite::among(values, taken, sources, sequences) {
            return Err(bad.failure(&format!("the term `{}`", term.name)).at(term.origin));
        }
    }
    // A negative one would turn the gradient around.
    for denominator in &objective.denominators {
        let value = outputs.get(denominator.value)[0];
        if !(value > 0.0 && value.is_finite()) {
            let message = format!("the denominator of the loss is {value} at this step");
            let error = Error::new(FailureKind::NonFinite, message).at(denominator.origin);
            let help = "it must be above 0 at every step: hold it there with `max(..., 1)`; a mean over the \
                        tokens of a condition is `mean(token, over: batch, among: when)`";
            return Err(error.help(help));
        }
    }
    for primitive in &objective.live {
        if let Some(bad) = NonFiniteSite::find(outputs.get(primitive.adjoint), sources, sequences) {
            return Err(bad.failure("the loss's derivative").at(primitive.origin));
        }
    }
    if !outputs.get(objective.loss)[0].is_finite() {
        return Err(Error::new(FailureKind::NonFinite, "the loss is not finite").at(objective.origin));
    }
    for state in &objective.states {
        let next = outputs.get(state.next);
        let bad = match state.axis {
            Axis::Domain => zip_equal(next, zip_equal(&**sources, present(&sequences.layout)))
                .find(|(next, (_, present))| *present && !next.is_finite())
                .map(|(next, (source, _))| (next, format!(" for the domain `{}`", source.name))),
            _ => Some((&next[0], String::new())).filter(|(next, _)| !next.is_finite()),
        };
        if let Some((next, of)) = bad {
            let message = format!("the state `{}` is {next}{of} after this step", state.name);
            let error = Error::new(FailureKind::NonFinite, message).at(state.origin);
            return Err(error.help("bound it, as in `clip(..., 0.001, 1)`"));
        }
    }
    if let Some(learned) = &objective.learned
        && !outputs.get(learned.gain)[0].is_finite()
    {
        let message = "the gain of `learned(...)` is not finite";
        return Err(Error::new(FailureKind::NonFinite, message).at(objective.origin));
    }
    Ok(())
}

/// The error for a gradient that overflowed on its way through the model, with the first domain that does so.
/// `scoring` has an element for each part.
pub fn gradient<'a>(
    origin: Origin,
    scoring: impl ExactSizeIterator<Item = Scoring<'a>>,
    rollouts: &[Rollouts],
    evaluated: &[Option<(Batch, Outputs)>],
    step: u32,
) -> Error {
    let mut parts = zip_equal(scoring, zip_equal(rollouts, evaluated));
    let domain = parts.find_map(|(scoring, (rollouts, evaluated))| {
        let (_, outputs) = evaluated.as_ref()?;
        overflowing(&scoring, rollouts, outputs, step)
    });
    let place = domain.map(|domain| format!(" for the domain `{domain}`")).unwrap_or_default();
    Error::new(FailureKind::NonFinite, format!("the gradient is not finite{place}")).at(origin)
}

/// The first domain for which a part's gradient is not finite.
fn overflowing<'a>(
    scoring: &Scoring<'a>,
    rollouts: &Rollouts,
    outputs: &Outputs,
    step: u32,
) -> Option<&'a str> {
    let (stage, sequences) = (scoring.stage, &rollouts.sequences);
    let adjoints = adjoints(&stage.train.objective, outputs);
    stage.sources.iter().enumerate().find_map(|(index, source)| {
        let adjoints = sequences.alone(index, &adjoints);
        let adjoints: Vec<&[f32]> = adjoints.iter().map(Vec::as_slice).collect();
        let (batch, forward) = score(scoring, rollouts, step).ok()?;
        let gradient = forward.gradient(scoring, rollouts, &batch, &adjoints).ok()?;
        (!gradient_norm(&gradient).is_finite()).then_some(source.name)
    })
}

/// Numbers per token that are not finite.
struct NonFiniteSite {
    domain: String,
    teacher: Option<String>,
    /// Where the first one is, as messages name it: sequence, file, line and position.
    place: String,
    count: usize,
    of: usize,
}

impl NonFiniteSite {
    fn find(values: &[f32], sources: &StageSources, sequences: &Sequences) -> Option<NonFiniteSite> {
        NonFiniteSite::among(values, |_| true, sources, sequences)
    }

    /// Among the tokens for which `taken` is true.
    fn among(
        values: &[f32],
        taken: impl Fn(usize) -> bool,
        sources: &StageSources,
        sequences: &Sequences,
    ) -> Option<NonFiniteSite> {
        let bad = |token: &usize| !values[*token].is_finite() && taken(*token);
        let token = (0..values.len()).find(bad)?;
        let index = sequences.layout.sequence_of_token[token];
        let position = sequences.layout.sequence_of_token[..token]
            .iter()
            .rev()
            .take_while(|before| **before == index)
            .count();
        let sequence = &sequences.list[index as usize];
        let source = &sources[sequence.source];
        let dataset = &source.prompts.dataset;
        let (file, line) = dataset.place(sequence.record);
        Some(NonFiniteSite {
            domain: source.name.to_owned(),
            teacher: source.route.teacher(sequence.record).map(|teacher| teacher.name.clone()),
            place: format!("sequence {index} (the prompt of {}{line}), position {position}", file.display()),
            count: (0..values.len()).filter(bad).count(),
            of: values.len(),
        })
    }

    fn failure(&self, what: &str) -> Error {
        let NonFiniteSite { domain, place, count, of, .. } = self;
        let message = format!(
            "{what} is not finite for the domain `{domain}`: first at {place}; {count} of {of} tokens"
        );
        Error::new(FailureKind::NonFinite, message)
    }
}

/// The name of a signal in messages, with the teacher whose weights it was computed from.
fn named(signal: &Signal, teacher: Option<&str>) -> String {
    let (what, role) = match signal {
        Signal::Of { role, part: ModelSignal::Logp } => {
            ("the log-probability of the token taken", Some(*role))
        }
        Signal::Of { role, part: ModelSignal::EndLogp } => ("the log-probability of ending", Some(*role)),
        Signal::Of { role, part: ModelSignal::Entropy } => ("the entropy", Some(*role)),
        Signal::Of { role, part: ModelSignal::Top1 } => ("the largest probability", Some(*role)),
        Signal::Of { role, part: ModelSignal::Rank } => ("the rank of the token taken", Some(*role)),
        Signal::Mass { role, .. } => ("the mass of a support", Some(*role)),
        Signal::Divergence(_) => {
            ("a divergence", signal.roles().contains(&Role::TEACHER).then_some(Role::TEACHER))
        }
        _ => ("a signal of the objective", None),
    };
    match (role, teacher) {
        (Some(Role::TEACHER), Some(teacher)) => format!("{what}, of the teacher `{teacher}`,"),
        (Some(role), _) => format!("{what}, of the {},", role.name()),
        (None, _) => what.to_owned(),
    }
}
