//! What of a step's execution moves the rounding of its result, and with it the key.

use serde::Serialize;

use super::{Checkpointing, Producer, Train};

#[derive(Serialize)]
pub struct Rounding {
    /// It moves the order of sums.
    micro_batch: Option<u32>,
    /// Layers that are computed again give the same bits, but not to the bit what generation computed and
    /// would save of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpointing: Option<Checkpointing>,
}

impl<O> Train<O> {
    pub fn rounding(&self) -> Rounding {
        let generated = matches!(self.rollout.producer, Producer::Student(_));
        let checkpointing = Some(self.execution.checkpointing).filter(|of| *of != Checkpointing::None);
        Rounding {
            micro_batch: self.execution.micro_batch,
            checkpointing: checkpointing.filter(|_| generated),
        }
    }
}
