//! A producer written down. The plan and the keys of results have the same words in the same order, which
//! stays as it is, whatever a field is called in the program.

use serde::{Serialize, Serializer};

use super::{DerivedText, Keeps, ModelId, PatternPiece, Sampling};
use crate::plan::views::Piece;
use crate::plan::{Formula, Keep, Moving, Role, RolloutServer, View};

/// Names and values, in their order.
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
    Model(ModelId),
    Role(Role),
    Keep(Keep),
    Keeps(Keeps),
    Formula(Formula),
    Sampling(Sampling),
    Moving(Moving),
    View(View),
    Pieces(Vec<Piece>),
    Pattern(Vec<PatternPiece>),
    Made(Vec<DerivedText>),
    Server(RolloutServer),
    Fields(Fields),
    Each(Vec<Fields>),
}

impl Fields {
    /// Of a kind, by its word in plans.
    pub fn of(kind: &str) -> Fields {
        Fields::default().with("from", FieldValue::Text(kind.to_owned()))
    }

    pub fn with(mut self, name: &'static str, value: FieldValue) -> Fields {
        self.0.push((name, value));
        self
    }

    /// The groups of a step, where they are its own.
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
