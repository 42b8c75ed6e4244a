//! The serialised form of a producer. Names and their order in the plan and in the keys of results must never
//! change, whatever the fields are called in the program.

use mopd_experiment::EnvironmentProgram;
use serde::{Serialize, Serializer};

use super::{DerivedText, ModelId, PatternPiece, ReplayContents, Sampling};
use crate::views::Piece;
use crate::{AdaptiveSchedule, Formula, Keep, Role, RolloutServer, View};

/// Names and values, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(&'static str, FieldValue)>);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FieldValue {
    Text(String),
    Count(u32),
    Bool(bool),
    Number(f64),
    Texts(Vec<String>),
    Counts(Vec<u32>),
    Model(ModelId),
    Role(Role),
    Keep(Keep),
    Keeps(ReplayContents),
    Formula(Formula),
    Sampling(Sampling),
    Moving(AdaptiveSchedule),
    View(View),
    Pieces(Vec<Piece>),
    Pattern(Vec<PatternPiece>),
    Made(Vec<DerivedText>),
    Server(RolloutServer),
    Environment(EnvironmentProgram),
    Fields(Fields),
    Each(Vec<Fields>),
}

impl Fields {
    /// The fields of a kind, beginning with its name in plans.
    pub fn new(kind: &str) -> Fields {
        Fields::default().with("from", FieldValue::Text(kind.to_owned()))
    }

    pub fn with(mut self, name: &'static str, value: FieldValue) -> Fields {
        self.0.push((name, value));
        self
    }

    /// The numbers that change over training time, also those of producers inside.
    pub fn moving(&self) -> Vec<AdaptiveSchedule> {
        let of = |value: &FieldValue| match value {
            FieldValue::Moving(moving) => vec![moving.clone()],
            FieldValue::Sampling(sampling) => {
                let temperature = sampling.temperature.schedule().cloned().map(AdaptiveSchedule::from);
                sampling.max_tokens_moves.iter().cloned().chain(temperature).collect()
            }
            FieldValue::Fields(fields) => fields.moving(),
            FieldValue::Each(all) => all.iter().flat_map(Fields::moving).collect(),
            _ => Vec::new(),
        };
        self.0.iter().flat_map(|(_, value)| of(value)).collect()
    }

    /// Adds the groups of a step, if the producer is a stage's own.
    pub fn with_groups(self, name: &'static str, groups: Option<u32>) -> Fields {
        match groups {
            Some(groups) => self.with(name, FieldValue::Count(groups)),
            None => self,
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
