//! `first_of(tried |> keep(correct), hinted)`: for each prompt, the first choice that has a completion.
//!
//! A choice is drawn only for prompts without a completion from an earlier choice. Choices that differ only
//! in their edits of the same rollout share its completions, which are drawn once.

use mopd_compiler::plan::Producer;
use mopd_compiler::plan::producers::{FirstOf, SampleChoice};

use super::chosen::choose;
use super::sample::Numbered;
use super::{Batch, Draws, Group, Making};
use crate::failure::Result;
use crate::random::Purpose;
use crate::zip::zip_equal;

pub(super) struct OfFirst {
    /// The distinct producers.
    drawn: Vec<Box<dyn Draws>>,
    /// For each choice, the index of its producer, and its edits in the order of application.
    choices: Vec<(usize, Vec<SampleChoice>)>,
}

/// Offset of the prompts' numbers from producer to producer: each has its own random numbers.
const BESIDE: u32 = 1 << 28;

pub(super) fn make(first: &FirstOf, making: &Making) -> Result<OfFirst> {
    let (mut known, mut drawn, mut choices): (Vec<&Producer>, Vec<_>, _) = Default::default();
    let mut rest = *making;
    for choice in &first.choices {
        let (producer, edits) = taken_apart(choice);
        let place = known.iter().position(|known| *known == producer);
        if place.is_none() {
            let [here, behind] = rest.inside();
            drawn.push(super::make(producer, &here)?);
            known.push(producer);
            rest = behind;
        }
        Vec::push(&mut choices, (place.unwrap_or(known.len() - 1), edits));
    }
    Ok(OfFirst { drawn, choices })
}

/// The producer of a choice, and its edits in the order of application.
fn taken_apart(producer: &Producer) -> (&Producer, Vec<SampleChoice>) {
    match producer {
        Producer::Chosen(chosen) => {
            let (producer, mut edits) = taken_apart(&chosen.of);
            edits.push(chosen.choice.clone());
            (producer, edits)
        }
        producer => (producer, Vec::new()),
    }
}

impl Draws for OfFirst {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Group>> {
        let mut found: Vec<Group> = vec![Group::new(); draws.len()];
        // By producer and prompt.
        let mut known: Vec<Vec<Option<Group>>> = vec![vec![None; draws.len()]; self.drawn.len()];
        for (index, edits) in &self.choices {
            let open: Vec<usize> = (0..draws.len()).filter(|place| found[*place].is_empty()).collect();
            let new: Vec<usize> =
                open.iter().copied().filter(|place| known[*index][*place].is_none()).collect();
            let beside = BESIDE * *index as u32;
            let number = |place: &usize| Numbered { number: draws[*place].number + beside, ..draws[*place] };
            if !new.is_empty() {
                let asked: Vec<Numbered> = new.iter().map(number).collect();
                let groups = self.drawn[*index].draw(batch, &asked, purpose)?;
                zip_equal(&new, groups).for_each(|(place, group)| known[*index][*place] = Some(group));
            }
            let drawn = open.iter().map(|place| known[*index][*place].clone().expect("it was drawn"));
            let left = edits.iter().try_fold(drawn.collect(), |left, edit| choose(batch, edit, left))?;
            zip_equal(open, left).for_each(|(place, group)| found[place] = group);
        }
        Ok(found)
    }

    fn inside(&self) -> Vec<&dyn Draws> {
        self.drawn.iter().map(|drawn| &**drawn).collect()
    }
}
