//! `first_of(tried |> keep(correct), hinted)`: for each prompt, the first choice that has a completion.
//!
//! A choice is drawn only for prompts without a completion from an earlier choice. Choices
//! that edit the same rollout share its completions, which are drawn once.

use mopd_plan::producers::{FirstOf, SampleChoice};

use super::chosen::choose;
use super::sample::NumberedDraw;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;
use crate::zip::zip_equal;

pub(super) struct FirstOfProducer {
    /// The distinct producers.
    drawn: Vec<Box<dyn SequenceProducer>>,
    /// For each choice, the index of its producer, and its edits in the order of application.
    choices: Vec<(usize, Vec<SampleChoice>)>,
}

/// Offset of the prompts' numbers from producer to producer: each has its own random numbers.
const BESIDE: u32 = 1 << 28;

pub(super) fn make(first: &FirstOf, context: &ProducerContext) -> Result<FirstOfProducer> {
    let mut drawn = Vec::new();
    let mut choices: Vec<(usize, Vec<SampleChoice>)> = Vec::with_capacity(first.choices.len());
    let mut rest = *context;
    for (place, (choice, same)) in zip_equal(&first.choices, first.shared()).enumerate() {
        let (producer, edits) = choice.before_choices();
        if same == place {
            let [here, behind] = rest.inside();
            drawn.push(super::make(producer, &here)?);
            rest = behind;
        }
        let index = if same == place { drawn.len() - 1 } else { choices[same].0 };
        choices.push((index, edits.into_iter().cloned().collect()));
    }
    Ok(FirstOfProducer { drawn, choices })
}

impl SequenceProducer for FirstOfProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut found: Vec<Group> = vec![Group::new(); draws.len()];
        // By producer and prompt.
        let mut known: Vec<Vec<Option<Group>>> = vec![vec![None; draws.len()]; self.drawn.len()];
        for (index, edits) in &self.choices {
            let open: Vec<usize> = (0..draws.len()).filter(|place| found[*place].is_empty()).collect();
            let new: Vec<usize> =
                open.iter().copied().filter(|place| known[*index][*place].is_none()).collect();
            let beside = BESIDE * *index as u32;
            let number =
                |place: &usize| NumberedDraw { number: draws[*place].number + beside, ..draws[*place] };
            if !new.is_empty() {
                let asked: Vec<NumberedDraw> = new.iter().map(number).collect();
                let groups = self.drawn[*index].draw(batch, &asked, purpose)?;
                zip_equal(&new, groups).for_each(|(place, group)| known[*index][*place] = Some(group));
            }
            let drawn = open.iter().map(|place| known[*index][*place].clone().expect("it was drawn"));
            let left = edits.iter().try_fold(drawn.collect(), |left, edit| choose(batch, edit, left))?;
            zip_equal(open, left).for_each(|(place, group)| found[place] = group);
        }
        Ok(found)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        self.drawn.iter().map(|drawn| &**drawn).collect()
    }
}
