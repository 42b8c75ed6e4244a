//! `replay(sample(...), capacity: 10_000, share: 0.25)`: each group from a buffer of earlier ones with
//! probability `share`, where the buffer has one of the same source, else from the producer inside.
//!
//! Replayed groups leave the buffer. All groups of the batch then enter it as its newest, in the order of the
//! batch. Beyond `capacity` groups, the oldest leave.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use mopd_plan::producers::{Replay, ReplayContents};
use serde::{Deserialize, Serialize};

use super::sample::{NumberedDraw, draw_by, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::Extra;
use crate::store::state::BufferedGroup;
use crate::train::completions::of_groups;
use crate::train::stage::Texts;
use crate::zip::zip_equal;

/// Marks a sequence that, or whose prompt, comes from a buffer of earlier rollouts. Always true.
#[derive(Serialize, Deserialize)]
pub struct Replayed(pub bool);

impl Extra for Replayed {
    const NAME: &str = "replayed";
}

pub(super) struct ReplayProducer {
    settings: Replay,
    of: Box<dyn SequenceProducer>,
    /// The number in the tree of producers, so that nested buffers have different random numbers.
    node: u32,
    buffer: RefCell<Buffer>,
}

/// Earlier groups, the oldest first.
pub struct Buffer {
    kept: VecDeque<BufferedGroup>,
    capacity: usize,
    /// The changes of the last batch, applied when the whole batch was drawn.
    change: Option<BufferChange>,
}

struct BufferChange {
    /// Indices in the buffer.
    leave: BTreeSet<usize>,
    enter: Vec<BufferedGroup>,
}

impl Buffer {
    /// Applies the changes of the last batch, after it was drawn completely.
    pub fn commit(&mut self) {
        let Some(BufferChange { leave, enter }) = self.change.take() else { return };
        let mut place = 0..;
        self.kept.retain(|_| place.next().is_none_or(|place| !leave.contains(&place)));
        self.kept.extend(enter);
        while self.kept.len() > self.capacity {
            self.kept.pop_front();
        }
    }

    pub fn state(&self) -> Vec<BufferedGroup> {
        self.kept.iter().cloned().collect()
    }

    pub fn restore(&mut self, kept: &[BufferedGroup]) {
        (self.kept, self.change) = (kept.iter().cloned().collect(), None);
    }

    /// The indices of a source's groups, in the order of replay.
    fn of_source(&self, source: usize) -> VecDeque<usize> {
        let mut places: Vec<usize> =
            (0..self.kept.len()).filter(|place| self.kept[*place].draw.source == source).collect();
        places.sort_by(|one, other| self.kept[*one].order().total_cmp(&self.kept[*other].order()));
        places.into()
    }
}

pub(super) fn make(replay: &Replay, context: &ProducerContext) -> Result<ReplayProducer> {
    let [inside, _] = context.inside();
    let buffer = Buffer { kept: VecDeque::new(), capacity: replay.capacity as usize, change: None };
    Ok(ReplayProducer {
        settings: replay.clone(),
        of: super::make(&replay.of, &inside)?,
        node: context.node,
        buffer: buffer.into(),
    })
}

impl SequenceProducer for ReplayProducer {
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>> {
        let places = self.replayed(batch, draws);
        let mut list = match self.settings.keeps {
            ReplayContents::Prompts => {
                let prompt = |(draw, place): (&NumberedDraw, &Option<usize>)| NumberedDraw {
                    draw: place.map_or(draw.draw, |place| self.buffer.borrow().kept[place].draw),
                    ..*draw
                };
                self.of.draw(batch, &zip_equal(draws, &places).map(prompt).collect::<Vec<_>>(), purpose)?
            }
            ReplayContents::Rollouts => {
                let place = |draw: &NumberedDraw| {
                    zip_equal(draws, &places)
                        .find(|(known, _)| known.number == draw.number)
                        .and_then(|(_, place)| *place)
                };
                draw_by(
                    draws,
                    |draw| place(draw).is_some(),
                    |replayed, draws| {
                        if !replayed {
                            return self.of.draw(batch, draws, purpose);
                        }
                        let buffer = self.buffer.borrow();
                        let group = |draw: &NumberedDraw| {
                            buffer.kept[place(draw).expect("it is replayed")].sequences.clone()
                        };
                        Ok(draws.iter().map(group).collect())
                    },
                )?
            }
        };
        for (group, place) in zip_equal(&mut list, &places) {
            if place.is_some() {
                group.iter_mut().for_each(|sequence| sequence.set_extra(&Replayed(true)));
            }
        }
        let enter = self.entering(batch.stage.texts(), &list, batch.step)?;
        let leave = places.into_iter().flatten().collect();
        self.buffer.borrow_mut().change = Some(BufferChange { leave, enter });
        Ok(list)
    }

    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        vec![&*self.of]
    }

    fn buffer(&self) -> Option<&RefCell<Buffer>> {
        Some(&self.buffer)
    }
}

impl ReplayProducer {
    /// For each draw, the index in the buffer of the group that replaces it; `None` where nothing does.
    fn replayed(&self, batch: &Batch, draws: &[NumberedDraw]) -> Vec<Option<usize>> {
        let buffer = self.buffer.borrow();
        let share = self.settings.share.at(batch.step, batch.stage.steps, batch.climbed);
        let key = batch.key(Purpose::Mix);
        let mut left: Vec<Option<VecDeque<usize>>> = vec![None; batch.stage.sources.len()];
        let mut place = |draw: &NumberedDraw| {
            let replayed = key.row(draw.number, self.node).uniform() < share;
            let source = draw.draw.source;
            replayed.then(|| left[source].get_or_insert_with(|| buffer.of_source(source)).pop_front())?
        };
        draws.iter().map(&mut place).collect()
    }

    /// The groups of a batch that enter the buffer.
    fn entering(&self, texts: Texts, list: &[Group], step: u32) -> Result<Vec<BufferedGroup>> {
        let Replay { keeps, condition, order, .. } = &self.settings;
        // Groups that an edit has left empty are not kept.
        let mut list: Vec<Group> = list.iter().filter(|group| !group.is_empty()).cloned().collect();
        let asked = condition.is_some() || order.is_some();
        if asked && list.iter().flatten().any(|sequence| sequence.reward.is_none()) {
            judge(texts, list.iter_mut().flatten())?;
        }
        let of = |formula: &Option<_>, what, otherwise| match formula {
            Some(formula) => of_groups(formula, &list, texts.sources.len(), texts.step(step), what),
            None => Ok(vec![otherwise; list.len()]),
        };
        let enters = of(condition, "the `while` of a `replay`", 1.0)?;
        let orders = of(order, "the `order` of a `replay`", 0.0)?;
        let group = |(group, (enters, order)): (&Group, (f64, f64))| {
            let sequences = if *keeps == ReplayContents::Rollouts { group.clone() } else { Vec::new() };
            let draw = Draw { source: group[0].source, record: group[0].record };
            (enters != 0.0).then(|| BufferedGroup::new(draw, order, sequences))
        };
        Ok(zip_equal(&list, zip_equal(enters, orders)).filter_map(group).collect())
    }
}
