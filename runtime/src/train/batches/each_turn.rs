//! `each_turn(...)`: the student writes each of the assistant's turns in a recorded trajectory, after the
//! recorded turns before it. A draw is a trajectory; the samples of all its turns form one group.

use std::iter::zip;

use mopd_plan::Sampling;
use mopd_plan::producers::EachTurn;

use super::sample::{NumberedDraw, sequence};
use super::{Batch, Group, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::{Prompt, rollout};
use crate::zip::zip_equal;

pub(super) struct EachTurnProducer {
    sampling: Sampling,
}

pub(super) fn make(each_turn: &EachTurn) -> EachTurnProducer {
    EachTurnProducer { sampling: each_turn.sampling().clone() }
}

impl SequenceProducer for EachTurnProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let Batch { stage, student, step, climbed, .. } = *batch;
        let sampling = self.sampling.at(step, stage.steps, climbed);
        let n = sampling.n.max(1);
        let rows =
            |draw: &NumberedDraw| stage.sources[draw.draw.source].prompts.dataset.of_draw(draw.draw.record);
        let turns: Vec<(Draw, Prompt)> = draws
            .iter()
            .flat_map(|each| {
                let source = &stage.sources[each.draw.source];
                zip(rows(each), 0..).map(|(record, turn): (usize, u32)| {
                    let draw = Draw { source: each.draw.source, record };
                    // The samples of a turn have consecutive numbers among those of the trajectory.
                    let (id, sample) = (each.number, turn * n);
                    (draw, Prompt { tokens: source.tokens.get(record), id, sample, limit: source.limit })
                })
            })
            .collect();
        let (of_turns, prompts): (Vec<Draw>, Vec<Prompt>) = turns.into_iter().unzip();
        let completions =
            rollout(student, &prompts, &sampling, batch.key(purpose), stage.budget, stage.control)?;
        let of_samples = of_turns.iter().flat_map(|draw| std::iter::repeat_n(*draw, n as usize));
        let of_samples: Vec<Draw> = of_samples.collect();
        let mut list = zip_equal(of_samples, completions).map(|(draw, written)| sequence(draw, written));
        let group = |draw: &NumberedDraw| list.by_ref().take(rows(draw).len() * n as usize).collect();
        let groups: Vec<Group> = draws.iter().map(group).collect();
        assert!(list.next().is_none(), "every completion is of a trajectory");
        Ok(groups)
    }
}
