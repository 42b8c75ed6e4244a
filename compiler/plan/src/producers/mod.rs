//! Producers: the sources of the sequences that an objective scores. A producer is a node of a tree, with a
//! file for each kind: its executable form, its part of keys, its requirements and its cost. Drawing is in a
//! file of the same name in the runtime's `train/batches`. Code that would match on all kinds uses
//! [`ProducerKind`] instead.

mod chosen;
mod data;
mod derived;
mod each_turn;
mod fields;
mod first_of;
mod guided;
mod mix;
mod model;
mod pairs;
mod ranked;
mod refine;
mod replay;
mod retry;
mod rewrite;
mod sampled_by;
mod sampler;
mod speculative;
mod student;
mod teacher;
mod through;
mod turns;
mod writer;

use chosen::holding;
pub use chosen::{Chosen, SampleChoice, reads_student};
pub use data::Data;
pub use derived::{Derived, DerivedText};
pub use each_turn::EachTurn;
pub use fields::{FieldValue, Fields};
pub use first_of::{FirstOf, first_of_each};
pub use guided::{Guidance, Guided};
pub use mix::Mix;
pub use model::Model;
pub use mopd_experiment::{ExpertTurns, ReplayContents};
pub use pairs::Pairs;
pub use ranked::Ranked;
pub use refine::Refine;
pub use replay::Replay;
pub use retry::Retry;
pub use rewrite::{PatternPiece, Rewrite};
pub use sampled_by::SampledBy;
pub use sampler::sampler;
use serde::{Deserialize, Serialize, Serializer};
pub use speculative::Speculative;
pub use student::Student;
pub use teacher::{PrecomputedRollouts, Teacher};
pub use through::{ProducerProgram, Through};
pub use turns::Turns;
pub use writer::Writer;

use super::views::Piece;
use super::{AdaptiveSchedule, Keep, ModelId, Role, RolloutServer, Sampling, View};

/// The sequences that a stage, or a term with completions of its own, trains on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Rollout {
    #[serde(flatten)]
    pub producer: Producer,
    /// Groups per step.
    #[serde(rename = "batch", alias = "prompts")]
    pub groups: u32,
    /// The completions of a step that are trained on.
    #[serde(rename = "keep_of_step", default = "all")]
    pub keep: Keep,
}

fn all() -> Keep {
    Keep::All
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// A source of sequences: it makes a group for each prompt.
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(tag = "from", rename_all = "snake_case")]
        pub enum Producer {
            $($kind(Box<$kind>)),*
        }

        impl Producer {
            pub fn kind(&self) -> &dyn ProducerKind {
                match self {
                    $(Producer::$kind(kind) => &**kind),*
                }
            }

            fn kind_mut(&mut self) -> &mut dyn ProducerKind {
                match self {
                    $(Producer::$kind(kind) => &mut **kind),*
                }
            }
        }

        $(impl From<$kind> for Producer {
            fn from(kind: $kind) -> Producer {
                Producer::$kind(Box::new(kind))
            }
        })*
    };
}

kinds! {
    Data, Student, Teacher, Model, Pairs, Mix, Replay, Turns, Guided, Refine, Chosen, Through, Rewrite, Retry,
    FirstOf, Speculative, Derived, EachTurn, SampledBy, Ranked,
}

/// The properties of a kind of producer. By default it draws nothing itself, and has no producers inside. The
/// table in `tests.rs` has the properties of each kind, so that a default is a decision.
pub trait ProducerKind {
    /// The fields in plans and keys. `groups`: for a stage's own producer. `model` serialises a model.
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields;

    /// The fields in a stage's key, if they differ from those in plans.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.fields(groups, model)
    }

    /// Sequences per group. By default, as many as the first producer inside makes.
    fn group(&self) -> u32 {
        self.inner().first().map_or(1, |inner| inner.kind().group())
    }

    /// The completions that are drawn for a group, also those that are left out of it.
    fn drawn_group(&self) -> u32 {
        let inside = self.inner().iter().map(|inner| inner.kind().drawn_group()).max().unwrap_or(0);
        inside.max(self.group())
    }

    /// The most rows that a step trains on for each sequence of a group: the sequence, and parts of others.
    /// `None` where the number depends on the data.
    fn rows(&self) -> Option<u32> {
        Some(1)
    }

    /// The producers inside.
    fn inner(&self) -> Vec<&Producer> {
        Vec::new()
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        Vec::new()
    }

    /// The field of the data that is the completion.
    fn field(&self) -> Option<&str> {
        None
    }

    /// The field of the data whose turns are the prompts.
    fn trajectory(&self) -> Option<&str> {
        None
    }

    /// The writer that the producer itself samples from, with the sampling settings.
    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        None
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        None
    }

    /// Whether its sequences are drawn by the producers inside, if these draw at this step.
    fn draws_inside(&self) -> bool {
        false
    }

    /// The template that replaces the prompts for the writer.
    fn view(&self) -> Option<&View> {
        None
    }

    /// The text that is inserted into completions.
    fn text(&self) -> &[Piece] {
        &[]
    }

    /// Whether all sequences have drafts.
    fn drafts(&self) -> bool {
        let inner = self.inner();
        !inner.is_empty() && inner.into_iter().all(Producer::drafts)
    }

    /// The environment, if a program responds to the student.
    fn environment(&self) -> Option<&Turns> {
        None
    }

    /// The derivation of prompts, if the producer makes prompts.
    fn derives(&self) -> Option<&Derived> {
        None
    }

    /// The program that the producer starts.
    fn program(&self) -> Option<ProducerProgram<'_>> {
        None
    }

    /// The producer inside whose completions are edited.
    fn edited(&self) -> Option<&Producer> {
        None
    }

    /// The most turns of the writer in a completion.
    fn turns(&self) -> u32 {
        self.inner().into_iter().map(|inner| inner.kind().turns()).max().unwrap_or(1)
    }

    /// The completions that are generated once, before the first step.
    fn once(&self) -> Option<PrecomputedRollouts> {
        None
    }

    fn once_mut(&mut self) -> Option<&mut PrecomputedRollouts> {
        None
    }

    /// Whether it also generates before the first step, once for each prompt that the stage draws.
    fn cached_per_prompt(&self) -> bool {
        false
    }

    /// Replaces generation once for each prompt by drawing at every step.
    fn redraw_each_step(&mut self) {}

    /// Whether its sequences are new in every step.
    fn is_redrawn(&self) -> bool {
        let drawn = self.drawn().is_some() && self.once().is_none() && !self.cached_per_prompt();
        drawn || self.inner().into_iter().any(|inner| inner.kind().is_redrawn())
    }

    /// Whether a group may have fewer sequences than requested, or none.
    fn may_drop(&self) -> bool {
        self.inner().into_iter().any(|inner| inner.kind().may_drop())
    }

    /// Fixes conditions to the given value, and a condition whose failure leads to more samples to false. No
    /// step then costs more.
    fn assume_conditions(&mut self, holds: bool) {
        self.inner_mut().into_iter().for_each(|inner| inner.kind_mut().assume_conditions(holds));
    }

    /// The policy that drew all tokens, with its settings, or the reason why there is no single one.
    fn policy(&self) -> Result<(Writer, &Sampling), &'static str>;

    /// The number of parameters that process each token drawn at a step, on average or at most.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64>;

    /// The setting with which an author requests this many groups per step.
    fn groups_setting(&self, groups: u32) -> String {
        format!("`batch = {groups}`")
    }
}

impl Producer {
    pub fn data(field: impl Into<String>) -> Producer {
        Data { field: field.into() }.into()
    }

    pub fn student(sampling: Sampling) -> Producer {
        Student { sampling }.into()
    }

    /// Completions of the routed teachers, drawn at every step.
    pub fn teacher(sampling: Sampling) -> Producer {
        Producer::of_scorer(Role::TEACHER, None, sampling)
    }

    pub fn teacher_once(sequences: u32, keep: Keep, sampling: Sampling) -> Producer {
        Producer::of_scorer(Role::TEACHER, Some(PrecomputedRollouts { sequences, keep }), sampling)
    }

    pub fn of_scorer(writer: Role, once: Option<PrecomputedRollouts>, sampling: Sampling) -> Producer {
        Teacher { writer, sees: None, once, sampling }.into()
    }

    pub fn mix(share: impl Into<AdaptiveSchedule>, first: Producer, second: Producer) -> Producer {
        Mix { share: share.into(), first, second }.into()
    }

    pub fn pairs(chosen: Producer, rejected: Producer) -> Producer {
        Pairs { chosen, rejected }.into()
    }

    /// This producer and all inside it, the outermost first.
    pub fn all(&self) -> Vec<&Producer> {
        let mut all = vec![self];
        let mut at = 0;
        while let Some(next) = all.get(at) {
            all.extend(next.kind().inner());
            at += 1;
        }
        all
    }

    /// The models that write and are no scorers.
    pub fn models(&self) -> Vec<ModelId> {
        let model = |(writer, _)| if let Writer::Model(id) = writer { Some(id) } else { None };
        self.drawn().into_iter().filter_map(model).collect()
    }

    /// The fields of the data that are completions.
    pub fn fields_of_data(&self) -> Vec<&str> {
        self.all().into_iter().filter_map(|producer| producer.kind().field()).collect()
    }

    /// The fields of the data that are inserted into completions.
    pub fn fields_of_texts(&self) -> Vec<&str> {
        let texts = self.all().into_iter().flat_map(|producer| producer.kind().text());
        texts.filter_map(Piece::field).collect()
    }

    /// The templates that replace the prompts for writers.
    pub fn views(&self) -> Vec<&View> {
        let of_writers = self.all().into_iter().filter_map(|producer| producer.kind().view());
        of_writers.chain(self.derives().into_iter().flat_map(Derived::views)).collect()
    }

    /// The producers of derived prompts.
    pub fn derives(&self) -> Vec<&Derived> {
        self.all().into_iter().filter_map(|producer| producer.kind().derives()).collect()
    }

    /// The writers whose template here replaces their template as scorers.
    pub fn writer_templates(&self) -> impl Iterator<Item = (Writer, &Sampling, &View)> {
        self.all().into_iter().filter_map(|producer| {
            let (writer, sampling) = producer.kind().drawn()?;
            Some((writer, sampling, producer.kind().view()?))
        })
    }

    pub fn drafts(&self) -> bool {
        self.kind().drafts()
    }

    /// The programs that respond to the student.
    pub fn environments(&self) -> Vec<&Turns> {
        self.all().into_iter().filter_map(|producer| producer.kind().environment()).collect()
    }

    /// All writers of the tree, with their sampling settings.
    pub fn drawn(&self) -> Vec<(Writer, &Sampling)> {
        self.all().into_iter().filter_map(|producer| producer.kind().drawn()).collect()
    }

    /// The sampling settings of the first producer that draws.
    pub fn sampling(&self) -> Option<&Sampling> {
        self.drawn().first().map(|(_, sampling)| *sampling)
    }

    /// Applies `change` to all sampling settings of the tree.
    pub fn each_sampling(&mut self, change: &mut dyn FnMut(&mut Sampling)) {
        let kind = self.kind_mut();
        kind.sampling_mut().into_iter().for_each(&mut *change);
        kind.inner_mut().into_iter().for_each(|inner| inner.each_sampling(change));
    }

    /// Replaces all generation once for each prompt by drawing at every step.
    pub fn redraw_each_step(&mut self) {
        let kind = self.kind_mut();
        kind.redraw_each_step();
        kind.inner_mut().into_iter().for_each(Producer::redraw_each_step);
    }

    /// Whether a part is generated before the first step, once for each prompt that the stage draws.
    pub fn cached_per_prompt(&self) -> bool {
        self.all().into_iter().any(|producer| producer.kind().cached_per_prompt())
    }

    /// The completions that are generated once, before the first step.
    pub fn once(&self) -> Option<PrecomputedRollouts> {
        self.kind().once()
    }

    pub fn once_mut(&mut self) -> Option<&mut PrecomputedRollouts> {
        self.kind_mut().once_mut()
    }

    /// Whether its sequences are new in every step.
    pub fn is_redrawn(&self) -> bool {
        self.kind().is_redrawn()
    }

    /// Whether a step draws all sequences itself: none is from the data, from an earlier step, or of a pair.
    pub fn all_redrawn(&self) -> bool {
        let kind = self.kind();
        let drawn = kind.drawn().is_some() || kind.draws_inside();
        drawn && self.is_redrawn() && kind.inner().into_iter().all(Producer::all_redrawn)
    }
}

impl Rollout {
    pub fn new(groups: u32, producer: Producer) -> Rollout {
        Rollout { producer, groups, keep: Keep::All }
    }

    /// The number of sequences of a group.
    pub fn group(&self) -> u32 {
        self.producer.kind().group().max(1)
    }

    /// The number of sequences of a step.
    pub fn sequences(&self) -> u32 {
        self.groups.saturating_mul(self.group())
    }

    /// Whether a step may train on fewer sequences than requested, or on none.
    pub fn may_drop(&self) -> bool {
        self.keep != Keep::All || self.producer.kind().may_drop()
    }

    /// Fixes conditions for the highest cost of a step: see [`ProducerKind::assume_conditions`].
    pub fn assume_conditions(&mut self) {
        self.keep = Keep::All;
        self.producer.kind_mut().assume_conditions(true);
    }

    /// The serialised fields. `model` serialises models.
    pub fn fields(&self, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.with_keep(self.producer.kind().fields(Some(self.groups), model))
    }

    fn with_keep(&self, fields: Fields) -> Fields {
        match self.keep {
            Keep::All => fields,
            keep => fields.with("keep_of_step", FieldValue::Keep(keep)),
        }
    }

    /// The fields in the stage's key. `model` returns the keys of models.
    pub fn key(&self, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.with_keep(self.producer.kind().key(Some(self.groups), model))
    }
}

impl Serialize for Rollout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields(&FieldValue::Model).serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
