//! Converts a checked rollout for the runtime.

use mopd_lang::diag::Diagnostic;
use mopd_lang::experiment::{self as checked, BatchSize, Edit, RolloutSource};
use mopd_lang::source::Span;

use super::{
    Producer, Rollout, chosen, each_turn, pairs, retry, rewrite, source, speculative, through, turns,
};
use crate::plan::{Axis, Formula, Keep, Moving, Sampling, Schedule, moving};
use crate::refusal::{Converted, Origins, refused};

/// Lowers a formula that depends on completions before a step trains on them, with one value for each element
/// of an axis; the text describes it, as a noun phrase.
pub(crate) type OfCompletions<'a> =
    &'a dyn Fn(&mopd_lang::formula::Formula, &str, Axis) -> Converted<Formula>;

/// Converts what a stage trains on; the error lists everything that can't be executed.
pub(crate) fn rollout(
    train: &checked::Train,
    origins: Origins,
    of_completions: OfCompletions,
) -> Result<Rollout, Vec<Diagnostic>> {
    if let Some(pairs) = pairs::compared(train, origins).transpose() {
        return pairs.map_err(|refusal| vec![*refusal]);
    }
    let at = origins.span(train.rollout.origin);
    // Edits of turns on a rollout without turns.
    let strays = other_edits(&train.rollout).filter(|edit| turns::makes(edit));
    let mut refusals: Vec<Diagnostic> = strays.map(|edit| *refused(at, edit_name(edit))).collect();
    let made = match &train.rollout.source {
        RolloutSource::Speculative { .. } => speculative::executable(train, origins),
        RolloutSource::EachTurn { .. } => each_turn::executable(train, origins),
        _ => producer(&train.rollout, train.keep, origins, of_completions),
    };
    let made = made.and_then(|producer| {
        let rollout = Rollout::new(groups(&producer, train.size, at)?, producer);
        with_keep(rollout, train.keep, at)
    });
    match made.map_err(|refusal| refusals.push(*refusal)) {
        Ok(rollout) if refusals.is_empty() => Ok(rollout),
        _ => Err(refusals),
    }
}

pub(super) fn edit_name(edit: &checked::Edit) -> String {
    format!("the edit `{}` of a rollout", edit.name())
}

/// Whether the texts of a rollout can be edited: not with a buffer, which stores completions as drawn, nor an
/// episode, which has the environment's tokens, nor a pair, which has two writers.
pub(super) fn editable(edit: &Edit, rollout: &checked::Rollout, at: Span) -> Converted<()> {
    let written = matches!(
        rollout.source,
        RolloutSource::Sample(_)
            | RolloutSource::From { .. }
            | RolloutSource::Snapshot { .. }
            | RolloutSource::TokenMix { .. }
            | RolloutSource::Interleave { .. }
            | RolloutSource::Refine { .. }
    );
    let (edit, source) = (edit.name(), rollout.source.name());
    if written { Ok(()) } else { Err(refused(at, format!("the edit `{edit}` of the rollout `{source}`"))) }
}

/// The edits that neither choose completions nor are part of how the source draws.
pub(super) fn other_edits(rollout: &checked::Rollout) -> impl Iterator<Item = &checked::Edit> {
    let turns = matches!(rollout.source, RolloutSource::Turns { .. });
    rollout.edits.iter().filter(move |edit| !(chosen::makes(edit) || turns && turns::makes(edit)))
}

/// A rollout with its edits, applied in order.
pub(crate) fn producer(
    rollout: &checked::Rollout,
    keep: Keep,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    let made = source(rollout, keep, origins, of_completions)?;
    rollout.edits.iter().try_fold(made, |made, edit| match edit {
        Edit::Through { .. } => through::executable(made, edit, rollout, origins),
        Edit::Retry { .. } => retry::executable(made, edit, rollout, origins, of_completions),
        Edit::Rewrite { .. } => rewrite::executable(made, edit, rollout, origins, of_completions),
        _ => chosen::executable(made, edit, at, of_completions),
    })
}

/// For completions that are generated once, the choice is made then.
pub(super) fn with_keep(rollout: Rollout, keep: Keep, at: Span) -> Converted<Rollout> {
    match rollout.producer.once() {
        Some(_) => Ok(rollout),
        None if keep == Keep::All || rollout.producer.drawn_anew() => Ok(Rollout { keep, ..rollout }),
        None => Err(refused(at, "`keep = correct` of completions that are not all drawn anew in every step")),
    }
}

/// The number of groups of a step.
pub(super) fn groups(producer: &Producer, size: BatchSize, at: Span) -> Converted<u32> {
    let of_group = producer.kind().group().max(1);
    match size {
        BatchSize::Prompts(_) if producer.once().is_some() => {
            Err(refused(at, "a batch of a teacher's rollouts that is counted in prompts"))
        }
        BatchSize::Prompts(groups) => Ok(groups),
        BatchSize::Sequences(sequences) if sequences % of_group == 0 => Ok(sequences / of_group),
        BatchSize::Sequences(_) => {
            Err(refused(at, "a batch that is not a whole number of prompts with all their samples"))
        }
    }
}

/// The sampling settings of completions that are drawn once, before the first step.
pub(super) fn sampling_once(
    of: &checked::Sampling,
    origins: Origins,
    origin: checked::Origin,
) -> Converted<Sampling> {
    match sampling(of, origins, origin)? {
        sampling if sampling.max_tokens_moves.is_none() => Ok(sampling),
        _ => {
            let at = origins.span(of.max_tokens.0.origin);
            Err(refused(at, "a `max_tokens` that changes during the run, of rollouts that are made once,"))
        }
    }
}

pub(crate) fn sampling(
    sampling: &checked::Sampling,
    origins: Origins,
    origin: checked::Origin,
) -> Converted<Sampling> {
    let at = origins.span(origin);
    let checked::Sampling { n, temperature, max_tokens, top_p, top_k, repetition_penalty, heads, stop } =
        sampling;
    if heads.is_some() {
        return Err(refused(at, "sampling with several output heads in this place"));
    }
    let moves = moving(max_tokens, "a `max_tokens`", origins)?;
    let limit = moves.largest().round();
    Ok(Sampling {
        // The whole distribution is no restriction: such a run is the same run.
        top_p: top_p.filter(|p| *p < 1.0),
        top_k: *top_k,
        repetition_penalty: repetition_penalty.filter(|penalty| *penalty != 1.0),
        stop: stop.clone(),
        max_tokens_moves: Some(moves)
            .filter(|moves| !matches!(moves, Moving::Schedule(Schedule::Constant { .. }))),
        ..Sampling::new(*n, *temperature, limit as u32)
    })
}
