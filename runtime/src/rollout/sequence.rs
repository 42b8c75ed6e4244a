//! What a step trains on: a completion and where it comes from.

use std::ops::Range;

use mopd_compiler::plan::Role;
use serde::{Deserialize, Serialize};

use super::DraftCounts;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// A prompt and a completion of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Index into the stage's sources.
    pub source: usize,
    /// Index of the prompt's record in the source's data.
    pub record: usize,
    /// What stands before the completion, where it is not the prompt of the record as a model is asked it.
    pub prompt: Option<Vec<Token>>,
    pub completion: Vec<Token>,
    /// Which tokens of the completion are trained on; all where absent. The others are what users and tools
    /// said meanwhile.
    pub written: Option<Vec<bool>>,
    /// Log-probabilities under whoever sampled it, at the temperature of sampling; none where the data has
    /// it.
    pub logps: Option<Vec<f32>>,
    /// Which head wrote each token, where two tokens are drawn in a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<u8>>,
    pub truncated: bool,
    pub reward: Option<f64>,
    /// What each part of the verifier said, where it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reward_parts: Vec<(String, f64)>,
    /// Whether it is the preferred one of its pair; none outside of pairs.
    pub chosen: Option<bool>,
    /// What the student wrote, where a teacher refined it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// What the verifier said of it, where a template shows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
    /// What it is of a trajectory that was sampled with drafts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Speculation>,
    /// What models wrote about it: each of the stage's feedbacks, or nothing where none is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written_feedback: Vec<String>,
    /// Of roles that the objective asks about it: whether the completion of its place among their own is
    /// right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub correct_of: Vec<(Role, bool)>,
    /// Whether its prompt was derived from completions of the record's own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub derived: bool,
    /// Whether it, or its prompt, comes from a buffer of earlier rollouts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replayed: bool,
    /// Of one that a server sampled: the steps after which the student had the weights that it sampled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_at: Option<u32>,
}

fn is_false(of: &bool) -> bool {
    !of
}

/// A row of a trajectory that was sampled with drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// The trajectory itself.
    Trajectory(DraftCounts),
    /// What was rejected of a draft, which is no completion: behind the trajectory up to there, which is not
    /// trained on here.
    Rejected,
}

impl Sequence {
    /// A completion of a record, of which nothing else is known yet.
    pub fn new(source: usize, record: usize, completion: Vec<Token>) -> Sequence {
        Sequence {
            source,
            record,
            completion,
            prompt: None,
            written: None,
            logps: None,
            heads: None,
            truncated: false,
            reward: None,
            reward_parts: Vec::new(),
            chosen: None,
            draft: None,
            feedback: None,
            speculation: None,
            written_feedback: Vec::new(),
            correct_of: Vec::new(),
            derived: false,
            replayed: false,
            sampled_at: None,
        }
    }

    /// Whether the completion of its place among a role's own is right.
    pub fn correct_of(&self, role: Role) -> Option<bool> {
        self.correct_of.iter().find(|(known, _)| *known == role).map(|(_, right)| *right)
    }

    /// What a part of the verifier said of it.
    pub fn reward_part(&self, part: &str) -> Option<f64> {
        self.reward_parts.iter().find(|(name, _)| name == part).map(|(_, reward)| *reward)
    }

    /// Number of tokens that are trained on.
    pub fn trained(&self) -> usize {
        match &self.written {
            Some(written) => written.iter().filter(|written| **written).count(),
            None => self.completion.len(),
        }
    }

    /// Steps in which two tokens at most were drawn; none where one was.
    pub fn steps(&self) -> Option<usize> {
        Some(self.heads.as_ref()?.iter().filter(|head| **head == 0).count())
    }

    /// Whether it is what was rejected of a draft.
    pub fn is_rejected(&self) -> bool {
        self.speculation == Some(Speculation::Rejected)
    }

    /// What it wrote without interruption, of a completion that has tokens of others between them.
    pub fn turns(&self) -> impl Iterator<Item = Range<usize>> {
        let tokens: Vec<usize> = (0..self.completion.len()).collect();
        let mut turns: Vec<Range<usize>> = Vec::new();
        for &token in self.of_trained(&tokens) {
            match turns.last_mut() {
                Some(turn) if turn.end == token => turn.end += 1,
                _ => turns.push(token..token + 1),
            }
        }
        turns.into_iter()
    }

    /// Of a list with one element for each token of the completion, those of the tokens that are trained on.
    pub fn of_trained<'a, T>(&'a self, elements: &'a [T]) -> impl Iterator<Item = &'a T> {
        let written = |index: usize| self.written.as_ref().is_none_or(|written| written[index]);
        assert!(
            self.written.as_ref().is_none_or(|written| written.len() == self.completion.len()),
            "a mask of the completion"
        );
        zip_equal(0..self.completion.len(), elements)
            .filter(move |(index, _)| written(*index))
            .map(|(_, element)| element)
    }
}
