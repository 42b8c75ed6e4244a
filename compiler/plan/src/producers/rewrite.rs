//! `... |> rewrite("Confidence: {_}" -> "Confidence: {mean(correct, over: group)}")`: replaces a text in
//! completions by another one.

use serde::{Deserialize, Serialize};

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, reads_student};
use crate::views::Piece;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Rewrite {
    pub pattern: Vec<PatternPiece>,
    /// The replacement. Its numbers are per sequence.
    pub text: Vec<Piece>,
    pub of: Producer,
}

/// A part of the pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatternPiece {
    Text(String),
    /// Any text within a line: the shortest match or, at the end of the pattern, the rest of the line.
    Anything,
}

impl Rewrite {
    fn described(&self, of: Fields, groups: Option<u32>) -> Fields {
        Fields::new("rewrite")
            .with("pattern", FieldValue::Pattern(self.pattern.clone()))
            .with("text", FieldValue::Pieces(self.text.clone()))
            .with("of", FieldValue::Fields(of))
            .with_groups("batch", groups)
    }
}

impl ProducerKind for Rewrite {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().fields(None, model), groups)
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().key(None, model), groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    fn text(&self) -> &[Piece] {
        &self.text
    }

    fn edited(&self) -> Option<&Producer> {
        Some(&self.of)
    }

    /// A completion is left out if nothing of its text is left, and no end token.
    fn may_drop(&self) -> bool {
        let is_empty = |piece: &Piece| match piece {
            Piece::Text(text) => text.is_empty(),
            Piece::Number(_) => false,
            _ => true,
        };
        self.text.iter().all(is_empty) || self.of.kind().may_drop()
    }

    fn draws_inside(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("`rewrite` changes the text after it was drawn")
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let scored =
            self.text.iter().any(|piece| matches!(piece, Piece::Number(number) if reads_student(number)));
        let read = if scored { of(Writer::Student)? as f64 } else { 0.0 };
        Some(self.of.kind().parameters(of)? + read)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
