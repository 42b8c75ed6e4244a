//! Converts sampling settings.

use mopd_experiment::{self as checked, RolloutSource};
use mopd_plan::{AdaptiveSchedule, Sampling, Schedule};

use super::edits::edit_name;
use crate::lower::executable::schedules::adaptive_schedule;
use crate::lower::refusal::{Converted, Origins, refused};

/// The settings of the student's own samples inside the rollout `outer`, which takes nothing else.
pub(super) fn samples(of: &checked::Rollout, outer: &str, origins: Origins) -> Converted<Sampling> {
    sampling(plain_sample(of, outer, origins)?, origins, of.origin)
}

/// [`samples`] that are drawn once, before the first step.
pub(super) fn samples_once(of: &checked::Rollout, outer: &str, origins: Origins) -> Converted<Sampling> {
    sampling_once(plain_sample(of, outer, origins)?, origins, of.origin)
}

fn plain_sample<'r>(
    of: &'r checked::Rollout,
    outer: &str,
    origins: Origins,
) -> Converted<&'r checked::Sampling> {
    let at = origins.span(of.origin);
    if let Some(edit) = of.edits.first() {
        return Err(refused(at, edit_name(edit)));
    }
    match &of.source {
        RolloutSource::Sample(sampling) => Ok(sampling),
        other => {
            let refusal = *refused(at, format!("`{outer}` of the rollout `{}`", other.name()));
            Err(Box::new(
                refusal.help(format!("`{outer}` takes the student's own completions: `sample(...)`")),
            ))
        }
    }
}

/// The sampling settings of completions that are drawn once, before the first step.
pub(super) fn sampling_once(
    of: &checked::Sampling,
    origins: Origins,
    origin: checked::Origin,
) -> Converted<Sampling> {
    let made = sampling(of, origins, origin)?;
    let (setting, name) = if made.max_tokens_moves.is_some() {
        (&of.max_tokens, "max_tokens")
    } else if made.moves() {
        (&of.temperature, "temperature")
    } else {
        return Ok(made);
    };
    let what = format!("sampling a fixed set of rollouts with a `{name}` that changes during the run");
    Err(refused(origins.span(setting.0.origin), what))
}

pub fn sampling(
    sampling: &checked::Sampling,
    origins: Origins,
    origin: checked::Origin,
) -> Converted<Sampling> {
    let at = origins.span(origin);
    let temperature = sampling.temperature();
    let checked::Sampling { n, temperature: _, max_tokens, top_p, top_k, repetition_penalty, heads, stop } =
        sampling;
    if heads.is_some() {
        return Err(refused(at, "sampling with several output heads in this place"));
    }
    let moves = adaptive_schedule(max_tokens, "a `max_tokens`", origins)?;
    let limit = moves.largest().round();
    Ok(Sampling {
        // A mass of 1 is no restriction, so the run is the same as without it.
        top_p: top_p.filter(|p| *p < 1.0),
        top_k: *top_k,
        repetition_penalty: repetition_penalty.filter(|penalty| *penalty != 1.0),
        stop: stop.clone(),
        max_tokens_moves: Some(moves)
            .filter(|moves| !matches!(moves, AdaptiveSchedule::Schedule(Schedule::Constant { .. }))),
        ..Sampling::new(*n, temperature, limit as u32)
    })
}
