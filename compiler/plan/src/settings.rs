//! The settings that the runtime can execute. The language's types can express more; lowering refuses the
//! rest by name.

pub use mopd_experiment::{
    AdamW, Adapter, AdapterKind, Architecture, ChangedElements, Checkpointing, Device, DomainId, Dtype,
    Execution, Family, FieldColumn, GpuArithmetic, GradientAlignment, GradientPartition, Keep, Length,
    MarkedSetting, Merge, MergeMethod, ModelId, Optimizer, Origin, Pretrained, PretrainedSource, Private,
    Projection, PromptFormat, Recipe, Schedule, ScheduleLength, SettingMark, Sgd, Share, StageStep,
    Temperature, TokenizerSpec, TrainOptions, Trainable, Validation, WeightFilter, WeightGroup,
};
use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::step_functions::AdaptiveSchedule;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Samples per prompt: the size of a group.
    pub n: u32,
    /// The sampling temperature; 0 is greedy.
    pub temperature: Temperature,
    /// Longest completion, in tokens, the end token included.
    pub max_tokens: u32,
    /// `max_tokens` at each step, if it changes. The field `max_tokens` is then the largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_moves: Option<AdaptiveSchedule>,
    /// Nucleus sampling from the fewest most probable entries with this mass; from all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Sampling from this many most probable entries, before `top_p`; from all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Logits of tokens of prompt and completion are divided by it if positive, and multiplied if negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Two tokens are sampled per step, the second by its own head, and kept if that head's confidence is at
    /// least this. One token per step where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<f64>,
    /// A completion ends after the first of these texts, which stays part of it.
    pub stop: Vec<String>,
}

impl Sampling {
    /// Sampling from the whole distribution, ending only at end tokens.
    pub fn new(n: u32, temperature: impl Into<Temperature>, max_tokens: u32) -> Sampling {
        let (top_p, top_k, repetition_penalty) = (None, None, None);
        Sampling {
            n,
            temperature: temperature.into(),
            max_tokens,
            max_tokens_moves: None,
            top_p,
            top_k,
            repetition_penalty,
            accept: None,
            stop: Vec::new(),
        }
    }

    /// The settings at `step` of `steps`. `climbed` has the rung of each ladder. `max_tokens` is rounded to
    /// the nearest integer.
    pub fn at(&self, step: u32, steps: u32, climbed: &[u32]) -> Cow<'_, Sampling> {
        if !self.moves() {
            return Cow::Borrowed(self);
        }
        let max_tokens = self.max_tokens_moves.as_ref().map_or(self.max_tokens, |moves| {
            let now = moves.at(step, steps, climbed).round() as u32;
            now.clamp(1, self.max_tokens)
        });
        Cow::Owned(Sampling {
            temperature: self.temperature.at(StageStep { step, steps }).into(),
            max_tokens,
            max_tokens_moves: None,
            ..self.clone()
        })
    }

    /// Whether any setting changes during training.
    pub fn moves(&self) -> bool {
        self.max_tokens_moves.is_some() || self.temperature.constant().is_none()
    }

    /// The temperature of the settings of one step, which [`Sampling::at`] returns, or of settings that are
    /// the same at every step.
    pub fn drawn_at(&self) -> f64 {
        self.temperature.constant().expect("these are the settings of one step")
    }

    pub fn is_greedy(&self) -> bool {
        self.temperature == Temperature::Constant(0.0)
    }

    /// Whether tokens are sampled from the full distribution at the temperature, so that their
    /// log-probabilities are the model's own.
    pub fn is_plain(&self) -> bool {
        self.top_p.is_none() && self.top_k.is_none() && self.repetition_penalty.is_none()
    }

    /// The limit of a completion in a domain that may have a limit of its own.
    pub fn max_tokens(&self, limit: Option<u32>) -> u32 {
        limit.map_or(self.max_tokens, |limit| limit.min(self.max_tokens))
    }
}
