//! `mix(share, first, second)`: each group is from `first` with probability `share`, else from `second`.

use mopd_compiler::plan::Moving;
use mopd_compiler::plan::producers::Mix;

use super::sample::{Numbered, draw_by};
use super::{Batch, Draws, Group, Making};
use crate::failure::Result;
use crate::random::Purpose;

pub(super) struct Mixed {
    share: Moving,
    first: Box<dyn Draws>,
    second: Box<dyn Draws>,
    /// The number in the tree of producers, so that nested mixes have different random numbers.
    node: u32,
}

pub(super) fn make(mix: &Mix, making: &Making) -> Result<Mixed> {
    let [first, second] = making.inside();
    Ok(Mixed {
        share: mix.share.clone(),
        first: super::make(&mix.first, &first)?,
        second: super::make(&mix.second, &second)?,
        node: making.node,
    })
}

impl Draws for Mixed {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Group>> {
        let share = self.share.at(batch.step, batch.stage.steps, batch.climbed);
        let key = batch.key(Purpose::Mix);
        let from_second = |draw: &Numbered| key.row(draw.number, self.node).uniform() >= share;
        draw_by(draws, from_second, |second, draws| {
            let side = if second { &self.second } else { &self.first };
            side.draw(batch, draws, purpose)
        })
    }

    fn inside(&self) -> Vec<&dyn Draws> {
        vec![&*self.first, &*self.second]
    }
}
