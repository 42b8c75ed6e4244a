//! A training stage as its modules read it: its settings, its domains, and the models that it starts from.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use mopd_plan::{Dtype, Keep, ModelId, Objective, Origin, Rollout, StageStep, TeacherChoice, Train};
use tch::Kind;

use super::learner_turn::LearnerTurn;
use super::route::{RoutedTeacher, SourceTeachers};
use crate::control::Control;
use crate::data::Lists;
use crate::data::mixture::Draw;
use crate::environment::Environments;
use crate::machine::place::Place;
use crate::model::{Decoder, Weights};
use crate::prepare::{DomainData, prompts::Prompts};
use crate::random::{Key, Purpose};
use crate::remote::Servers;
use crate::reward::Verifier;
use crate::rollout::{MemoryBudget, Sequence};
use crate::tokenizer::{Token, Tokenizer};

/// A training stage with everything it reads, or one part of it, which has its own terms and rollout.
/// Functions of a step get what they read of it: its domains, the keys of its random numbers, how it packs
/// sequences, what texts are made with.
#[derive(Clone)]
pub struct Stage<'a> {
    pub name: &'a str,
    pub seed: u64,
    /// Selects the stage's random numbers.
    pub stream: u64,
    /// The secret that a private stage derives its noise and its draws from.
    pub secret: Option<NoiseSecret>,
    /// The number of this part among the stage's parts. [`Stage::key`] mixes it into random keys.
    pub part: u32,
    pub train: &'a Train<Objective>,
    /// The model's turn in a step.
    pub turn: LearnerTurn<'a>,
    pub steps: u32,
    /// The first step that guards look at.
    pub guards_from: u32,
    /// The domains trained on, in the order of the mixture.
    pub sources: StageSources<'a>,
    pub start: Arc<Weights>,
    /// Teachers, references, and models that write rollouts.
    pub models: HashMap<ModelId, Arc<Weights>>,
    /// Whether `models` stay in memory together; `None`: their size decides.
    pub models_fit: Option<bool>,
    /// Sequences per forward pass; `None`: all of a step.
    pub micro_batch: Option<u32>,
    /// The memory that generation may use.
    pub budget: MemoryBudget,
    /// How many of the first layers are recomputed in the backward pass (checkpointing).
    pub recomputed: usize,
    /// Whether generation's settings let it save the activations that the gradient reads.
    pub saves_activations: bool,
    /// The benchmark that decides how far weights are extrapolated, where the stage does that.
    pub judge: Option<&'a DomainData>,
    /// The domains with their validation rows in place of those trained on; empty where the stage does not
    /// validate.
    pub validation: StageSources<'a>,
    pub place: Place,
    /// Compute dtype of all models: f32, or bf16 with trained parameters in f32.
    pub kind: Kind,
    pub environments: Environments<'a>,
    /// The servers of its served teachers.
    pub servers: &'a Servers,
    pub control: &'a Control,
}

impl Stage<'_> {
    /// The parts of the stage: its terms on the stage's rollout, then one part for each of `own`.
    pub fn parts<'p>(&'p self, own: &'p [Train<Objective>]) -> Vec<Stage<'p>> {
        let own = own.iter().zip(1..).map(|(train, part)| Stage {
            train,
            part,
            saves_activations: train.saves_activations(&train.rollout),
            ..self.clone()
        });
        std::iter::once(self.clone()).chain(own).collect()
    }

    /// The compute dtype of all models.
    pub fn dtype(&self) -> Dtype {
        if self.kind == Kind::Float { Dtype::Float32 } else { Dtype::Bfloat16 }
    }

    /// The student before the first step.
    pub fn student(&self) -> Decoder {
        Decoder::trainable(&self.start, self.place, self.kind)
    }

    /// One of its steps.
    pub fn step(&self, step: u32) -> StageStep {
        StageStep { step, steps: self.steps }
    }

    pub fn keys(&self) -> StageKeys {
        let Stage { seed, stream, part, .. } = *self;
        StageKeys { seed, stream, part }
    }

    pub fn packing(&self) -> Packing<'_> {
        Packing { sources: &self.sources, micro_batch: self.micro_batch, place: self.place }
    }

    pub fn texts(&self) -> Texts<'_> {
        let Stage { name, train, steps, budget, control, .. } = *self;
        let (sources, tokenizer) = (&self.sources, &*self.start.tokenizer);
        Texts {
            name,
            sources,
            tokenizer,
            rollout: &train.rollout,
            shows_feedback: train.shows_feedback(),
            steps,
            budget,
            control,
        }
    }

    /// The key of random numbers that only this part draws; `index` is below 2^48.
    pub fn key(&self, purpose: Purpose, index: u64) -> Key {
        self.keys().key(purpose, index)
    }
}

/// Whether the completions of a batch are all that their sampler drew, none selected by what was drawn.
pub fn draws_are_unselected(rollout: &Rollout) -> bool {
    let kind = rollout.producer.kind();
    kind.drawn().is_some() && kind.once().is_none() && kind.view().is_none() && rollout.keep == Keep::All
}

/// What selects the random numbers of a part of a stage.
#[derive(Clone, Copy)]
pub struct StageKeys {
    pub seed: u64,
    pub stream: u64,
    part: u32,
}

impl StageKeys {
    /// The key of random numbers that only this part draws; `index` is below 2^48.
    pub fn key(self, purpose: Purpose, index: u64) -> Key {
        Key::new(self.seed, self.stream, purpose, u64::from(self.part) << 48 | index)
    }

    /// The key of random numbers that are the same for all parts.
    pub fn shared(self, purpose: Purpose, index: u64) -> Key {
        Key::new(self.seed, self.stream, purpose, index)
    }

    /// The name of a tensor of this part in a checkpoint.
    pub fn tensor_name(self, tensor: &str) -> String {
        match self.part {
            0 => tensor.to_owned(),
            part => format!("{tensor}.{part}"),
        }
    }
}

/// How sequences become the input of a model.
#[derive(Clone, Copy)]
pub struct Packing<'s> {
    pub sources: &'s StageSources<'s>,
    /// Sequences per forward pass; `None`: all.
    pub micro_batch: Option<u32>,
    pub place: Place,
}

/// What completions are written, judged and shown to models with.
#[derive(Clone, Copy)]
pub struct Texts<'s> {
    /// The name of the stage.
    pub name: &'s str,
    pub sources: &'s StageSources<'s>,
    /// The student's.
    pub tokenizer: &'s Tokenizer,
    pub rollout: &'s Rollout,
    /// Whether verifiers return feedback on completions that models read.
    pub shows_feedback: bool,
    pub steps: u32,
    pub budget: MemoryBudget,
    pub control: &'s Control,
}

impl Texts<'_> {
    /// One of the steps.
    pub fn step(&self, step: u32) -> StageStep {
        StageStep { step, steps: self.steps }
    }
}

/// The domains of a stage, in the order of its mixture.
#[derive(Clone)]
pub struct StageSources<'a>(Vec<Source<'a>>);

impl<'a> From<Vec<Source<'a>>> for StageSources<'a> {
    fn from(list: Vec<Source<'a>>) -> StageSources<'a> {
        StageSources(list)
    }
}

impl<'a> Deref for StageSources<'a> {
    type Target = [Source<'a>];

    fn deref(&self) -> &[Source<'a>] {
        &self.0
    }
}

#[cfg(test)]
impl<'a> std::ops::DerefMut for StageSources<'a> {
    fn deref_mut(&mut self) -> &mut [Source<'a>] {
        &mut self.0
    }
}

/// A domain of the mixture.
#[derive(Clone)]
pub struct Source<'a> {
    pub name: &'a str,
    pub origin: Origin,
    pub share: f64,
    /// The routed teachers of its prompts.
    pub route: SourceTeachers,
    /// The scorers after the routed teacher, from the reference on; `None` where one does not score here.
    pub scorers: Vec<Option<TeacherChoice>>,
    pub prompts: &'a Prompts,
    /// The prompts as the student reads them.
    pub tokens: Arc<Lists<Token>>,
    /// Longest completion in this domain.
    pub limit: Option<u32>,
    pub verifier: &'a Verifier,
}

/// A section: the sequences of a step that have the same source and teacher. They are adjacent, and so are
/// the sections of a source.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Index into the stage's sources.
    pub source: usize,
    pub teacher: Option<&'a RoutedTeacher>,
}

impl StageSources<'_> {
    /// The sections in the order of a step: one for each source, where data does not route.
    pub fn sections(&self) -> Vec<Section<'_>> {
        let of_source = |(source, of): (usize, &'_ Source<'_>)| {
            (0..of.route.sections()).map(move |teacher| (source, teacher)).collect::<Vec<_>>()
        };
        let places = self.iter().enumerate().flat_map(of_source);
        places
            .map(|(source, teacher)| Section { source, teacher: self[source].route.teachers().get(teacher) })
            .collect()
    }

    /// Whether a source has several sections.
    pub fn routes_by_data(&self) -> bool {
        self.iter().any(|source| source.route.sections() > 1)
    }

    /// Whether they have the prompt.
    pub fn contains(&self, Draw { source, record }: Draw) -> bool {
        self.get(source).is_some_and(|source| record < source.prompts.dataset.len())
    }

    /// The section of a prompt, as an index.
    pub fn section(&self, source: usize, record: usize) -> usize {
        let before: usize = self[..source].iter().map(|source| source.route.sections()).sum();
        before + self[source].route.index(record)
    }

    pub fn section_of(&self, sequence: &Sequence) -> usize {
        self.section(sequence.source, sequence.record)
    }

    /// The number of a prompt in the data of all domains. It does not depend on the draw.
    pub fn number(&self, Draw { source, record }: Draw) -> u32 {
        let before: usize = self[..source].iter().map(|each| each.tokens.len()).sum();
        (before + record) as u32
    }
}

/// The source of a private stage's noise and of the records in its batches. The privacy guarantee holds only
/// against readers who know neither, so both are derived from a secret of the store.
#[derive(Clone, Copy)]
pub struct NoiseSecret([u8; 32]);

impl NoiseSecret {
    /// `result` is the key of the stage's result, which includes all its settings. So any two different
    /// stages draw independently; with the same noise, their weights together would reveal the gradient.
    pub fn new(of_store: &[u8; 32], result: &str) -> NoiseSecret {
        NoiseSecret(*blake3::keyed_hash(of_store, result.as_bytes()).as_bytes())
    }

    pub fn key(&self, step: u32) -> Key {
        Key::of_secret(*blake3::keyed_hash(&self.0, &step.to_le_bytes()).as_bytes())
    }
}

/// The weights that a stage's student begins with. A model that learns scores gets a scalar head; a model
/// that draws two tokens per step gets a second head, and every other model loses it.
pub fn beginning(train: &Train<Objective>, start: &Arc<Weights>, seed: u64, stream: u64) -> Arc<Weights> {
    let start = if train.trains_scalar_head() { start.with_scalar_head() } else { start.clone() };
    match train.trains_second_head() {
        true => start.with_second_head(Key::new(seed, stream, Purpose::Initialise, 2)),
        false => start.without_second_head(),
    }
}
