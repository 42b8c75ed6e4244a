//! `agreement(teacher, samples: 10, by: edit)`: a role's continuations from the beginnings of the student's
//! blocks (arXiv:2606.01476).

use mopd_expr::graph::Operation;

use super::{Objective, Role, Signal, Statistic};

/// The continuations that an objective needs, in every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    pub role: Role,
    /// Continuations of each block.
    pub samples: u32,
    /// The most blocks of a completion, and the tokens of each, unless several are merged.
    pub blocks: u32,
    pub width: u32,
}

impl Agreement {
    pub fn signal(&self) -> Signal {
        Signal::Agreement { role: self.role, samples: self.samples }
    }

    /// The most tokens of a completion that are in blocks.
    pub fn longest(&self) -> u32 {
        self.blocks.saturating_mul(self.width)
    }

    /// The most tokens that the role writes for a completion.
    pub fn written(&self) -> f64 {
        f64::from(self.samples) * f64::from(self.longest())
    }
}

impl Objective {
    /// The continuations that the objective needs, in the order of the graph's nodes.
    pub fn agreements(&self) -> Vec<Agreement> {
        let choice = self.chosen.map(|chosen| &self.graph.node(chosen).operation);
        let Some(Operation::Statistic { statistic: Statistic::Chunks { most, width }, .. }) = choice else {
            return Vec::new();
        };
        let agreement = |signal| match signal {
            Signal::Agreement { role, samples } => {
                Some(Agreement { role, samples, blocks: *most, width: *width })
            }
            _ => None,
        };
        self.graph.signals(&self.outputs()).into_iter().filter_map(agreement).collect()
    }
}
