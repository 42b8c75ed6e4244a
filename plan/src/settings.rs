//! The settings that the runtime can execute. The language's types can express more; lowering refuses the
//! rest by name.

pub use mopd_lang::experiment::{
    AdamW, Adapter, AdapterKind, Architecture, ChangedElements, Checkpointing, Device, DomainId, Dtype,
    Execution, Family, FieldColumn, GpuArithmetic, Keep, Length, MarkedSetting, Merge, MergeMethod, ModelId,
    Origin, Pretrained, Projection, PromptFormat, Recipe, Schedule, ScheduleLength, SettingMark, Sgd, Share,
    StageStep, Temperature, TokenizerSpec, Trainable, WeightFilter, WeightGroup,
};
use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::data::DataFormula;
use super::events;
use super::producers::SampledBy;
use super::{
    AdaptiveSchedule, Composition, Curriculum, Extrapolation, Feedback, Formula, GradientAlignment, Guard,
    Panel, Producer, Rollout, Scorers, Served, StepFunction, Validation, View,
};

/// A training loop. SFT, GRPO and distillation differ in the source of prefixes and in the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train<O> {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// The template that replaces the prompts for the student.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// The other models whose distributions the objective reads.
    #[serde(flatten)]
    pub scorers: Scorers,
    /// Panels of scorers, which discuss a prompt first.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub panels: Vec<Panel>,
    /// Texts that models write about completions before these are scored.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    /// Passes over each batch of rollouts.
    pub passes: u32,
    /// The parts that the prompts of a batch of rollouts are divided into, with one update for each in a
    /// pass.
    #[serde(default = "events::one", skip_serializing_if = "events::is_one")]
    pub mini_batches: u32,
    /// A condition per group. A prompt whose rollouts do not meet it is replaced by the next one
    /// (arXiv:2503.14476, eq. 11).
    pub filter: Option<Formula>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// Weights per domain, from states, that the domains' shares of a step's prompts are proportional to.
    /// They replace the shares of `mixture`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Formula>,
    pub objective: O,
    /// Terms with completions of their own. Their gradients are added to those of `objective`.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub own_data: Vec<OwnData<O>>,
    pub trainable: Trainable,
    pub optimizer: Optimizer,
    /// The differential privacy of records; `None` without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    pub length: Length,
    pub learning_rate: StepFunction,
    /// The decay of an exponential moving average of the weights, which is then the stage's result. Where
    /// absent, the result is the weights after the last step.
    pub ema: Option<f64>,
    /// The guards, in the order in which they are evaluated.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
    /// The extrapolation of the weights between steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extrapolation: Option<Extrapolation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<GradientAlignment>,
    pub execution: Execution,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Optimizer {
    AdamW(AdamW),
    Sgd(Sgd),
}

impl Optimizer {
    /// The numbers of the optimizer's state per parameter, in single precision.
    pub fn moments(&self) -> u64 {
        match self {
            Optimizer::AdamW(_) => 2,
            Optimizer::Sgd(sgd) => u64::from(sgd.momentum != 0.0),
        }
    }
}

/// Differential privacy: each record's gradient is clipped, and noise is added to their sum, so that all
/// steps together are (`epsilon`, `delta`)-differentially private.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Private {
    pub clip: f64,
    pub epsilon: f64,
    pub delta: f64,
}

/// Terms of an objective that are trained on completions of their own, besides the stage's rollout. These are
/// drawn for the prompts of the same step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnData<O> {
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    /// The objective with only these terms.
    pub objective: O,
}

impl<O: Clone> Train<O> {
    /// One stage for each of `own_data`, with only these terms, on their completions.
    pub fn own_parts(&self) -> Vec<Train<O>> {
        let part = |OwnData { rollout, objective }: OwnData<O>| Train {
            rollout,
            objective,
            own_data: Vec::new(),
            ..self.clone()
        };
        self.own_data.iter().cloned().map(part).collect()
    }
}

impl<O> Train<O> {
    /// The updates from each batch of rollouts: for every pass, one for each mini-batch.
    pub fn updates_per_batch(&self) -> u32 {
        self.passes.max(1).saturating_mul(self.mini_batches.max(1))
    }

    /// The models that must exist before the stage, with repetition.
    pub fn inputs(&self) -> Vec<ModelId> {
        std::iter::once(self.start)
            .chain(self.scorer_and_writer_models())
            .chain(self.trainable.models())
            .collect()
    }

    /// The models that score or write.
    pub fn scorer_and_writer_models(&self) -> impl Iterator<Item = ModelId> {
        self.scorers.models().chain(self.producers().flat_map(Producer::models))
    }

    /// The stage's teachers on servers, with repetition.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        let choices = self.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
        choices.filter_map(|choice| choice.teacher.served())
    }

    /// The rollouts that servers sample.
    pub fn sampled_by(&self) -> impl Iterator<Item = &SampledBy> {
        let all = self.producers().chain(self.measured()).flat_map(Producer::all);
        all.filter_map(|producer| match producer {
            Producer::SampledBy(kind) => Some(kind.as_ref()),
            _ => None,
        })
    }

    /// The stage's rollout, then the rollouts of terms with completions of their own.
    pub fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        std::iter::once(&self.rollout).chain(self.own_data.iter().map(|own| &own.rollout))
    }

    /// The producers of all its rollouts.
    pub fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.rollouts().map(|rollout| &rollout.producer)
    }

    /// The producers of completions that are measured to choose prompts.
    pub fn measured(&self) -> impl Iterator<Item = &Producer> {
        self.curriculum.iter().flat_map(|curriculum| &curriculum.rollouts)
    }

    /// Applies `change` to all its rollouts.
    pub fn each_rollout(&mut self, mut change: impl FnMut(&mut Rollout)) {
        change(&mut self.rollout);
        self.own_data.iter_mut().for_each(|own| change(&mut own.rollout));
    }

    /// The objectives, each with the rollout that it is trained on.
    pub fn objectives(&self) -> impl Iterator<Item = (&Rollout, &O)> {
        let own = self.own_data.iter().map(|own| (&own.rollout, &own.objective));
        std::iter::once((&self.rollout, &self.objective)).chain(own)
    }

    /// All templates that replace the prompts of a domain.
    pub fn views(&self, domain: DomainId) -> impl Iterator<Item = &View> {
        let scorers = self.scorers.readers(domain).filter_map(|choice| choice.sees.as_ref());
        let feedback =
            self.feedback.iter().filter(move |feedback| feedback.is_written(&self.scorers, domain));
        let of_writers = self
            .producers()
            .chain(self.measured())
            .flat_map(Producer::views)
            .chain(feedback.filter_map(Feedback::sees));
        self.sees.iter().chain(scorers).chain(of_writers)
    }

    /// The arms of the route for the prompts of a domain, in order.
    pub fn arms(&self, domain: DomainId) -> impl Iterator<Item = &TeacherChoice> {
        self.scorers.routed().iter().filter(move |choice| choice.domain == domain)
    }

    /// The conditions on a prompt's data for the arms of a domain, in order, without the last arm, which
    /// takes all other prompts. Empty where one teacher has all prompts.
    pub fn conditions(&self, domain: DomainId) -> Vec<DataFormula> {
        self.arms(domain).map_while(|choice| choice.when.clone()).collect()
    }
}

/// An arm of a route that covers all prompts. Among a domain's arms, the first that applies decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// The condition on the prompt; absent for all prompts, as in a domain's last arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DataFormula>,
    /// `specialist[sort]`
    pub name: String,
    pub teacher: Teacher,
    /// The template that replaces the prompt for the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// Whether it tokenizes the student's text with its own tokenizer. The two are then compared where a
    /// token of both begins (`align = tokens`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_tokens: bool,
}

/// The source of a teacher's distributions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    Model(ModelId),
    /// The student, with its weights of some step.
    Student(StudentCopy),
    /// Composed of other scorers.
    Composed(Composition),
    /// Another model of the same stage, by index, with its current weights. Its initial weights are `start`.
    Learner {
        learner: u32,
        start: ModelId,
    },
    /// A model that another program has loaded.
    Served(Box<Served>),
}

impl Teacher {
    /// The model whose weights the teacher has, which must exist before the stage. `None` for other teachers.
    pub fn model(&self) -> Option<ModelId> {
        match self {
            Teacher::Model(model) => Some(*model),
            Teacher::Student(_) | Teacher::Composed(_) | Teacher::Learner { .. } | Teacher::Served(_) => None,
        }
    }

    /// The model that has the teacher's specification: itself, or its start.
    pub fn spec_model(&self) -> Option<ModelId> {
        if let Teacher::Learner { start, .. } = self { Some(*start) } else { self.model() }
    }

    pub fn composition(&self) -> Option<&Composition> {
        if let Teacher::Composed(composition) = self { Some(composition) } else { None }
    }

    pub fn served(&self) -> Option<&Served> {
        if let Teacher::Served(served) = self { Some(served) } else { None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentCopy {
    /// The weights of the current step.
    Current,
    /// An average, updated after every step: rate * average + (1 - rate) * weights.
    Average { rate: f64 },
    /// A copy, renewed every `steps` steps.
    Every { steps: u32 },
}

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
