//! What a machine can do, and what a step asks of it: what `mopd bench distill` compares a step with.

use serde::{Deserialize, Serialize};

use super::Dtype;

/// The most that a machine was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Floating-point operations a second in large products, a multiplication and an addition counted as
    /// two.
    pub float32: f64,
    pub bfloat16: f64,
    /// Bytes a second, read from memory one after the other.
    pub memory: f64,
}

/// A part of a step, as [`Seconds`](super::events::Seconds) divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPart {
    Rollout,
    Scoring,
    Update,
}

/// Work that can't begin before the work in front of it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub part: StepPart,
    pub name: String,
    /// How often it is done in a step.
    pub times: f64,
    /// Each time: floating-point operations of products, in the numbers that the model computes with.
    pub flops: f64,
    /// Each time: bytes that come from memory or go there.
    pub bytes: f64,
}

impl Phase {
    /// The least time of all its repetitions: it waits for products or for memory, whichever takes longer.
    pub fn seconds(&self, rates: Rates, dtype: Dtype) -> f64 {
        let rate = match dtype {
            Dtype::Float32 => rates.float32,
            Dtype::Bfloat16 => rates.bfloat16,
        };
        self.times * (self.flops / rate).max(self.bytes / rates.memory)
    }
}
