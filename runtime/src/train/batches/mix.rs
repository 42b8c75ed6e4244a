//! `mix(share, first, second)`: each group from the first with probability `share`, else from the second.

use mopd_compiler::plan::Schedule;
use mopd_compiler::plan::producers::Mix;

use super::sample::Numbered;
use super::{Batch, Draws, Making, make};
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::Sequence;

pub(super) struct Mixed {
    share: Schedule,
    first: Box<dyn Draws>,
    second: Box<dyn Draws>,
    /// Of the tree: another mix inside chooses by other numbers.
    node: u32,
}

pub(super) fn make_mixed(mix: &Mix, making: &Making) -> Result<Mixed> {
    let [first, second] = making.inside();
    Ok(Mixed {
        share: mix.share.clone(),
        first: make(&mix.first, &first)?,
        second: make(&mix.second, &second)?,
        node: making.node,
    })
}

impl Draws for Mixed {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Sequence>> {
        let share = self.share.at(batch.step, batch.stage.steps);
        let key = batch.key(Purpose::Mix);
        let (ours, theirs): (Vec<Numbered>, Vec<Numbered>) =
            draws.iter().partition(|draw| key.row(draw.number, self.node).uniform() < share);
        let mut groups: Vec<(u32, Vec<Sequence>)> = Vec::with_capacity(draws.len());
        for (side, draws) in [(&self.first, &ours), (&self.second, &theirs)] {
            if draws.is_empty() {
                continue;
            }
            let sequences = side.draw(batch, draws, purpose)?;
            let of_group = sequences.len() / draws.len();
            let numbers = draws.iter().map(|draw| draw.number);
            groups.extend(numbers.zip(sequences.chunks(of_group).map(<[Sequence]>::to_vec)));
        }
        groups.sort_by_key(|(number, _)| *number);
        Ok(groups.into_iter().flat_map(|(_, group)| group).collect())
    }
}
