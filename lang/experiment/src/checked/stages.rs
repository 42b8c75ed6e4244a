//! Models and the stages that make them: sources of weights, training, merging.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::optimizers::{Extrapolation, Optimizer};
use super::options::{OptionOrigins, TrainOptions};
use super::trainable::Trainable;
use super::{DomainId, Guard, Keep, ModelId, Objective, Origin, Rollout, Teacher, TeacherId, Template};
use crate::checked::formula::Formula;

/// A model: the result of a stage applied to other models.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The author's name: `start`, `expert[sort]`.
    pub name: String,
    pub stage: Stage,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Random weights.
    Initialise(Architecture),
    /// Weights that exist already.
    Load(Pretrained),
    Train(Box<Train>),
    Merge(Merge),
    /// Several models trained together; this is the first of them.
    Joint(Box<Joint>),
    /// Another model of a joint stage, by its index in [`Joint::members`].
    Member {
        joint: ModelId,
        member: usize,
    },
    /// A parameter of a stage, teacher or rollout that has no value yet: any model. An experiment contains
    /// none.
    Parameter,
}

/// A model that exists already, with an architecture and a tokenizer of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pretrained {
    #[serde(flatten)]
    pub source: PretrainedSource,
    /// Tokens that end a completion besides those that its files name: a base model under a chat template
    /// ends its turns with one that its files do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub end_tokens: Vec<String>,
    /// A file with the chat template that takes the place of those in the model's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// `enable_thinking` of the chat template, where a conversation does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_thinking: Option<bool>,
}

impl Pretrained {
    /// A model as its files have it.
    pub fn new(source: PretrainedSource) -> Pretrained {
        Pretrained { source, end_tokens: Vec::new(), chat_template: None, enable_thinking: None }
    }
}

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum PretrainedSource {
    /// A folder, or a name on the hub with a revision.
    HuggingFace {
        name: String,
        revision: Option<String>,
    },
    Gguf {
        file: String,
    },
    /// A model that an earlier run left.
    Checkpoint {
        folder: String,
    },
}

impl PretrainedSource {
    pub fn is_gguf(&self) -> bool {
        matches!(self, PretrainedSource::Gguf { .. })
    }

    /// The path or the name, as it is written.
    pub fn name(&self) -> &str {
        match self {
            PretrainedSource::HuggingFace { name, .. } => name,
            PretrainedSource::Gguf { file } => file,
            PretrainedSource::Checkpoint { folder } => folder,
        }
    }

    /// The word of the language that reads it.
    pub fn function(&self) -> &'static str {
        match self {
            PretrainedSource::HuggingFace { .. } => "hf",
            PretrainedSource::Gguf { .. } => "gguf",
            PretrainedSource::Checkpoint { .. } => "checkpoint",
        }
    }
}

/// Several models trained in turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    pub members: Vec<JointMember>,
    pub steps: Vec<JointStep>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JointMember {
    pub name: String,
    pub start: ModelId,
    pub sees: Option<Rc<Template>>,
    pub origin: Origin,
}

/// One kind of update.
#[derive(Clone, Debug, PartialEq)]
pub struct JointStep {
    pub name: String,
    /// Index into [`Joint::members`].
    pub updates: usize,
    /// The interval of the update in steps; 1 for every step.
    pub every: u32,
    pub train: Train,
}

impl Stage {
    /// The training loops of the stage.
    pub fn trains(&self) -> Vec<&Train> {
        match self {
            Stage::Train(train) => vec![train.as_ref()],
            Stage::Joint(joint) => joint.steps.iter().map(|step| &step.train).collect(),
            Stage::Initialise(_)
            | Stage::Load(_)
            | Stage::Merge(_)
            | Stage::Member { .. }
            | Stage::Parameter => Vec::new(),
        }
    }

    /// The models that must exist before this stage can run, without repetition. `teachers` resolves teacher
    /// ids.
    pub fn inputs(&self, teachers: &[Teacher]) -> Vec<ModelId> {
        let mut inputs = match self {
            Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => Vec::new(),
            Stage::Train(train) => train.inputs(teachers),
            Stage::Merge(merge) => merge.base.iter().chain(&merge.models).copied().collect(),
            Stage::Joint(joint) => {
                let starts = joint.members.iter().map(|member| member.start);
                starts.chain(joint.steps.iter().flat_map(|step| step.train.inputs(teachers))).collect()
            }
            Stage::Member { joint, .. } => vec![*joint],
        };
        inputs.sort();
        inputs.dedup();
        inputs
    }
}

/// A decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    pub family: Family,
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub key_value_heads: u32,
    /// Inner width of the feed-forward part.
    #[serde(rename = "hidden")]
    pub intermediate_size: u32,
    /// Longest sequence, in tokens, prompt and completion together.
    pub context: u32,
    pub tokenizer: TokenizerSpec,
    /// Whether embedding and LM head share one matrix.
    pub tied: bool,
    pub rope_theta: f64,
    pub norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initial_deviation: f64,
}

/// The published family of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma => "gemma",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerSpec {
    /// 256 bytes, then begin (256), end (257), padding (258).
    Bytes,
    /// A `tokenizer.json`, or the folder of a model that has one; relative to the source file.
    File(String),
}

impl TokenizerSpec {
    /// Number of its tokens, where that is known without reading a file.
    pub fn vocabulary(&self) -> Option<u32> {
        match self {
            TokenizerSpec::Bytes => Some(259),
            TokenizerSpec::File(_) => None,
        }
    }
}

/// A training loop. The recipes differ in the source of prefixes and in the objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Train {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// The teachers of prompts, in order; the first choice that applies decides. Empty where nothing reads
    /// the routed teacher.
    pub teachers: Vec<TeacherChoice>,
    /// The role `reference` by domain; empty where there is none.
    pub reference: Vec<(DomainId, ModelId)>,
    /// The template that replaces the prompt for the student.
    pub sees: Option<Rc<Template>>,
    pub rollout: Rollout,
    pub size: BatchSize,
    /// Which of a teacher's rollouts are imitated. From other sources, all are trained on.
    pub keep: Keep,
    /// The condition under which prompts are trained on; per group.
    pub filter: Option<Formula>,
    /// The order of prompts, larger numbers first; per group.
    pub priority: Option<Formula>,
    /// Steps between computations of filter and priority; where absent, they are computed once.
    pub refresh: Option<u32>,
    /// Weights that the domains' shares of a step's prompts are proportional to, per domain. Where absent,
    /// the shares are the mixture's.
    pub shares: Option<Formula>,
    pub objective: Objective,
    pub optimizer: Optimizer,
    pub length: Length,
    pub learning_rate: Formula,
    pub extrapolation: Option<Extrapolation>,
    pub trainable: Trainable,
    pub options: TrainOptions,
    pub origins: OptionOrigins,
    /// The guards, in the order in which they are evaluated.
    pub guards: Vec<Guard>,
}

impl Train {
    /// The prompts of a batch, each with all its samples.
    pub fn groups(&self) -> u32 {
        match self.size {
            BatchSize::Prompts(prompts) => prompts,
            BatchSize::Sequences(sequences) => sequences / self.rollout.group().max(1),
        }
    }
}

/// Low-rank matrices B A that are trained beside frozen matrices W: W + scale * B A, with scale = alpha /
/// rank (arXiv:2106.09685, section 4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    pub kind: AdapterKind,
    pub rank: u32,
    pub alpha: f64,
    /// The dropout rate of an adapter's inputs during training.
    pub dropout: f64,
    /// The matrices that get an adapter.
    pub targets: Vec<Projection>,
    /// The layers that get adapters, counted from 0, both ends included; all where absent.
    pub layers: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    Lora,
    /// The norm of each row of the adapted matrix is trained apart from its direction (arXiv:2402.09353).
    Dora,
}

impl AdapterKind {
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Lora => "lora",
            AdapterKind::Dora => "dora",
        }
    }
}

/// A matrix of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    Query,
    Key,
    Value,
    /// The output projection of attention.
    Output,
    Gate,
    Up,
    Down,
    /// Of queries, keys and values of the gated delta rule, as one matrix.
    DeltaInput,
    /// Of the gate of its output.
    DeltaGate,
    /// Of its write strengths.
    DeltaStrength,
    DeltaDecay,
    DeltaOutput,
    /// Of the gates and inputs of a short convolution, as one matrix.
    ConvInput,
    ConvOutput,
}

impl Projection {
    /// The module's name in published checkpoints and in PyTorch.
    pub fn module(self) -> &'static str {
        match self {
            Projection::Query => "q_proj",
            Projection::Key => "k_proj",
            Projection::Value => "v_proj",
            Projection::Output => "o_proj",
            Projection::Gate => "gate_proj",
            Projection::Up => "up_proj",
            Projection::Down => "down_proj",
            Projection::DeltaInput => "in_proj_qkv",
            Projection::DeltaGate => "in_proj_z",
            Projection::DeltaStrength => "in_proj_b",
            Projection::DeltaDecay => "in_proj_a",
            Projection::DeltaOutput | Projection::ConvOutput => "out_proj",
            Projection::ConvInput => "in_proj",
        }
    }

    pub const ATTENTION: &'static [Projection] =
        &[Projection::Query, Projection::Key, Projection::Value, Projection::Output];
    pub const FEED_FORWARD: &'static [Projection] = &[Projection::Gate, Projection::Up, Projection::Down];
    /// In layers that have the rule in place of attention.
    pub const GATED_DELTA: &'static [Projection] = &[
        Projection::DeltaInput,
        Projection::DeltaGate,
        Projection::DeltaStrength,
        Projection::DeltaDecay,
        Projection::DeltaOutput,
    ];
    /// In layers that have a short convolution in place of attention.
    pub const SHORT_CONV: &'static [Projection] = &[Projection::ConvInput, Projection::ConvOutput];

    pub fn name(self) -> &'static str {
        match self {
            Projection::Query => "query",
            Projection::Key => "key",
            Projection::Value => "value",
            Projection::Output => "output",
            Projection::Gate => "gate",
            Projection::Up => "up",
            Projection::Down => "down",
            Projection::DeltaInput => "delta_input",
            Projection::DeltaGate => "delta_gate",
            Projection::DeltaStrength => "delta_strength",
            Projection::DeltaDecay => "delta_decay",
            Projection::DeltaOutput => "delta_output",
            Projection::ConvInput => "conv_input",
            Projection::ConvOutput => "conv_output",
        }
    }
}

/// The length of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    Steps(u32),
    /// Passes through the prompts.
    Epochs(u32),
}

/// The size of a step's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    Prompts(u32),
    Sequences(u32),
}

/// The constructor of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    Sft,
    Grpo,
    Distill,
    Dpo,
    /// A step of `train`.
    Step,
}

impl Recipe {
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Sft => "sft",
            Recipe::Grpo => "grpo",
            Recipe::Distill => "distill",
            Recipe::Dpo => "dpo",
            Recipe::Step => "train",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub domain: DomainId,
    pub share: f64,
}

/// One arm of an evaluated route, which covers every prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// A condition on the prompt's data; the last choice of every domain has none.
    pub when: Option<Formula>,
    pub teacher: TeacherId,
    /// The place of the target of the arm.
    pub origin: Origin,
}

/// Weights computed from weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    pub method: MergeMethod,
    /// The common ancestor, for differences of weights.
    pub base: Option<ModelId>,
    pub models: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MergeMethod {
    /// The mean of the weights.
    Average,
    /// base + scale * sum of (model - base) (arXiv:2212.04089).
    TaskArithmetic { scale: f64 },
    /// Trim to the `density` largest changes, elect a sign, average what agrees (arXiv:2306.01708).
    Ties { scale: f64, density: f64 },
    /// Drop a fraction of the changes at random, rescale the rest by 1 / (1 - drop) (arXiv:2311.03099).
    Dare { scale: f64, drop: f64 },
}

impl MergeMethod {
    pub fn name(&self) -> &'static str {
        match self {
            MergeMethod::Average => "average",
            MergeMethod::TaskArithmetic { .. } => "task_arithmetic",
            MergeMethod::Ties { .. } => "ties",
            MergeMethod::Dare { .. } => "dare",
        }
    }
}
