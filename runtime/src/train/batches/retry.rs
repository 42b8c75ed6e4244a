//! `... |> retry(until: correct, at_most: 8)`: completions are drawn again until a condition holds.

use mopd_plan::Formula;
use mopd_plan::producers::Retry;

use super::chosen::numbers;
use super::sample::NumberedDraw;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;
use crate::zip::zip_equal;

pub(super) struct RetryProducer {
    until: Formula,
    at_most: u32,
    of: Box<dyn SequenceProducer>,
}

/// Offset of the prompts' numbers from attempt to attempt: above the numbers of a step, below those that
/// `first_of` adds.
const ATTEMPT: u32 = 1 << 20;

pub(super) fn make(retry: &Retry, context: &ProducerContext) -> Result<RetryProducer> {
    let [inside, _] = context.inside();
    Ok(RetryProducer {
        until: retry.until.clone(),
        at_most: retry.at_most,
        of: super::make(&retry.of, &inside)?,
    })
}

impl SequenceProducer for RetryProducer {
    /// Draws all completions of a prompt again and replaces only those that missed, because random numbers go
    /// by a completion's index in its group.
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut groups = self.of.draw(batch, draws, purpose)?;
        for attempt in 1..self.at_most {
            let holds = numbers(batch, &self.until, "the condition of a `retry`", &mut groups)?;
            let mut holds = holds.into_iter().map(|holds| holds != 0.0);
            let missed = |group: &Group| -> Vec<bool> {
                holds.by_ref().take(group.len()).map(|holds| !holds).collect()
            };
            let missed: Vec<Vec<bool>> = groups.iter().map(missed).collect();
            let open = |place: &usize| missed[*place].contains(&true);
            let open: Vec<usize> = (0..groups.len()).filter(open).collect();
            if open.is_empty() {
                break;
            }
            let number = |place: &usize| draws[*place].number + ATTEMPT * attempt;
            let again: Vec<NumberedDraw> =
                open.iter().map(|place| NumberedDraw { number: number(place), ..draws[*place] }).collect();
            for (place, group) in zip_equal(&open, self.of.draw(batch, &again, purpose)?) {
                let slots = zip_equal(&mut groups[*place], &missed[*place]);
                for ((slot, missed), attempt) in zip_equal(slots, group) {
                    if *missed {
                        *slot = attempt;
                    }
                }
            }
        }
        Ok(groups)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}
