//! The options of a training loop: settings with a default that mean the same before and after the loop is
//! made executable.
//!
//! An option is a field here, a key of the checker's table of settings, and its use. Its text in plans and
//! keys, its difference between two plans, its row in an outline, and its refusal by engines without such a
//! setting follow from the field.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Origin;
use super::optimizers::{GradientAlignment, Private, Validation};

/// The options of a training loop. An option is part of the keys of results; the compiler names those of
/// which only a part is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Passes over each batch of rollouts.
    pub passes: u32,
    /// The parts of equal size that the prompts of a batch of rollouts are divided into, with one update for
    /// each in a pass.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub mini_batches: u32,
    /// The differential privacy of records; `None` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    /// The decay of an exponential moving average of the weights, which is then the stage's result. Where
    /// absent, the result is the weights after the last step.
    pub ema: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<GradientAlignment>,
    pub execution: Execution,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            passes: 1,
            mini_batches: 1,
            private: None,
            ema: None,
            validation: None,
            alignment: None,
            execution: Execution::default(),
        }
    }
}

impl TrainOptions {
    /// The updates from each batch of rollouts: for every pass, one for each mini-batch.
    pub fn updates_per_batch(&self) -> u32 {
        self.passes.max(1).saturating_mul(self.mini_batches.max(1))
    }

    /// The options by their names in the language.
    pub fn written(&self) -> Map<String, Value> {
        let fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            other => unreachable!("options are a struct of plain data, not {other:?}"),
        };
        let ours = |field: String| match field.as_str() {
            "validation" => "validate".to_owned(),
            "alignment" => "gradient_alignment".to_owned(),
            _ => field,
        };
        let mut written: Map<String, Value> =
            fields.into_iter().map(|(field, value)| (ours(field), value)).collect();
        // Plans leave it out where a batch is not divided.
        written.entry("mini_batches").or_insert(self.mini_batches.into());
        written
    }

    /// The options that differ from their defaults, by name.
    pub fn changed(&self) -> Map<String, Value> {
        let usual = TrainOptions::default().written();
        self.written().into_iter().filter(|(name, value)| usual.get(name) != Some(value)).collect()
    }
}

/// The places in the source of options at which diagnostics point; that of the stage's objective where an
/// option is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionOrigins {
    pub private: Origin,
    pub validation: Origin,
    pub alignment: Origin,
}

/// How a step is computed. This affects memory; results are the same up to the rounding of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Sequences per forward and backward pass; the whole batch where absent.
    pub micro_batch: Option<u32>,
    pub checkpointing: Checkpointing,
}

/// The layers whose activations are recomputed in the backward pass instead of being kept (arXiv:1604.06174).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpointing {
    #[default]
    None,
    /// This many layers, from the first.
    Layers(u32),
    All,
}

impl Checkpointing {
    /// The number of checkpointed layers, counted from the first; for `All`, more than any model has.
    pub fn layers(self) -> usize {
        match self {
            Checkpointing::None => 0,
            Checkpointing::Layers(layers) => layers as usize,
            Checkpointing::All => usize::MAX,
        }
    }
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}
