//! Producers: where the sequences come from that an objective judges. A producer is a node of a tree, a file
//! each kind: its executable form, how the language's rollout becomes it, what enters keys, what it needs and
//! what it costs. How it draws is in a file of the same name in the runtime's `train/batches`. Whatever would
//! match on all kinds asks the kind ([`ProducerKind`]).

mod chosen;
mod data;
mod derived;
mod each_turn;
mod executable;
mod fields;
mod first_of;
mod guided;
mod mix;
mod model;
mod pairs;
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

pub use mopd_lang::experiment::Keeps;
use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::{Deserialize, Serialize, Serializer};

use chosen::holding;
pub use chosen::{Chosen, SampleChoice, reads_student};
pub use data::Data;
pub use derived::{Derived, DerivedText};
pub use each_turn::EachTurn;
pub use fields::{FieldValue, Fields};
pub use first_of::FirstOf;
pub use guided::{Guidance, Guided};
pub use mix::Mix;
pub use model::Model;
pub use pairs::Pairs;
pub use refine::Refine;
pub use replay::Replay;
pub use retry::Retry;
pub use rewrite::{PatternPiece, Rewrite};
pub use sampled_by::SampledBy;
pub use sampler::sampler;
pub use speculative::Speculative;
pub use student::Student;
pub use teacher::{Once, Teacher};
pub use through::{ProducerProgram, Through};
pub use turns::{ExpertTurns, Turns};

use self::executable::{OfCompletions, edit_name, editable, other_edits, sampling_once};
pub(crate) use self::executable::{producer, rollout, sampling};
use super::views::Piece;
use super::{Keep, ModelId, Moving, Role, RolloutServer, Sampling, View};
use crate::refusal::{Converted, Origins, refused};

/// What a stage trains on: the trajectories of all terms of its objective.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Rollout {
    #[serde(flatten)]
    pub producer: Producer,
    /// Groups of a step.
    #[serde(rename = "batch", alias = "prompts")]
    pub groups: u32,
    /// Which of the completions that a step has drawn it trains on.
    #[serde(rename = "keep_of_step", default = "all")]
    pub keep: Keep,
}

fn all() -> Keep {
    Keep::All
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// A source of sequences: of each prompt it makes a group.
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
    FirstOf, Speculative, Derived, EachTurn, SampledBy,
}

/// The source of a rollout, as the runtime executes it.
fn source(
    rollout: &checked::Rollout,
    keep: Keep,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    let source = &rollout.source;
    match source {
        RolloutSource::Data { field } => Ok(Producer::data(field)),
        RolloutSource::Sample(of) => student::executable(of, rollout.origin, origins),
        RolloutSource::SampledBy { server, of, every } => {
            sampled_by::executable((server, *every), of, rollout, origins)
        }
        RolloutSource::From { .. } => teacher::executable(rollout, keep, origins),
        RolloutSource::Snapshot { model, of } => model::executable(*model, of, true, origins),
        RolloutSource::Mix { .. } => mix::executable(rollout, origins, of_completions),
        RolloutSource::Replay { .. } => replay::executable(rollout, origins, of_completions),
        RolloutSource::Turns { .. } => turns::executable(rollout, origins, of_completions),
        RolloutSource::TokenMix { .. } | RolloutSource::Interleave { .. } => {
            guided::executable(rollout, origins)
        }
        RolloutSource::Refine { .. } => refine::executable(rollout, origins),
        RolloutSource::FirstOf { choices } => first_of::executable(choices, origins, of_completions),
        RolloutSource::Derived { .. } => derived::executable(rollout, origins, of_completions),
        RolloutSource::Speculative { .. } | RolloutSource::EachTurn { .. } => {
            Err(refused(at, format!("the rollout `{}` inside another one", source.name())))
        }
        RolloutSource::Parameter { name, .. } => {
            Err(refused(at, format!("the rollout `{name}`, which has no value,")))
        }
        RolloutSource::Denoise { .. } => Err(refused(at, format!("the rollout `{}`", source.name()))),
    }
}

/// Who writes completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// As it is at this step.
    Student,
    /// One of the stage's scorers: whom the route has for the prompt, or a teacher by name.
    Scorer(Role),
    /// One of the stage's scorers, which reads a draft: in a template of the rollout's, or in its own.
    Editor { editor: Role, sees: bool },
    /// One of the stage's scorers, which has a say in each token that the student writes.
    Guide(Role),
    /// One that does not change.
    Model(ModelId),
}

/// What is true of a kind of producer. Where nothing is said, it draws nothing itself and has nothing inside.
pub trait ProducerKind {
    /// As the plan has it, and as it enters keys; `groups` of a stage's own, `model` writes a model down.
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields;

    /// What enters a stage's key, where it is not the same.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.fields(groups, model)
    }

    /// Sequences of a group: as many as the first producer inside makes.
    fn group(&self) -> u32 {
        self.inner().first().map_or(1, |inner| inner.kind().group())
    }

    /// Rows that a step trains on for each sequence of a group, at most: the sequence, and parts of others.
    /// None where the data says how many.
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

    /// The field of the data that it reads.
    fn field(&self) -> Option<&str> {
        None
    }

    /// The field of the data whose turns are its prompts.
    fn trajectory(&self) -> Option<&str> {
        None
    }

    /// Who writes for it, and how it is drawn.
    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        None
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        None
    }

    /// Whether its sequences are those that are drawn inside, where these are drawn at this step.
    fn draws_inside(&self) -> bool {
        false
    }

    /// What is read in place of the prompts where it is written.
    fn view(&self) -> Option<&View> {
        None
    }

    /// What it writes into completions.
    fn text(&self) -> &[Piece] {
        &[]
    }

    /// Whether its sequences have drafts.
    fn drafts(&self) -> bool {
        let inner = self.inner();
        !inner.is_empty() && inner.into_iter().all(Producer::drafts)
    }

    /// Where a program answers the student.
    fn environment(&self) -> Option<&Turns> {
        None
    }

    /// Where it makes prompts of its own.
    fn derives(&self) -> Option<&Derived> {
        None
    }

    /// The program that it starts.
    fn program(&self) -> Option<ProducerProgram<'_>> {
        None
    }

    /// The producer of the completions that it changes after they were written.
    fn edited(&self) -> Option<&Producer> {
        None
    }

    /// Turns of the writer in a completion, at most.
    fn turns(&self) -> u32 {
        self.inner().into_iter().map(|inner| inner.kind().turns()).max().unwrap_or(1)
    }

    /// What is made once, before the first step.
    fn once(&self) -> Option<Once> {
        None
    }

    fn once_mut(&mut self) -> Option<&mut Once> {
        None
    }

    /// Whether it writes before the first step too, once for each prompt that the stage draws.
    fn once_a_prompt(&self) -> bool {
        false
    }

    /// Draws at every step what it would write once for each prompt.
    fn draw_afresh(&mut self) {}

    /// Whether its sequences are new in every step.
    fn fresh(&self) -> bool {
        let drawn = self.drawn().is_some() && self.once().is_none() && !self.once_a_prompt();
        drawn || self.inner().into_iter().any(|inner| inner.kind().fresh())
    }

    /// Whether a group may have fewer sequences than are asked for, or none.
    fn leaves_out(&self) -> bool {
        self.inner().into_iter().any(|inner| inner.kind().leaves_out())
    }

    /// Takes it that conditions hold, or do not. Where one that does not leads to more that is drawn, it does
    /// not: no step costs more.
    fn settle(&mut self, holds: bool) {
        self.inner_mut().into_iter().for_each(|inner| inner.kind_mut().settle(holds));
    }

    /// The one policy that drew all tokens and how, or why there is none.
    fn policy(&self) -> Result<(Writer, &Sampling), &'static str>;

    /// Parameters that a token goes through when it is drawn at a step: on average, or at most.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64>;

    /// Its name where several processes can't each draw for their own prompts: a buffer is one for all, a
    /// number compares the prompts of a step. Those inside are asked themselves.
    fn undivided(&self) -> Option<&'static str>;

    /// How its author asks for so many groups a step.
    fn asked(&self, groups: u32) -> String {
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

    /// The routed teachers', fresh every step.
    pub fn teacher(sampling: Sampling) -> Producer {
        Producer::of_scorer(Role::TEACHER, None, sampling)
    }

    pub fn teacher_once(sequences: u32, keep: Keep, sampling: Sampling) -> Producer {
        Producer::of_scorer(Role::TEACHER, Some(Once { sequences, keep }), sampling)
    }

    pub fn of_scorer(writer: Role, once: Option<Once>, sampling: Sampling) -> Producer {
        Teacher { writer, sees: None, once, sampling }.into()
    }

    pub fn mix(share: impl Into<Moving>, first: Producer, second: Producer) -> Producer {
        Mix { share: share.into(), first, second }.into()
    }

    pub fn pairs(chosen: Producer, rejected: Producer) -> Producer {
        Pairs { chosen, rejected }.into()
    }

    /// It and all inside it, from the outside in.
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

    /// The fields of the data that it writes into completions.
    pub fn fields_of_texts(&self) -> Vec<&str> {
        let texts = self.all().into_iter().flat_map(|producer| producer.kind().text());
        texts.filter_map(Piece::field).collect()
    }

    /// What is read in place of the prompts where it is written.
    pub fn views(&self) -> Vec<&View> {
        let of_writers = self.all().into_iter().filter_map(|producer| producer.kind().view());
        of_writers.chain(self.derives().into_iter().flat_map(Derived::views)).collect()
    }

    /// Where prompts are made that are not the data's.
    pub fn derives(&self) -> Vec<&Derived> {
        self.all().into_iter().filter_map(|producer| producer.kind().derives()).collect()
    }

    /// Who reads something in place of the prompts while it writes, and what, beside what they read as
    /// scorers.
    pub fn shown(&self) -> impl Iterator<Item = (Writer, &Sampling, &View)> {
        self.all().into_iter().filter_map(|producer| {
            let (writer, sampling) = producer.kind().drawn()?;
            Some((writer, sampling, producer.kind().view()?))
        })
    }

    pub fn drafts(&self) -> bool {
        self.kind().drafts()
    }

    /// The programs that answer the student.
    pub fn environments(&self) -> Vec<&Turns> {
        self.all().into_iter().filter_map(|producer| producer.kind().environment()).collect()
    }

    /// Who writes, and how, everywhere in it.
    pub fn drawn(&self) -> Vec<(Writer, &Sampling)> {
        self.all().into_iter().filter_map(|producer| producer.kind().drawn()).collect()
    }

    /// How the first of those that draw does.
    pub fn sampling(&self) -> Option<&Sampling> {
        self.drawn().first().map(|(_, sampling)| *sampling)
    }

    /// The samplings of everything in it.
    pub fn each_sampling(&mut self, change: &mut dyn FnMut(&mut Sampling)) {
        let kind = self.kind_mut();
        kind.sampling_mut().into_iter().for_each(&mut *change);
        kind.inner_mut().into_iter().for_each(|inner| inner.each_sampling(change));
    }

    /// The same, where what is written once for each prompt is drawn at every step.
    pub fn draw_afresh(&mut self) {
        let kind = self.kind_mut();
        kind.draw_afresh();
        kind.inner_mut().into_iter().for_each(Producer::draw_afresh);
    }

    /// Whether some of it is written before the first step, once for each prompt that the stage draws.
    pub fn once_a_prompt(&self) -> bool {
        self.all().into_iter().any(|producer| producer.kind().once_a_prompt())
    }

    /// What is made once, before the first step.
    pub fn once(&self) -> Option<Once> {
        self.kind().once()
    }

    pub fn once_mut(&mut self) -> Option<&mut Once> {
        self.kind_mut().once_mut()
    }

    /// Whether its sequences are new in every step.
    pub fn fresh(&self) -> bool {
        self.kind().fresh()
    }

    /// Whether a step draws all of them itself: none is data, an earlier step's, or one of a pair.
    pub fn drawn_anew(&self) -> bool {
        let kind = self.kind();
        let drawn = kind.drawn().is_some() || kind.draws_inside();
        drawn && self.fresh() && kind.inner().into_iter().all(Producer::drawn_anew)
    }
}

impl Rollout {
    pub fn new(groups: u32, producer: Producer) -> Rollout {
        Rollout { producer, groups, keep: Keep::All }
    }

    /// Sequences of a group.
    pub fn group(&self) -> u32 {
        self.producer.kind().group().max(1)
    }

    /// Sequences of a step.
    pub fn sequences(&self) -> u32 {
        self.groups.saturating_mul(self.group())
    }

    /// Whether a step may train on fewer sequences than it asks for, or on none.
    pub fn leaves_out(&self) -> bool {
        self.keep != Keep::All || self.producer.kind().leaves_out()
    }

    /// As a step costs most: see [`ProducerKind::settle`].
    pub fn settle(&mut self) {
        self.keep = Keep::All;
        self.producer.kind_mut().settle(true);
    }

    /// As it is written down, models by `model`.
    pub fn fields(&self, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.with_keep(self.producer.kind().fields(Some(self.groups), model))
    }

    fn with_keep(&self, fields: Fields) -> Fields {
        match self.keep {
            Keep::All => fields,
            keep => fields.with("keep_of_step", FieldValue::Keep(keep)),
        }
    }

    /// What enters the stage's key, models by theirs.
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
