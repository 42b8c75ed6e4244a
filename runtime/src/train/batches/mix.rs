//! `mix(share, first, second)`: each group is from `first` with probability `share`, else from `second`.

use mopd_plan::AdaptiveSchedule;
use mopd_plan::producers::Mix;

use super::sample::{NumberedDraw, draw_by};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::failure::Result;
use crate::random::Purpose;

pub(super) struct MixProducer {
    share: AdaptiveSchedule,
    first: Box<dyn SequenceProducer>,
    second: Box<dyn SequenceProducer>,
    /// The number in the tree of producers, so that nested mixes have different random numbers.
    node: u32,
}

pub(super) fn make(mix: &Mix, context: &ProducerContext) -> Result<MixProducer> {
    let [first, second] = context.inside();
    Ok(MixProducer {
        share: mix.share.clone(),
        first: super::make(&mix.first, &first)?,
        second: super::make(&mix.second, &second)?,
        node: context.node,
    })
}

impl SequenceProducer for MixProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let share = self.share.at(batch.step, batch.stage.steps, batch.climbed);
        let key = batch.key(Purpose::Mix);
        let from_second = |draw: &NumberedDraw| key.row(draw.number, self.node).uniform() >= share;
        draw_by(draws, from_second, |second, draws| {
            let side = if second { &self.second } else { &self.first };
            side.draw(batch, draws, purpose)
        })
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.first, &*self.second]
    }
}
