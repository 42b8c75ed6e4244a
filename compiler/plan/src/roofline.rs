//! The rates of a machine, and the work of a step, with which `mopd bench distill` compares a step.

use serde::{Deserialize, Serialize};

use super::Dtype;

/// The highest measured rates of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineRates {
    /// Floating-point operations per second in large matrix products; a multiplication and an addition count
    /// as two.
    pub float32: f64,
    pub bfloat16: f64,
    /// Bytes per second of sequential reads from memory.
    pub memory: f64,
}

/// A part of a step, as in [`Seconds`](super::events::Seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPart {
    Rollout,
    Scoring,
    Update,
}

/// A part of a step's work that begins when the phase before it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub part: StepPart,
    pub name: String,
    /// The number of repetitions in a step.
    pub times: f64,
    /// Floating-point operations of matrix products per repetition, in the compute dtype.
    pub flops: f64,
    /// Bytes read from or written to memory per repetition.
    pub bytes: f64,
}

impl Phase {
    /// The least time of all repetitions: the larger of the times for products and for memory.
    pub fn seconds(&self, rates: MachineRates, dtype: Dtype) -> f64 {
        let rate = match dtype {
            Dtype::Float32 => rates.float32,
            Dtype::Bfloat16 => rates.bfloat16,
        };
        self.times * (self.flops / rate).max(self.bytes / rates.memory)
    }
}
