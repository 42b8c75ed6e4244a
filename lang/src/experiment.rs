//! The vocabulary of a checked experiment: every setting evaluated, every name resolved, every family spelled out.
//!
//! This is everything that the language can say. The plan's types are narrower: they hold what a run can execute, and the
//! compiler says what does not fit.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::formula::{Axis, Formula, Reduction, Role};

/// Where in the source a thing was asked for: an index into a table of places, so that a failure at run time can point there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin(pub u32);

/// Index into [`Experiment::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DomainId(pub u32);

/// Index into [`Experiment::models`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u32);

/// Index into [`Experiment::teachers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TeacherId(pub u32);

/// Index into [`Experiment::panels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PanelId(pub u32);

/// Index into [`Experiment::benchmarks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BenchmarkId(pub u32);

/// One experiment. Models are in topological order: a model's inputs stand before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    pub name: String,
    /// The first seed; a comparison over `n` seeds runs `seed, seed + 1, ...`.
    pub seed: u64,
    /// Folder for results, relative to where the command runs.
    pub out: Option<String>,
    pub device: Option<(Device, Origin)>,
    pub dtype: Option<(Dtype, Origin)>,
    pub domains: Vec<Domain>,
    pub teachers: Vec<Teacher>,
    pub panels: Vec<Panel>,
    pub models: Vec<Model>,
    pub benchmarks: Vec<Benchmark>,
    pub comparisons: Vec<Comparison>,
    /// The grid of experiments that this file stands for; empty for one.
    pub sweep: Vec<SweepAxis>,
    /// Where values come from, as the author marked them. They change no result.
    pub marks: Vec<MarkedSetting>,
}

impl Experiment {
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model {
        &self.models[id.0 as usize]
    }

    pub fn teacher(&self, id: TeacherId) -> &Teacher {
        &self.teachers[id.0 as usize]
    }
}

/// Where a run computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
}

/// The numbers that a run computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Float32,
    Bfloat16,
}

/// `beta in [0.1, 0.5]` of a `sweep`: values of a `param`, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepAxis {
    pub parameter: String,
    pub values: Vec<f64>,
    pub origin: Origin,
}

/// A mark on a setting: `lr = 1e-6 @unpublished`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedSetting {
    /// The model, objective or block that the setting belongs to.
    pub owner: String,
    pub setting: String,
    pub mark: SettingMark,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum SettingMark {
    /// Nobody published this value: a reproduction can't be mistaken for the original.
    Unpublished { note: Option<String> },
    /// Who published it, and where.
    Source { text: String },
}

/// A source of prompts with its verifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    pub name: String,
    /// JSON lines with a `prompt` field; relative to the source file.
    pub prompts: String,
    /// Held-out prompts for evaluation, the same layout.
    pub tests: Option<String>,
    pub reward: Reward,
    /// Share of prompts where several domains are mixed; the shares of all domains sum to 1.
    pub share: f64,
    /// Longest completion in this domain, in tokens; the rollout's own limit where absent.
    pub limit: Option<(u32, Origin)>,
    pub origin: Origin,
}

/// How a completion is judged. Rewards are in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub enum Reward {
    /// 1 where the completion equals the data field.
    ExactMatch { field: String },
    /// 1 where both parse as numbers that differ by at most `tolerance`.
    Numeric { field: String, tolerance: f64 },
    /// 1 where the pattern matches the completion and, if it has a group named `answer`, that group equals the data field.
    Regex { pattern: String, field: String },
    /// A worker process that speaks JSON lines (see the book, "Rewards").
    Command { command: String, time_limit_seconds: f64, batch: u32 },
    /// 1 where the completion is JSON that the schema allows.
    JsonSchema { schema: String },
    /// The share of the tests in a data field that the completion passes.
    UnitTests { field: String, time_limit_seconds: f64 },
    /// A server that judges, by the same protocol as a command.
    Http { url: Secret, time_limit_seconds: f64, batch: u32 },
    /// Named parts and their weights; the verdict is the weighted sum.
    Parts(Vec<RewardPart>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct RewardPart {
    pub name: String,
    pub weight: f64,
    pub reward: Reward,
}

/// A text that is written in the file or read from the environment when the run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    Text(String),
    /// `env("TEACHER_URL")`
    Environment(String),
}

/// Weights: the value of a stage applied to other models.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// As the author named it: `start`, `expert[sort]`.
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
    /// Another model of a joint stage, by its place in [`Joint::members`].
    Member {
        joint: ModelId,
        member: usize,
    },
}

/// Where existing weights come from. Architecture and tokenizer are read with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pretrained {
    /// A folder, or a name on the hub with a revision.
    HuggingFace {
        name: String,
        revision: Option<String>,
    },
    Gguf {
        file: String,
    },
    Checkpoint {
        folder: String,
    },
}

/// Several models trained in turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    pub members: Vec<Member>,
    pub steps: Vec<JointStep>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
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
    /// Every so many steps; 1 for each.
    pub every: u32,
    pub train: Train,
}

impl Stage {
    /// The models that must exist before this stage can run, without repetition. Teachers are looked up in `teachers`.
    pub fn inputs(&self, teachers: &[Teacher]) -> Vec<ModelId> {
        let mut inputs = match self {
            Stage::Initialise(_) | Stage::Load(_) => Vec::new(),
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

/// A prompt with slots: what a teacher sees in place of the plain prompt, what a rollout is rewritten to.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub name: String,
    pub pieces: Vec<Piece>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    /// `{prompt}`, `{hint}`
    Slot(Slot),
    /// `{first(solution, exposure)}`: that share of it, from the beginning.
    First {
        slot: Slot,
        share: Formula,
    },
    /// The same from the end.
    Last {
        slot: Slot,
        share: Formula,
    },
    /// `{mean(correct, over: group)}`: a number, in a `rewrite`.
    Number(Formula),
    /// `{_}`: whatever stands there, on the left of a `rewrite`.
    Anything,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    Prompt,
    /// What the student wrote.
    Completion,
    /// What a refined rollout starts from.
    Draft,
    /// What a panel said.
    Transcript,
    /// What the verifier said of the completion, or what the teacher's own `feedback` gives.
    Feedback,
    /// Another completion of the same prompt.
    Group(GroupMember),
    /// A completion of the same prompt by a teacher.
    Answer {
        by: Role,
        member: GroupMember,
    },
    /// `short(x, by: teacher, max_tokens: 512)`: rewritten shorter.
    Shortened {
        slot: Box<Slot>,
        by: Role,
        max_tokens: u32,
    },
    /// `shuffled(a, b)`: all of them, in an order of its own for each sequence.
    Shuffled(Vec<Slot>),
    /// A field of the data.
    Data(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupMember {
    Correct,
    Wrong,
    Other,
}

/// A teacher: frozen weights, what they are shown, what they can answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Teacher {
    /// `specialist[sort]`
    pub name: String,
    pub weights: TeacherWeights,
    pub sees: Option<Rc<Template>>,
    /// Logits are divided by it.
    pub temperature: f64,
    pub answers: Capability,
    /// The author knows that it does not descend from the student's checkpoint.
    pub foreign: bool,
    pub align: Alignment,
    /// What it reads of the finished completion where the student has masks.
    pub reveals: Option<Reveal>,
    /// What fills `{feedback}` in its template; the verifier's own words where absent.
    pub feedback: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// What a denoising student's teacher sees of positions that are not filled yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reveal {
    All,
    /// That share of the positions in later blocks, at random.
    LaterBlocks(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum TeacherWeights {
    Model(ModelId),
    /// The model being trained itself.
    Student(SelfCopy),
    /// Another model of the same joint stage, as it is at the moment.
    Trained {
        member: String,
    },
    Served {
        engine: String,
        url: Secret,
        model: String,
    },
    /// A linear combination of logits. `bindings` are the names of its `where`.
    Composed {
        logits: Vec<(Formula, Role)>,
        bindings: Vec<(String, Formula)>,
    },
    Pooled {
        pool: Pool,
        members: Vec<(f64, Role)>,
    },
    /// One who speaks in a panel.
    Panelist {
        panel: PanelId,
        speaker: Role,
    },
    /// A parameter of an objective that has not been given a value: any teacher.
    Parameter,
}

/// Which weights of the student.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SelfCopy {
    /// As they are at this step.
    Current,
    /// As they were before the first.
    Initial,
    /// rate * what they were + (1 - rate) * the student's, after every step.
    Ema { rate: f64 },
    /// Copied every so many steps.
    Every { steps: u32 },
}

/// How several teachers make one distribution, or one loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The weighted mean of probabilities.
    Mixture,
    /// The weighted mean of logits, normalised.
    Geometric,
    /// Each teacher's own divergence, weighted and added up.
    Sum,
}

impl Pool {
    pub fn name(self) -> &'static str {
        match self {
            Pool::Mixture => "mixture",
            Pool::Geometric => "geometric",
            Pool::Sum => "sum",
        }
    }
}

/// What a teacher can answer, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Completions only.
    Text,
    /// The log-probability of a given token.
    Sampled,
    /// The `k` most probable tokens with their log-probabilities.
    TopK(u32),
    /// The whole next-token distribution.
    Distribution,
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Capability::Text => f.write_str("text"),
            Capability::Sampled => f.write_str("sampled"),
            Capability::TopK(k) => write!(f, "top_k({k})"),
            Capability::Distribution => f.write_str("dist"),
        }
    }
}

/// How the student's tokens are found in the teacher's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The same tokens at the end of both inputs.
    Positions,
    /// Another tokenizer: by the text that tokens stand for.
    Tokens,
    /// Padding inside the completion is taken out first.
    WithoutPadding,
    /// The teacher predicts the next token where the student fills this one.
    Shifted,
}

/// Teachers that talk about a prompt before they judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    pub name: String,
    pub members: Vec<TeacherId>,
    pub rounds: u32,
    pub sees: Option<Rc<Template>>,
    /// A whole number that each states, between these.
    pub confidence: Option<(i64, i64)>,
    pub origin: Origin,
}

/// A decoder: RMSNorm, rotary positions, grouped heads, SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    pub family: Family,
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub key_value_heads: u32,
    /// Inner width of SwiGLU.
    pub hidden: u32,
    /// Longest sequence, in tokens, prompt and completion together.
    pub context: u32,
    pub tokenizer: Tokenizer,
    /// One matrix for embedding and output.
    pub tied: bool,
    pub rope_theta: f64,
    pub norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initial_deviation: f64,
}

/// Which published family a decoder is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// 256 bytes, then begin (256), end (257), padding (258).
    Bytes,
    /// A `tokenizer.json`.
    File(String),
}

/// One training loop. The recipes differ in where prefixes come from and in the objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Train {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// Which teacher scores which prompts, in order: the first that holds decides. Empty where nothing reads the routed teacher.
    pub teachers: Vec<TeacherChoice>,
    /// The role `reference` by domain; empty where there is none.
    pub reference: Vec<(DomainId, ModelId)>,
    /// What the student sees in place of the plain prompt.
    pub sees: Option<Rc<Template>>,
    /// Updates from each batch of rollouts.
    pub passes: u32,
    pub rollout: Rollout,
    pub size: BatchSize,
    /// Which rollouts of teachers are imitated; everything else is trained on whole.
    pub keep: Keep,
    /// Prompts are trained on where this holds; per group.
    pub filter: Option<Formula>,
    /// Prompts with larger numbers come first; per group.
    pub priority: Option<Formula>,
    /// Steps after which filter and priority are computed again; never where absent.
    pub refresh: Option<u32>,
    pub objective: Objective,
    pub optimizer: Optimizer,
    pub length: Length,
    pub learning_rate: Formula,
    pub extrapolation: Option<Extrapolation>,
}

impl Train {
    /// The models that must exist before.
    fn inputs(&self, teachers: &[Teacher]) -> Vec<ModelId> {
        let mut inputs = vec![self.start];
        inputs.extend(self.reference.iter().map(|(_, model)| *model));
        let mut waiting: Vec<TeacherId> = self.teachers.iter().map(|choice| choice.teacher).collect();
        waiting.extend(self.objective.named_teachers());
        self.rollout.inputs(&mut inputs, &mut waiting);
        for term in &self.objective.terms {
            if let Some(data) = &term.data {
                data.inputs(&mut inputs, &mut waiting);
            }
        }
        let mut seen = Vec::new();
        while let Some(id) = waiting.pop() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            match &teachers[id.0 as usize].weights {
                TeacherWeights::Model(model) => inputs.push(*model),
                TeacherWeights::Composed { logits, .. } => waiting.extend(logits.iter().filter_map(|(_, role)| named(role))),
                TeacherWeights::Pooled { members, .. } => waiting.extend(members.iter().filter_map(|(_, role)| named(role))),
                TeacherWeights::Panelist { speaker, .. } => waiting.extend(named(speaker)),
                _ => {}
            }
        }
        inputs
    }
}

fn named(role: &Role) -> Option<TeacherId> {
    match role {
        Role::Named { teacher, .. } => Some(*teacher),
        _ => None,
    }
}

/// How long a stage trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Steps(u32),
    /// Times through the prompts.
    Epochs(u32),
}

/// How much a step trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    Prompts(u32),
    Sequences(u32),
}

/// Longer steps between optimiser steps, kept while a benchmark improves (arXiv:2605.11739).
#[derive(Clone, Debug, PartialEq)]
pub struct Extrapolation {
    pub factor: f64,
    pub rounds: u32,
    /// At steps that are powers of this.
    pub powers_of: u32,
    pub judged_by: BenchmarkId,
    /// Only these weights; all where empty.
    pub weights: Vec<WeightGroup>,
    pub origin: Origin,
}

/// A part of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightGroup {
    Attention,
    FeedForward,
    Embedding,
    Norm,
}

/// The constructor's name, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub domain: DomainId,
    pub share: f64,
}

/// One arm of a total route, after evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// A condition on the prompt's data; the last choice of every domain has none.
    pub when: Option<Formula>,
    pub teacher: TeacherId,
}

/// Where the tokens that an objective judges come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub source: RolloutSource,
    /// What is done to the completions, in order.
    pub edits: Vec<Edit>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RolloutSource {
    /// The student's own, fresh every step.
    Sample(Sampling),
    /// A parameter of an objective that has not been given a value: any rollout.
    Parameter { name: String, sampling: Sampling },
    /// A teacher's, made once before the first step where `sequences` is given.
    From { teacher: Role, sees: Option<Rc<Template>>, sequences: Option<u32>, sampling: Sampling },
    /// A field of the data.
    Data { field: String },
    /// Each sequence from `first` with probability `share`, else from `second`.
    Mix { share: Formula, first: Rc<Rollout>, second: Rc<Rollout> },
    /// Each token from alpha * teacher + (1 - alpha) * student.
    TokenMix { alpha: Formula, of: Rc<Rollout> },
    /// The student proposes; the teacher replaces tokens outside its own top k.
    Interleave { top_k: u32, of: Rc<Rollout> },
    /// A teacher rewrites the student's draft.
    Refine { by: Role, sees: Option<Rc<Template>>, of: Rc<Rollout> },
    /// A model as it is before the run, rolled out once.
    Snapshot { model: ModelId, of: Rc<Rollout> },
    /// Part of every batch comes from a buffer.
    Replay {
        capacity: u32,
        share: Formula,
        keeps: Keeps,
        /// What enters and stays in the buffer; per group.
        condition: Option<Formula>,
        /// Smallest numbers first; oldest first where absent. Per group.
        order: Option<Formula>,
        of: Rc<Rollout>,
    },
    /// The student drafts blocks, the teacher verifies them.
    Speculative { block: u32, of: Rc<Rollout> },
    /// A program answers between the student's turns.
    Turns { environment: String, at_most: Formula, of: Rc<Rollout> },
    /// Blocks are filled over several denoising steps.
    Denoise { steps: u32, block: u32, of: Rc<Rollout> },
    /// Prompts made from a group's completions.
    Derived { template: Rc<Template>, of: Rc<Rollout> },
    /// Of each prompt, the first that has any completion.
    FirstOf { choices: Vec<Rc<Rollout>> },
    /// One prompt per turn of a recorded trajectory: the turns before it are given.
    EachTurn { history: Rc<Rollout>, of: Rc<Rollout> },
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Rollouts,
    Prompts,
}

/// What is done to completions after they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// A text pattern becomes another text.
    Rewrite {
        from: Rc<Template>,
        to: Rc<Template>,
    },
    /// Completions where it does not hold are left out.
    Keep {
        condition: Formula,
    },
    /// Drawn again until it holds.
    Retry {
        until: Formula,
        at_most: u32,
    },
    /// Of one prompt's completions, the `of` with the largest number.
    Best {
        by: Formula,
        of: u32,
    },
    FirstTurns {
        turns: Formula,
    },
    /// So many turns are the expert's, from the data; then the student acts.
    ExpertTurns {
        turns: ExpertTurns,
    },
    /// A program of the author's: nothing is known about what it does.
    Through {
        command: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExpertTurns {
    First(Formula),
    /// All that were recorded but the last so many.
    AllBut(Formula),
}

impl Edit {
    pub fn name(&self) -> &'static str {
        match self {
            Edit::Rewrite { .. } => "rewrite",
            Edit::Keep { .. } => "keep",
            Edit::Retry { .. } => "retry",
            Edit::Best { .. } => "best",
            Edit::FirstTurns { .. } => "first_turns",
            Edit::ExpertTurns { .. } => "expert_turns",
            Edit::Through { .. } => "through",
        }
    }

    /// The text of a completion stays what the sampler wrote.
    pub fn keeps_text(&self) -> bool {
        !matches!(self, Edit::Rewrite { .. } | Edit::Through { .. })
    }
}

impl RolloutSource {
    /// As it is written.
    pub fn name(&self) -> &'static str {
        match self {
            RolloutSource::Sample(_) | RolloutSource::Parameter { .. } => "sample",
            RolloutSource::From { .. } => "from",
            RolloutSource::Data { .. } => "data",
            RolloutSource::Mix { .. } => "mix",
            RolloutSource::TokenMix { .. } => "token_mix",
            RolloutSource::Interleave { .. } => "interleave",
            RolloutSource::Refine { .. } => "refine",
            RolloutSource::Snapshot { .. } => "snapshot",
            RolloutSource::Replay { .. } => "replay",
            RolloutSource::Speculative { .. } => "speculative",
            RolloutSource::Turns { .. } => "turns",
            RolloutSource::Denoise { .. } => "denoise",
            RolloutSource::Derived { .. } => "derived",
            RolloutSource::FirstOf { .. } => "first_of",
            RolloutSource::EachTurn { .. } => "each_turn",
        }
    }

    /// The rollouts inside.
    pub fn inner(&self) -> Vec<&Rollout> {
        match self {
            RolloutSource::Sample(_)
            | RolloutSource::Parameter { .. }
            | RolloutSource::From { .. }
            | RolloutSource::Data { .. } => Vec::new(),
            RolloutSource::Mix { first, second, .. } => vec![first, second],
            RolloutSource::TokenMix { of, .. }
            | RolloutSource::Interleave { of, .. }
            | RolloutSource::Refine { of, .. }
            | RolloutSource::Snapshot { of, .. }
            | RolloutSource::Replay { of, .. }
            | RolloutSource::Speculative { of, .. }
            | RolloutSource::Turns { of, .. }
            | RolloutSource::Denoise { of, .. }
            | RolloutSource::Derived { of, .. } => vec![of],
            RolloutSource::FirstOf { choices } => choices.iter().map(Rc::as_ref).collect(),
            RolloutSource::EachTurn { history, of } => vec![of, history],
        }
    }
}

impl Rollout {
    /// How completions are drawn at the bottom of it; none where they come from data alone.
    pub fn sampling(&self) -> Option<&Sampling> {
        match &self.source {
            RolloutSource::Sample(sampling)
            | RolloutSource::Parameter { sampling, .. }
            | RolloutSource::From { sampling, .. } => Some(sampling),
            other => other.inner().into_iter().find_map(Rollout::sampling),
        }
    }

    /// Who else than the student writes some of the tokens.
    pub fn writer(&self) -> Option<&Role> {
        match &self.source {
            RolloutSource::From { teacher: role, .. } | RolloutSource::Refine { by: role, .. } => Some(role),
            _ => None,
        }
    }

    /// Samples of one prompt.
    pub fn group(&self) -> u32 {
        let drawn = self.sampling().map_or(1, |sampling| sampling.n);
        self.edits.iter().fold(drawn, |n, edit| if let Edit::Best { of, .. } = edit { n.min(*of) } else { n })
    }

    /// This rollout and those inside it.
    pub fn all(&self) -> Vec<&Rollout> {
        let mut found = vec![self];
        let mut at = 0;
        while at < found.len() {
            found.extend(found[at].source.inner());
            at += 1;
        }
        found
    }

    fn inputs(&self, models: &mut Vec<ModelId>, teachers: &mut Vec<TeacherId>) {
        for rollout in self.all() {
            match &rollout.source {
                RolloutSource::Snapshot { model, .. } => models.push(*model),
                RolloutSource::From { teacher: role, .. } | RolloutSource::Refine { by: role, .. } => {
                    teachers.extend(named(role))
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    All,
    /// Only rollouts with reward 1.
    Correct,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Samples of one prompt: the size of a group.
    pub n: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion, in tokens, the end token included: a number or a schedule.
    pub max_tokens: Formula,
    /// Only the most probable entries that together hold this much are drawn.
    pub top_p: Option<f64>,
    /// Only so many entries are drawn.
    pub top_k: Option<u32>,
    /// Logits of tokens already written are divided (positive) or multiplied (negative) by it.
    pub repetition_penalty: Option<f64>,
    /// Several tokens a step, each by a head of its own; later ones stay where their confidence reaches `accept`.
    pub heads: Option<Heads>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub heads: u32,
    pub accept: f64,
}

impl Sampling {
    /// Completions are drawn from less than the whole distribution: the model's own log-probability is not the sampler's.
    pub fn truncated(&self) -> bool {
        self.top_p.is_some_and(|p| p < 1.0) || self.top_k.is_some()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    AdamW(AdamW),
    Sgd {
        momentum: f64,
        clip_norm: f64,
        origin: Origin,
    },
    /// Gradients clipped per example and noised (arXiv:1607.00133), until the budget is spent.
    Private {
        clip: f64,
        epsilon: f64,
        delta: f64,
        origin: Origin,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Largest global gradient norm.
    pub clip_norm: f64,
}

/// How long a schedule takes to get from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    Run,
    Steps(u32),
    /// A share of the run.
    Share(f64),
}

impl Over {
    fn fraction(self, step: u32, steps: u32) -> f64 {
        let length = match self {
            Over::Run => f64::from(steps),
            Over::Steps(steps) => f64::from(steps),
            Over::Share(share) => share * f64::from(steps),
        };
        (f64::from(step) / length.max(1.0)).min(1.0)
    }
}

/// A run-level number over training time. `progress` is step / steps, from 0 at the first step towards 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Schedule {
    Constant {
        value: f64,
    },
    /// From `from` to `to`, `to` after that.
    Linear {
        from: f64,
        to: f64,
        over: Over,
    },
    /// Half a cosine from `from` to `to`, likewise.
    Cosine {
        from: f64,
        to: f64,
        over: Over,
    },
    /// from * (to / from)^fraction: the same factor every step. Both are positive.
    Exponential {
        from: f64,
        to: f64,
        over: Over,
    },
    /// `(step, value)`: each value holds from its step on. The first step is 0, steps rise.
    Piecewise {
        pieces: Vec<(u32, f64)>,
    },
    /// One value after the other, each for `every` steps, again and again.
    Alternate {
        values: Vec<f64>,
        every: u32,
    },
    /// Linear from 0 over `steps` steps, then `then`, whose own time starts there.
    Warmup {
        steps: u32,
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The value at `step` (from 0) of a run of `steps` steps.
    pub fn at(&self, step: u32, steps: u32) -> f64 {
        match self {
            Schedule::Constant { value } => *value,
            Schedule::Linear { from, to, over } => from + (to - from) * over.fraction(step, steps),
            Schedule::Cosine { from, to, over } => {
                to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * over.fraction(step, steps)).cos())
            }
            Schedule::Exponential { from, to, over } => from * (to / from).powf(over.fraction(step, steps)),
            Schedule::Piecewise { pieces } => {
                pieces.iter().rev().find(|(start, _)| *start <= step).or(pieces.first()).map_or(f64::NAN, |(_, value)| *value)
            }
            Schedule::Alternate { values, every } => values[(step / every) as usize % values.len()],
            Schedule::Warmup { steps: warmup, then } => {
                if step < *warmup {
                    then.at(0, steps.saturating_sub(*warmup)) * f64::from(step + 1) / f64::from(warmup + 1)
                } else {
                    then.at(step - warmup, steps.saturating_sub(*warmup))
                }
            }
        }
    }

    /// Smallest and largest value of a run of `steps` steps.
    pub fn range(&self, steps: u32) -> (f64, f64) {
        (0..steps.max(1))
            .map(|step| self.at(step, steps))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    }
}

/// Weights computed from weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    pub method: MergeMethod,
    /// The common ancestor that differences are taken from.
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

/// A table: rows of models, columns of domains and benchmarks.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub name: String,
    pub rows: Vec<Row>,
    /// Columns judged on the domains' own tests.
    pub domains: Vec<DomainId>,
    /// Columns judged on benchmarks.
    pub benchmarks: Vec<BenchmarkId>,
    /// The rows that score 0 and 1, for `mean_d (s_d - zero_d) / (one_d - zero_d)`.
    pub normalized: Option<Normalized>,
    /// Number of seeds; every model of the table is trained once per seed.
    pub seeds: u32,
    pub evaluation: Evaluation,
    pub metrics: Vec<Metric>,
    /// What every row may spend the same of.
    pub budget: Option<Budget>,
    pub origin: Origin,
}

/// One row. A family puts each member in its own domain's column.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub label: String,
    /// One model per column, in the order of [`Comparison::domains`].
    pub models: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Normalized {
    /// One model per column.
    pub zero: Vec<ModelId>,
    pub one: Vec<ModelId>,
}

/// How a model is judged on held-out prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Samples of each prompt; pass@1 is their mean reward.
    pub samples: u32,
    /// 0 is greedy, one sample.
    pub temperature: f64,
    pub max_tokens: u32,
    /// At most this many test prompts a domain, the first ones of the file; all where absent.
    pub prompts: Option<u32>,
}

/// Held-out prompts with a verifier of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Benchmark {
    pub name: String,
    pub prompts: String,
    pub reward: Reward,
    pub evaluation: Evaluation,
    pub metrics: Vec<Metric>,
    pub origin: Origin,
}

/// One number of a table's cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The chance that at least one of `k` samples is right, unbiased (arXiv:2107.03374).
    PassAt(u32),
    /// The share of different completions among the samples of a prompt.
    Distinct,
    /// Mean number of completion tokens.
    Length,
    /// Mean entropy of the next-token distribution.
    Entropy,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Metric::PassAt(k) => write!(f, "pass_at({k})"),
            Metric::Distinct => f.write_str("distinct"),
            Metric::Length => f.write_str("length"),
            Metric::Entropy => f.write_str("entropy"),
        }
    }
}

/// What rows of one table must have spent alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub unit: BudgetUnit,
    /// What training the teachers took counts as well.
    pub teachers_charged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUnit {
    Steps,
    Sequences,
    Tokens,
}

/// What a checked objective is, before it becomes a graph. See [`crate::formula`].
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub name: String,
    pub terms: Vec<Term>,
    /// Per-token mask; tokens where it is false take no part in any reduction.
    pub select: Option<Formula>,
    /// Multiplies every term.
    pub weight: Option<Formula>,
    /// `mean(token) then mean(sequence)`: from the token axis to a single number. Absent only where every term has its own.
    pub reduce: Option<Reduce>,
    pub origin: Origin,
}

impl Objective {
    /// Every formula in it, in source order.
    pub fn formulas(&self) -> Vec<&Formula> {
        let mut formulas: Vec<&Formula> = self.select.iter().chain(&self.weight).collect();
        for term in &self.terms {
            formulas.push(&term.value);
            formulas.extend(term.when.iter().chain(&term.weight));
            formulas.extend(term.reduce.iter().filter_map(|reduce| reduce.denominator.as_ref()));
        }
        formulas.extend(self.reduce.iter().filter_map(|reduce| reduce.denominator.as_ref()));
        formulas
    }

    /// Whether some formula reads the distribution of `role`.
    pub fn reads(&self, role: &Role) -> bool {
        self.formulas().iter().any(|formula| formula.reads(role))
    }

    /// The declared teachers that it reads by name.
    pub fn named_teachers(&self) -> Vec<TeacherId> {
        use crate::formula::FormulaKind;
        let mut found = Vec::new();
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            let roles = match &part.0.kind {
                FormulaKind::Signal(signal) => signal.roles(),
                FormulaKind::Live(live) => live.roles(),
                _ => continue,
            };
            for teacher in roles.iter().filter_map(named) {
                if !found.contains(&teacher) {
                    found.push(teacher);
                }
            }
        }
        found
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub name: String,
    pub value: Formula,
    /// Where the term applies: it is 0 elsewhere. Denominators count all the same, but in a `reduce` step that says `among: when`.
    pub when: Option<Formula>,
    /// Multiplies this term alone.
    pub weight: Option<Formula>,
    /// Its own way to one number.
    pub reduce: Option<Reduce>,
    /// Its own completions.
    pub data: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// From one number per token to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    pub steps: Vec<ReduceStep>,
    /// `sum(token, over: batch) / 8192`
    pub denominator: Option<Formula>,
    pub balance: Option<Balance>,
    pub origin: Origin,
}

/// One step of a `reduce`: collapses `elements` (the axis so far) to the next coarser one named, or to the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceStep {
    pub operation: Reduction,
    /// The axis whose elements are put together: `token` in `mean(token)`.
    pub elements: Axis,
    /// The axis that is left: `sequence` after `mean(token)`, `batch` after `mean(token, over: batch)`.
    pub over: Axis,
    /// Only elements where the term's `when` holds somewhere.
    pub among_when: bool,
}

/// `by domain { target = 1/3 }`: how much each domain's signal weighs (Open-MOPD, arXiv:2608.19098).
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The share that each domain should have; its share of the prompts where absent.
    pub target: Option<f64>,
    /// Exponent of (target / share so far).
    pub follow_gap: f64,
    pub clamp: Option<(f64, f64)>,
    /// Computed and recorded, and applied to nothing.
    pub observe: bool,
    pub origin: Origin,
}
