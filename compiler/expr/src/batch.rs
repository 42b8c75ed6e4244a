//! The input of a graph's evaluation: one training batch, ragged, without padding.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::graph::signals::{Axis, PlainSignal, Signal};

use super::graph::{LiveId, NodeId};
use super::values::EvaluationError;

/// The sequence of each token, and the group of each sequence. Tokens of a sequence are adjacent and in
/// order; so are the sequences of a group. Only completion tokens count: prompts and padding are not
/// included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    pub sequence_of_token: Vec<u32>,
    pub group_of_sequence: Vec<u32>,
    pub groups: u32,
    /// The domains of the prompts; `None` where all have one domain.
    pub domains: Option<Domains>,
    /// The turns; `None` where every sequence is one turn.
    pub turns: Option<TokenPartition>,
    /// The blocks; `None` where every turn is one block.
    pub blocks: Option<TokenPartition>,
}

/// The domain of each group's prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Domains {
    pub of_group: Vec<u32>,
    pub count: u32,
}

/// A partition of the tokens into runs, each inside one element of the next coarser axis.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPartition {
    pub of_token: Vec<u32>,
    /// The sequence of each turn, or the turn of each block.
    pub parent: Vec<u32>,
}

impl TokenPartition {
    /// The partition into blocks by the mask `chosen`, one number per token, 0 for not chosen: adjacent
    /// chosen tokens of a turn form a block. The tokens between form runs, too, since every token must be in
    /// one, but no objective reads numbers of those.
    pub fn of_chosen(layout: &Layout, chosen: &[f32]) -> TokenPartition {
        assert_eq!(chosen.len(), layout.tokens(), "each token is chosen or not");
        let (mut of_token, mut parent): (Vec<u32>, Vec<u32>) = Default::default();
        let mut last = None;
        for (token, chosen) in chosen.iter().enumerate() {
            let turn = layout.parent(Axis::Token, Axis::Turn, token) as u32;
            let run = (turn, *chosen != 0.0);
            if last != Some(run) {
                parent.push(turn);
                last = Some(run);
            }
            of_token.push(parent.len() as u32 - 1);
        }
        TokenPartition { of_token, parent }
    }
}

impl Layout {
    pub fn tokens(&self) -> usize {
        self.sequence_of_token.len()
    }

    pub fn sequences(&self) -> usize {
        self.group_of_sequence.len()
    }

    /// Number of elements along an axis.
    pub fn len(&self, axis: Axis) -> usize {
        match axis {
            Axis::Run | Axis::Batch => 1,
            Axis::Domain => self.domains.as_ref().map_or(1, |domains| domains.count as usize),
            Axis::Group => self.groups as usize,
            Axis::Sequence => self.sequences(),
            Axis::Turn => self.turns.as_ref().map_or(self.sequences(), |turns| turns.parent.len()),
            Axis::Block => {
                self.blocks.as_ref().map_or_else(|| self.len(Axis::Turn), |blocks| blocks.parent.len())
            }
            Axis::Token => self.tokens(),
            Axis::Vocab => unreachable!("a checked graph has no number per vocabulary entry"),
        }
    }

    /// The element of `coarse` that contains element `index` of `fine`.
    pub fn parent(&self, fine: Axis, coarse: Axis, index: usize) -> usize {
        if fine == coarse {
            return index;
        }
        let of = |parents: &[u32], index: usize| parents[index] as usize;
        let through =
            |runs: &Option<TokenPartition>| runs.as_ref().map_or(index, |runs| of(&runs.parent, index));
        match (fine, coarse) {
            (_, Axis::Run | Axis::Batch) => 0,
            (Axis::Token, Axis::Block) if let Some(blocks) = &self.blocks => of(&blocks.of_token, index),
            (Axis::Token, Axis::Block | Axis::Turn) if let Some(turns) = &self.turns => {
                of(&turns.of_token, index)
            }
            (Axis::Token, Axis::Block | Axis::Turn | Axis::Sequence) => of(&self.sequence_of_token, index),
            (Axis::Token, _) => self.parent(Axis::Sequence, coarse, of(&self.sequence_of_token, index)),
            (Axis::Block, _) => self.parent(Axis::Turn, coarse, through(&self.blocks)),
            (Axis::Turn, _) => self.parent(Axis::Sequence, coarse, through(&self.turns)),
            (Axis::Sequence, _) => self.parent(Axis::Group, coarse, of(&self.group_of_sequence, index)),
            (Axis::Group, Axis::Domain) => {
                self.domains.as_ref().map_or(0, |domains| of(&domains.of_group, index))
            }
            _ => unreachable!("the compiler never asks for a finer parent"),
        }
    }

    /// For each element of `fine`, the element of `coarse` that contains it.
    pub fn parents(&self, fine: Axis, coarse: Axis) -> Cow<'_, [u32]> {
        match (fine, coarse) {
            (Axis::Token, Axis::Sequence) => Cow::Borrowed(&self.sequence_of_token),
            (Axis::Sequence, Axis::Group) => Cow::Borrowed(&self.group_of_sequence),
            _ => {
                Cow::Owned((0..self.len(fine)).map(|index| self.parent(fine, coarse, index) as u32).collect())
            }
        }
    }

    /// Checks that every parent exists.
    ///
    /// # Errors
    /// If a parent does not exist, or if runs of tokens do not fit their sequences.
    pub fn check(&self) -> Result<(), EvaluationError> {
        let missing = |element, parent| Err(EvaluationError::Layout { element, parent });
        // No early exit, so that the loop can be vectorized.
        let inside = |parents: &[u32], limit: usize| {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            parents.iter().fold(true, |inside, parent| inside & (*parent < limit))
        };
        if !inside(&self.sequence_of_token, self.sequences()) {
            return missing("token", "sequence");
        }
        if !inside(&self.group_of_sequence, self.groups as usize) {
            return missing("sequence", "group");
        }
        if let Some(Domains { of_group, count }) = &self.domains
            && (of_group.len() != self.groups as usize || !inside(of_group, *count as usize))
        {
            return missing("group", "domain");
        }
        for (runs, axis, coarser) in
            [(&self.turns, Axis::Turn, Axis::Sequence), (&self.blocks, Axis::Block, Axis::Turn)]
        {
            let Some(TokenPartition { of_token, parent }) = runs else { continue };
            if of_token.len() != self.tokens() || !inside(of_token, parent.len()) {
                return missing("token", axis.name());
            }
            // A block without a parent turn would be read out of bounds; a block with tokens of another turn
            // would be averaged wrongly.
            let fits = |(token, run): (usize, &u32)| {
                parent[*run as usize] as usize == self.parent(Axis::Token, coarser, token)
            };
            if !inside(parent, self.len(coarser)) || !of_token.iter().enumerate().all(fits) {
                return missing(axis.name(), coarser.name());
            }
        }
        Ok(())
    }
}

/// All inputs of a graph. Values are per element of the signal's axis.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub layout: Layout,
    /// `position`, `length`, `domain_place`, `step`, `progress` and `correct` may be missing: they are
    /// derived from the rest.
    pub signals: Vec<(Signal, Vec<f32>)>,
    /// Values of the live primitives, per token, in the objective's order.
    pub live: Vec<Vec<f32>>,
    /// The step (from 0) and the number of steps, for schedules, `step` and `progress`.
    pub step: u32,
    pub steps: u32,
    /// The values that memory nodes carry over from the step before, see [`super::graph::Graph::carried`];
    /// empty at the first step.
    pub carried: HashMap<NodeId, f64>,
    /// The measures of each group's prompt, measure by measure ([`Signal::Measured`]). In f64: formulas that
    /// choose prompts are interpreted, and compare means with bounds where single precision would matter.
    pub measured: Vec<Vec<f64>>,
}

impl Batch {
    /// The values of a signal in the batch, one per element of its axis.
    ///
    /// # Panics
    /// If their number is wrong, because they would be read at other elements.
    pub fn signal(&self, wanted: &Signal) -> Option<&[f32]> {
        let values = self.given(wanted)?;
        assert_eq!(
            values.len(),
            self.layout.len(wanted.axis()),
            "{wanted:?}: one value per element of its axis"
        );
        Some(values)
    }

    fn given(&self, wanted: &Signal) -> Option<&[f32]> {
        self.signals.iter().find(|(signal, _)| signal == wanted).map(|(_, values)| values.as_slice())
    }

    /// The values of a signal, one per element of its axis: in the batch, or derived from it.
    pub fn values(&self, signal: &Signal) -> Result<Cow<'_, [f32]>, EvaluationError> {
        if let Some(values) = self.given(signal) {
            let expected = self.layout.len(signal.axis());
            return if values.len() == expected {
                Ok(Cow::Borrowed(values))
            } else {
                Err(EvaluationError::Length { what: format!("{signal:?}"), found: values.len(), expected })
            };
        }
        let missing = || EvaluationError::MissingSignal { signal: format!("{signal:?}") };
        Ok(Cow::Owned(match signal {
            Signal::Plain(PlainSignal::Position) => {
                let mut next = vec![0u32; self.layout.sequences()];
                let positions = self.layout.sequence_of_token.iter().map(|sequence| {
                    let next = &mut next[*sequence as usize];
                    *next += 1;
                    (*next - 1) as f32
                });
                positions.collect()
            }
            Signal::Plain(PlainSignal::Length) => {
                let mut lengths = vec![0u32; self.layout.sequences()];
                for sequence in &self.layout.sequence_of_token {
                    lengths[*sequence as usize] += 1;
                }
                lengths.into_iter().map(|length| length as f32).collect()
            }
            Signal::Plain(PlainSignal::Correct) => {
                let rewards = self.signal(&Signal::Plain(PlainSignal::Reward)).ok_or_else(missing)?;
                rewards.iter().map(|reward| f32::from(u8::from(*reward >= 1.0))).collect()
            }
            Signal::DomainPlace => (0..self.layout.len(Axis::Domain)).map(|place| place as f32).collect(),
            Signal::Plain(PlainSignal::Step) => vec![self.step as f32],
            Signal::Plain(PlainSignal::Progress) => {
                vec![(f64::from(self.step) / f64::from(self.steps.max(1))) as f32]
            }
            _ => return Err(missing()),
        }))
    }

    /// One measure of each group's prompt.
    pub fn measured(&self, measure: u32) -> Result<&[f64], EvaluationError> {
        let what = format!("measure {measure}");
        let values = self.measured.get(measure as usize);
        let values = values.ok_or(EvaluationError::MissingSignal { signal: what.clone() })?;
        let (found, expected) = (values.len(), self.layout.len(Axis::Group));
        if found != expected {
            return Err(EvaluationError::Length { what, found, expected });
        }
        Ok(values)
    }

    /// The values of a live primitive, one per token.
    pub fn live_values(&self, live: LiveId) -> Result<&[f32], EvaluationError> {
        let values = self.live.get(live.0 as usize).ok_or(EvaluationError::MissingLive { live: live.0 })?;
        if values.len() != self.layout.tokens() {
            let what = format!("live primitive {}", live.0);
            return Err(EvaluationError::Length {
                what,
                found: values.len(),
                expected: self.layout.tokens(),
            });
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_runs_of_chosen_tokens_inside_a_turn() {
        let layout = Layout {
            sequence_of_token: vec![0, 0, 0, 0, 0, 1, 1],
            group_of_sequence: vec![0, 0],
            groups: 1,
            ..Layout::default()
        };
        let chosen = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
        let blocks = TokenPartition::of_chosen(&layout, &chosen);
        assert_eq!(
            blocks,
            TokenPartition { of_token: vec![0, 1, 1, 2, 3, 4, 5], parent: vec![0, 0, 0, 0, 1, 1] }
        );
        assert_eq!(Layout { blocks: Some(blocks), ..layout.clone() }.check(), Ok(()));
        // Turns partition them further.
        let turns = TokenPartition { of_token: vec![0, 0, 1, 1, 1, 2, 2], parent: vec![0, 0, 1] };
        let layout = Layout { turns: Some(turns), ..layout };
        let blocks = TokenPartition::of_chosen(&layout, &chosen);
        let parent = vec![0, 0, 1, 1, 1, 2, 2];
        assert_eq!(blocks, TokenPartition { of_token: vec![0, 1, 2, 3, 4, 5, 6], parent });
        assert_eq!(Layout { blocks: Some(blocks), ..layout }.check(), Ok(()));
    }
}
