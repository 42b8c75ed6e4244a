//! The numbers that a graph is evaluated on: one training batch, ragged, without padding.

use mopd_lang::formula::{Axis, Signal};

/// Which sequence each token belongs to, and which group each sequence. Tokens of a sequence are adjacent and in order;
/// so are the sequences of a group. Only completion tokens are counted: prompts and padding never appear.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    pub sequence_of_token: Vec<u32>,
    pub group_of_sequence: Vec<u32>,
    pub groups: u32,
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
            Axis::Group => self.groups as usize,
            Axis::Sequence => self.sequences(),
            Axis::Token => self.tokens(),
        }
    }

    /// The element of `coarse` that element `index` of `fine` lies in.
    pub fn parent(&self, fine: Axis, coarse: Axis, index: usize) -> usize {
        if fine == coarse {
            return index;
        }
        match (fine, coarse) {
            (_, Axis::Run | Axis::Batch) => 0,
            (Axis::Token, Axis::Sequence) => self.sequence_of_token[index] as usize,
            (Axis::Token, Axis::Group) => self.group_of_sequence[self.sequence_of_token[index] as usize] as usize,
            (Axis::Sequence, Axis::Group) => self.group_of_sequence[index] as usize,
            _ => unreachable!("the compiler never asks for a finer parent"),
        }
    }
}

/// Everything a graph reads. Values are per element of the signal's axis.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub layout: Layout,
    pub signals: Vec<(Signal, Vec<f32>)>,
    /// Values of the live primitives, per token, in the objective's order.
    pub live: Vec<Vec<f32>>,
    /// The step (from 0) and the number of steps, for schedules.
    pub step: u32,
    pub steps: u32,
}

impl Batch {
    pub fn signal(&self, wanted: &Signal) -> Option<&[f32]> {
        self.signals.iter().find(|(signal, _)| signal == wanted).map(|(_, values)| values.as_slice())
    }
}
