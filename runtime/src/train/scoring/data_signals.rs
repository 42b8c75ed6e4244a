//! Signals that come with the sequences of a step and need no scoring.

use mopd_plan::{ModelSignal, Objective, PlainSignal, Role, Signal, Train};

use crate::failure::Result;
use crate::rollout::{Sequence, Speculation};
use crate::train::batches::{ChosenSide, CorrectOf, TurnRewards};
use crate::train::completions::of_rows;
use crate::train::objective::missing;
use crate::train::sequences::Sequences;
use crate::train::stage::StageSources;

/// The values of a signal that comes with the sequences.
pub fn given(signal: &Signal, objective: &Objective, sequences: &Sequences) -> Result<Option<Vec<f32>>> {
    let per_sequence = |value: fn(&Sequence) -> Option<f32>, what: &str| {
        let values: Option<Vec<f32>> = sequences.list.iter().map(value).collect();
        values.map(Some).ok_or_else(|| missing(what, "the completions have no rewards", objective))
    };
    match signal {
        Signal::Of { role: Role::Sampler, part: ModelSignal::Logp } => {
            let recorded = sequences.sampled_logps();
            recorded
                .map(Some)
                .ok_or_else(|| missing("the sampler", "the completions come from the data", objective))
        }
        Signal::Plain(signal @ PlainSignal::Accepted) => {
            drafted(objective, sequences, signal.name(), |rejected, _| f32::from(u8::from(!rejected)))
        }
        Signal::Plain(signal @ PlainSignal::Offset) => drafted(
            objective,
            sequences,
            signal.name(),
            |rejected, place| {
                if rejected { (place + 1) as f32 } else { 0.0 }
            },
        ),
        Signal::Plain(PlainSignal::Head) => match sequences.heads() {
            Some(heads) => Ok(Some(heads.into_iter().map(f32::from).collect())),
            None => Err(missing("`head`", "its completions are sampled with one head", objective)),
        },
        Signal::Plain(PlainSignal::Truncated) => {
            per_sequence(|sequence| Some(f32::from(u8::from(sequence.truncated))), "truncated")
        }
        Signal::Plain(PlainSignal::Reward) => {
            per_sequence(|sequence| sequence.reward.map(|reward| reward as f32), "reward")
        }
        Signal::Plain(PlainSignal::Correct) => per_sequence(
            |sequence| sequence.reward.map(|reward| f32::from(u8::from(reward >= 1.0))),
            "reward",
        ),
        Signal::Plain(signal @ PlainSignal::TurnReward) => {
            let values: Option<Vec<Vec<f32>>> = sequences.list.iter().map(TurnRewards::of_tokens).collect();
            let why = "the environment gives no rewards";
            let values = values.ok_or_else(|| missing(&format!("`{}`", signal.name()), why, objective))?;
            Ok(Some(values.concat()))
        }
        Signal::Of { role, part: ModelSignal::Correct } => {
            let of = |sequence: &Sequence| Some(f32::from(u8::from(CorrectOf::role(sequence, *role)?)));
            let values: Option<Vec<f32>> = sequences.list.iter().map(of).collect();
            let why = "the teachers' own completions have no rewards";
            values.map(Some).ok_or_else(|| missing("`correct` of a teacher", why, objective))
        }
        Signal::RewardPart { part } => {
            let of = |sequence: &Sequence| sequence.reward_part(part).map(|reward| reward as f32);
            let values: Option<Vec<f32>> = sequences.list.iter().map(of).collect();
            let why = "the reward has no parts";
            values.map(Some).ok_or_else(|| missing(&format!("`reward.{part}`"), why, objective))
        }
        Signal::Chosen => per_sequence(
            |sequence| sequence.extra().map(|ChosenSide(chosen)| f32::from(u8::from(chosen))),
            "chosen",
        ),
        Signal::Other { text, .. } => Err(missing(text, "this version cannot compute it", objective)),
        _ => Ok(None),
    }
}

/// One number per token: `value` of whether its row is a rejected draft, and of the token's index among the
/// row's trained tokens.
fn drafted(
    objective: &Objective,
    sequences: &Sequences,
    what: &str,
    value: impl Fn(bool, usize) -> f32,
) -> Result<Option<Vec<f32>>> {
    if sequences.list.iter().any(|sequence| sequence.extra::<Speculation>().is_none()) {
        return Err(missing(what, "the completions were not sampled with drafts", objective));
    }
    let of_row = |sequence: &Sequence| -> Vec<f32> {
        let rejected = Speculation::is_rejected(sequence);
        (0..sequence.completion.trained()).map(|place| value(rejected, place)).collect()
    };
    Ok(Some(sequences.list.iter().flat_map(of_row).collect()))
}

/// The signals that the stage reads from columns of the data, per sequence.
pub fn of_data(
    train: &Train<Objective>,
    sources: &StageSources,
    sequences: &Sequences,
) -> Result<Vec<(Signal, Vec<f32>)>> {
    let rows: Vec<(usize, usize)> =
        sequences.list.iter().map(|sequence| (sequence.source, sequence.record)).collect();
    of_rows(train, sources, &rows)
}
