//! Pairs whose two completions are chosen from one group.

use mopd_plan::Formula;
use mopd_plan::producers::Ranked;

use super::chosen::numbers;
use super::pairs::ChosenSide;
use super::sample::NumberedDraw;
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;
use crate::zip::zip_equal;

pub(super) struct RankedProducer {
    chosen: Formula,
    rejected: Formula,
    of: Box<dyn SequenceProducer>,
}

pub(super) fn make(ranked: &Ranked, context: &ProducerContext) -> Result<RankedProducer> {
    let [inside, _] = context.inside();
    let Ranked { chosen, rejected, of } = ranked;
    Ok(RankedProducer { chosen: chosen.clone(), rejected: rejected.clone(), of: super::make(of, &inside)? })
}

impl SequenceProducer for RankedProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let mut groups = self.of.draw(batch, draws, purpose)?;
        let mut largest = |formula, what| -> Result<Vec<Option<usize>>> {
            let mut numbers = numbers(batch, formula, what, &mut groups)?.into_iter();
            Ok(groups.iter().map(|group| first_largest(numbers.by_ref().take(group.len()))).collect())
        };
        let chosen = largest(&self.chosen, "the number of `chosen`")?;
        let rejected = largest(&self.rejected, "the number of `rejected`")?;
        Ok(zip_equal(groups, zip_equal(chosen, rejected)).map(|(group, sides)| pair(group, sides)).collect())
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }
}

/// The place of the largest number, of equal ones the first.
fn first_largest(numbers: impl Iterator<Item = f64>) -> Option<usize> {
    let larger = |one: (usize, f64), next: (usize, f64)| if next.1 > one.1 { next } else { one };
    numbers.enumerate().reduce(larger).map(|(place, _)| place)
}

/// The chosen completion and the rejected one; empty if they are the same one.
fn pair(group: Group, sides: (Option<usize>, Option<usize>)) -> Group {
    let (Some(chosen), Some(rejected)) = sides else { return Vec::new() };
    if chosen == rejected {
        return Vec::new();
    }
    let side = |place: usize, chosen| group[place].clone().with_extra(&ChosenSide(chosen));
    vec![side(chosen, true), side(rejected, false)]
}
