//! What the runtime can execute, setting by setting. The language's own types say more; lowering refuses the
//! rest by name.

pub use mopd_lang::experiment::{
    AdamW, Adapter, AdapterKind, Architecture, ChangedElements, Checkpointing, Device, DomainId, Dtype,
    Execution, Family, FieldColumn, GpuArithmetic, Keep, Length, MarkedSetting, Merge, MergeMethod, ModelId,
    Origin, Pretrained, Projection, PromptFormat, Recipe, Schedule, ScheduleLength, SettingMark, Sgd, Share,
    TokenizerSpec, Trainable, WeightFilter, WeightGroup,
};
use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::data::{DataFormula, DataSource};
use super::producers::SampledBy;
use super::stages::Stage;
use super::{
    Comparison, Composition, Curriculum, Extrapolation, Feedback, Formula, GradientAlignment, Guard, Moving,
    OfStep, Panel, Producer, Reward, Rollout, Scorers, Served, Validation, View,
};

/// One experiment. Models are in topological order: a model's inputs stand before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment<O> {
    pub name: String,
    /// The first seed; a comparison over `n` seeds runs `seed, seed + 1, ...`.
    pub seed: u64,
    /// Folder for results, relative to where the command runs.
    pub out: Option<String>,
    /// The best there is where absent.
    pub device: Option<Device>,
    pub dtype: Dtype,
    #[serde(default, skip_serializing_if = "GpuArithmetic::is_default")]
    pub gpu: GpuArithmetic,
    pub domains: Vec<Domain>,
    pub models: Vec<Model<O>>,
    pub comparisons: Vec<Comparison>,
    /// Where values come from, as the author marked them. They change no result.
    pub marks: Vec<MarkedSetting>,
}

impl<O> Experiment<O> {
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model<O> {
        &self.models[id.0 as usize]
    }
}

/// A source of prompts with its verifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub name: String,
    pub prompts: DataSource,
    /// Held-out prompts for evaluation.
    pub tests: Option<DataSource>,
    /// Rows for the loss of stages that validate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<DataSource>,
    pub format: PromptFormat,
    pub reward: Reward,
    /// Share of prompts where several domains are mixed; the shares of all domains sum to 1.
    pub share: f64,
    /// Longest completion in this domain, in tokens, the end token included; a rollout's own limit holds as
    /// well.
    pub limit: Option<u32>,
    pub origin: Origin,
}

/// Weights: the value of a stage applied to other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model<O> {
    /// As the author named it: `start`, `expert[sort]`.
    pub name: String,
    pub stage: Stage<O>,
    pub origin: Origin,
}

/// One training loop. SFT, GRPO and distillation differ in where prefixes come from and in the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train<O> {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// What the student reads in place of the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// The distributions that the objective reads beside the student's.
    #[serde(flatten)]
    pub scorers: Scorers,
    /// Scorers that talk about a prompt first.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub panels: Vec<Panel>,
    /// What models write about completions before they are scored.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    /// Updates from each batch of rollouts.
    pub passes: u32,
    /// Per group: prompts whose rollouts it does not hold for are replaced by the next ones
    /// (arXiv:2503.14476, eq. 11).
    pub filter: Option<Formula>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// Per domain, of states: what the domains' shares of a step's prompts are proportional to, in place of
    /// those of `mixture`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Formula>,
    pub objective: O,
    /// Terms with completions of their own: their gradients are added to those of `objective`.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub own_data: Vec<OwnData<O>>,
    pub trainable: Trainable,
    pub optimizer: Optimizer,
    /// What a record may tell of itself; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    pub length: Length,
    pub learning_rate: OfStep,
    /// The stage's answer is the exponential moving average of its weights: so much of what it was at every
    /// step. The weights after the last step where absent.
    pub ema: Option<f64>,
    /// In the order in which they look at a step.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
    /// Longer steps, where they help.
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
    /// Numbers that it keeps of each parameter, in single precision.
    pub fn moments(&self) -> u64 {
        match self {
            Optimizer::AdamW(_) => 2,
            Optimizer::Sgd(sgd) => u64::from(sgd.momentum != 0.0),
        }
    }
}

/// Each record's gradient is clipped, and their sum gets noise, so that all steps together are
/// (`epsilon`, `delta`)-differentially private.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Private {
    pub clip: f64,
    pub epsilon: f64,
    pub delta: f64,
}

/// Terms of an objective that are trained on completions of their own, beside the stage's rollout. Draws are
/// of the step's prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnData<O> {
    #[serde(rename = "prefixes")]
    pub rollout: Rollout,
    /// Of these terms.
    pub objective: O,
}

impl<O: Clone> Train<O> {
    /// The same stage with the terms of each of `own_data` alone, on their completions.
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
    /// The models that must exist before, with repetition.
    pub fn inputs(&self) -> Vec<ModelId> {
        std::iter::once(self.start).chain(self.asked()).chain(self.trainable.models()).collect()
    }

    /// The models that score or write.
    pub fn asked(&self) -> impl Iterator<Item = ModelId> {
        self.scorers.models().chain(self.producers().flat_map(Producer::models))
    }

    /// Its teachers on servers, with repetition.
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

    /// The stage's rollout, then those of terms with completions of their own.
    pub fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        std::iter::once(&self.rollout).chain(self.own_data.iter().map(|own| &own.rollout))
    }

    /// The producers of all its rollouts.
    pub fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.rollouts().map(|rollout| &rollout.producer)
    }

    /// The producers of completions by which prompts are chosen.
    pub fn measured(&self) -> impl Iterator<Item = &Producer> {
        self.curriculum.iter().flat_map(|curriculum| &curriculum.rollouts)
    }

    /// Changes all its rollouts.
    pub fn each_rollout(&mut self, mut change: impl FnMut(&mut Rollout)) {
        change(&mut self.rollout);
        self.own_data.iter_mut().for_each(|own| change(&mut own.rollout));
    }

    /// The objectives, each with the rollout whose completions it judges.
    pub fn objectives(&self) -> impl Iterator<Item = (&Rollout, &O)> {
        let own = self.own_data.iter().map(|own| (&own.rollout, &own.objective));
        std::iter::once((&self.rollout, &self.objective)).chain(own)
    }

    /// What is read in place of the prompts of a domain, by whomever.
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

    /// What the data must say of a prompt for the first arm of a domain, for the second, and so on up to the
    /// last, which takes the rest; none where one teacher has all its prompts.
    pub fn conditions(&self, domain: DomainId) -> Vec<DataFormula> {
        self.arms(domain).map_while(|choice| choice.when.clone()).collect()
    }
}

/// One arm of a total route, after evaluation: of a domain's arms, the first that holds for a prompt decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// The prompts that it holds for; all where absent, as in a domain's last arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DataFormula>,
    /// `specialist[sort]`
    pub name: String,
    pub teacher: Teacher,
    /// What it reads in place of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// It reads the student's text as tokens of its own tokenizer, and is compared with the student where a
    /// token of both begins (`align = tokens`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_tokens: bool,
}

/// Where the distributions of a teacher come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    Model(ModelId),
    /// The student's own, as its weights were at some time.
    Student(StudentCopy),
    /// Made of those of other scorers.
    Composed(Composition),
    /// Another model of the same stage, by its place among them, as it is at this step. It begins as `start`.
    Learner {
        learner: u32,
        start: ModelId,
    },
    /// A model that another program holds.
    Served(Box<Served>),
}

impl Teacher {
    /// The model that must exist before the stage, where its weights are the teacher's own.
    pub fn model(&self) -> Option<ModelId> {
        match self {
            Teacher::Model(model) => Some(*model),
            Teacher::Student(_) | Teacher::Composed(_) | Teacher::Learner { .. } | Teacher::Served(_) => None,
        }
    }

    /// A model with its specification: itself, or what it begins as.
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
    /// As they are at this step.
    Current,
    /// rate * what they were + (1 - rate) * the student's, after every step.
    Average { rate: f64 },
    /// Copied every so many steps.
    Every { steps: u32 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Samples of one prompt: the size of a group.
    pub n: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion, in tokens, the end token included.
    pub max_tokens: u32,
    /// What `max_tokens` is at each step, where that is not always the same: it is the largest of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_moves: Option<Moving>,
    /// Drawn from the fewest most probable entries that together have this probability; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Drawn from this many entries, before `top_p`; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Logits of tokens of prompt and completion are divided (positive) or multiplied (negative) by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// Two tokens are drawn in a step, the second by a head of its own: it stands where that head's
    /// confidence is at least this. One token in a step where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<f64>,
    /// A completion ends behind the first of these texts, which it keeps.
    pub stop: Vec<String>,
}

impl Sampling {
    /// From the whole distribution, ending at end tokens only.
    pub fn new(n: u32, temperature: f64, max_tokens: u32) -> Sampling {
        let (top_p, top_k, repetition_penalty) = (None, None, None);
        Sampling {
            n,
            temperature,
            max_tokens,
            max_tokens_moves: None,
            top_p,
            top_k,
            repetition_penalty,
            accept: None,
            stop: Vec::new(),
        }
    }

    /// As it is at `step` of `steps`, after the ladders were `climbed` so often. What lies between two whole
    /// numbers is rounded to the nearest.
    pub fn at(&self, step: u32, steps: u32, climbed: &[u32]) -> Cow<'_, Sampling> {
        let Some(moves) = &self.max_tokens_moves else { return Cow::Borrowed(self) };
        let now = moves.at(step, steps, climbed).round() as u32;
        Cow::Owned(Sampling {
            max_tokens: now.clamp(1, self.max_tokens),
            max_tokens_moves: None,
            ..self.clone()
        })
    }

    /// Whether tokens are drawn from all that the model says, at the temperature: their log-probabilities are
    /// then the model's own.
    pub fn is_plain(&self) -> bool {
        self.top_p.is_none() && self.top_k.is_none() && self.repetition_penalty.is_none()
    }

    /// A completion ends here, in a domain with a limit of its own.
    pub fn max_tokens(&self, limit: Option<u32>) -> u32 {
        limit.map_or(self.max_tokens, |limit| limit.min(self.max_tokens))
    }
}
