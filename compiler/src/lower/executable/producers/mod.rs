//! Converts checked rollouts to producers. Combinations that this version can't execute are refused by name.

mod derived;
mod edits;
mod pairs;
mod sampling;
mod sources;

use mopd_experiment::{self as checked, BatchSize, RolloutSource};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::{Axis, Formula, Keep, Producer, Rollout};

use super::{Converted, Origins, refused};
use edits::{edit_name, is_of_turns, other_edits};
pub use sampling::sampling;

/// Lowers a formula that depends on completions before a step trains on them, with one value for each element
/// of an axis. The text describes the formula, as a noun phrase.
type OfCompletions<'a> = &'a dyn Fn(&mopd_experiment::formula::Formula, &str, Axis) -> Converted<Formula>;

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
    let strays = other_edits(&train.rollout).filter(|edit| is_of_turns(edit));
    let mut refusals: Vec<Diagnostic> = strays.map(|edit| *refused(at, edit_name(edit))).collect();
    let made = match &train.rollout.source {
        RolloutSource::Speculative { block, of } => sources::speculative(*block, of, train, origins),
        RolloutSource::EachTurn { history, of } => sources::each_turn(history, of, train, origins),
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

/// A rollout with its edits, applied in order.
pub fn producer(
    rollout: &checked::Rollout,
    keep: Keep,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let drawn = sources::source(rollout, keep, origins, of_completions)?;
    rollout.edits.iter().try_fold(drawn, |of, edit| edits::edited(of, edit, rollout, origins, of_completions))
}

/// Adds `keep`. Completions that are generated once have applied it then.
fn with_keep(rollout: Rollout, keep: Keep, at: Span) -> Converted<Rollout> {
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
fn groups(producer: &Producer, size: BatchSize, at: Span) -> Converted<u32> {
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
