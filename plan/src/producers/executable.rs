//! Converts a checked rollout for the runtime.

use mopd_lang::diag::Diagnostic;
use mopd_lang::experiment::{self as checked, BatchSize, Edit, RolloutSource, TokensOf};
use mopd_lang::source::Span;

use super::{
    Producer, Rollout, chosen, each_turn, pairs, retry, rewrite, source, speculative, through, turns,
};
use crate::refusal::{Converted, Origins, refused};
use crate::{AdaptiveSchedule, Axis, Formula, Keep, Sampling, Schedule, adaptive_schedule};

/// Lowers a formula that depends on completions before a step trains on them, with one value for each element
/// of an axis. The text describes the formula, as a noun phrase.
pub(crate) type OfCompletions<'a> =
    &'a dyn Fn(&mopd_lang::formula::Formula, &str, Axis) -> Converted<Formula>;

/// Converts the rollout of a stage. The error lists everything that can't be executed.
pub fn rollout(
    train: &checked::Train,
    origins: Origins,
    of_completions: OfCompletions,
) -> Result<Rollout, Vec<Diagnostic>> {
    if let Some(pairs) = pairs::compared(train, origins, of_completions).transpose() {
        return pairs.map_err(|refusal| vec![*refusal]);
    }
    let at = origins.span(train.rollout.origin);
    // Edits of turns, of a rollout without turns.
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

/// The refusal of an edit of a rollout inside `of`, which passes completions on as they were drawn.
pub(super) fn edit_inside(edit: &checked::Edit, of: &str, at: Span) -> Box<Diagnostic> {
    let refusal = *refused(at, format!("the edit `{}` of a rollout inside `{of}`", edit.name()));
    let help = format!(
        "inside `{of}`, completions may be chosen by `keep(...)` and `best(...)`; write other edits behind \
        the rollout of a whole stage, or of a term that has it as its `data`"
    );
    Box::new(refusal.help(help))
}

/// Checks that the texts of a rollout can be edited. A buffer stores completions as drawn, an episode
/// contains the environment's tokens, and a pair has two writers, so none of these can be.
pub(super) fn editable(edit: &Edit, rollout: &checked::Rollout, at: Span) -> Converted<()> {
    let written = match rollout.source.facts().tokens {
        TokensOf::Student(_)
        | TokensOf::By(..)
        | TokensOf::OfModel
        | TokensOf::Mixture(_)
        | TokensOf::Changed(_) => true,
        TokensOf::Data | TokensOf::Open | TokensOf::Inside | TokensOf::Earlier => false,
    };
    let (edit, source) = (edit.name(), rollout.source.name());
    if written { Ok(()) } else { Err(refused(at, format!("the edit `{edit}` of the rollout `{source}`"))) }
}

/// The edits that are no choice of completions and no setting of the source.
pub(super) fn other_edits(rollout: &checked::Rollout) -> impl Iterator<Item = &checked::Edit> {
    let turns = matches!(rollout.source, RolloutSource::Turns { .. });
    rollout.edits.iter().filter(move |edit| !(chosen::makes(edit) || turns && turns::makes(edit)))
}

/// A rollout with its edits, applied in order.
pub fn producer(
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

/// Adds `keep`. Completions that are generated once have applied it then.
pub(super) fn with_keep(rollout: Rollout, keep: Keep, at: Span) -> Converted<Rollout> {
    match rollout.producer.once() {
        Some(_) => Ok(rollout),
        None if keep == Keep::All || rollout.producer.all_redrawn() => Ok(Rollout { keep, ..rollout }),
        None => Err(refused(
            at,
            "`keep = correct` of completions that are not all sampled anew at every \
            step",
        )),
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
            Err(refused(at, "a batch size that is not a multiple of the samples per prompt"))
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
