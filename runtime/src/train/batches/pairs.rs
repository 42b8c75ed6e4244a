//! Pairs of completions: a chosen and a rejected one for each prompt.

use mopd_plan::producers::Pairs;
use serde::{Deserialize, Serialize};

use super::sample::{NumberedDraw, draw_by, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::{Extra, Sequence};
use crate::zip::zip_equal;

/// Whether a completion is the preferred one of its pair.
#[derive(Serialize, Deserialize)]
pub struct ChosenSide(pub bool);

impl Extra for ChosenSide {
    const NAME: &str = "chosen";
}

pub(super) struct PairsProducer {
    chosen: Box<dyn SequenceProducer>,
    rejected: Box<dyn SequenceProducer>,
}

pub(super) fn make(pairs: &Pairs, context: &ProducerContext) -> Result<PairsProducer> {
    // Both sides are judged together, if rewards are read.
    let [chosen, rejected] = ProducerContext { judged: false, ..*context }.inside();
    Ok(PairsProducer {
        chosen: super::make(&pairs.chosen, &chosen)?,
        rejected: super::make(&pairs.rejected, &rejected)?,
    })
}

impl SequenceProducer for PairsProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], _: Purpose) -> Result<Vec<Group>> {
        let of_sections = |side: &dyn SequenceProducer, purpose| {
            let section = |draw: &NumberedDraw| draw.section(&batch.stage.sources);
            draw_by(draws, section, |_, draws| side.draw(batch, draws, purpose))
        };
        let chosen = of_sections(&*self.chosen, Purpose::Rollout)?;
        let rejected = of_sections(&*self.rejected, Purpose::TeacherRollout)?;
        let mut list: Vec<Group> = zip_equal(chosen, rejected).map(pair).collect();
        if batch.stage.train.objective.reads_reward() {
            judge(batch.stage.texts(), list.iter_mut().flatten())?;
        }
        Ok(list)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.chosen, &*self.rejected]
    }

    fn fixed(&self, draw: Draw) -> Vec<&Sequence> {
        [self.chosen.fixed(draw), self.rejected.fixed(draw)].concat()
    }
}

fn pair((chosen, rejected): (Group, Group)) -> Group {
    let of_side = |group: Group, side| group.into_iter().map(move |one| one.with_extra(&ChosenSide(side)));
    of_side(chosen, true).chain(of_side(rejected, false)).collect()
}
