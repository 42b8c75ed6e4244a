//! The unit of training data: a prompt, a completion of it and where they come from.

use std::ops::Range;

use mopd_plan::Role;
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
    /// Tokens before the completion, where they differ from the record's prompt in its template.
    pub prompt: Option<Vec<Token>>,
    pub completion: Vec<Token>,
    /// Which tokens of the completion are trained on; all where absent. The others were written by users
    /// and tools between the turns.
    pub written: Option<Vec<bool>>,
    /// Log-probability of each token under the model that sampled it, at the temperature of sampling;
    /// `None` where the completion comes from data.
    pub logps: Option<Vec<f32>>,
    /// Which head predicted each token, where a step draws up to two tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<u8>>,
    pub truncated: bool,
    pub reward: Option<f64>,
    /// The reward of each part of the verifier by name, where it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reward_parts: Vec<(String, f64)>,
    /// Whether it is the preferred one of its pair; `None` outside of pairs.
    pub chosen: Option<bool>,
    /// The student's text, where this completion is a teacher's refinement of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// The verifier's feedback on it, where a template shows feedback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
    /// Its part in a trajectory sampled by speculative decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Speculation>,
    /// Feedback that models wrote about it, one text per feedback of the stage; empty where none is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written_feedback: Vec<String>,
    /// For each role that the objective reads `correct` of: whether that role's completion at the same
    /// index is correct.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub correct_of: Vec<(Role, bool)>,
    /// Whether its prompt was derived from completions of the record's own prompt.
    #[serde(default, skip_serializing_if = "is_false")]
    pub derived: bool,
    /// Whether it, or its prompt, comes from a buffer of earlier rollouts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replayed: bool,
    /// Where a server sampled it: the number of steps after which the student had the server's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_at: Option<u32>,
}

fn is_false(of: &bool) -> bool {
    !of
}

/// The part of a speculatively decoded trajectory that a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// The trajectory itself.
    Trajectory(DraftCounts),
    /// The rejected tail of a draft. It follows the trajectory up to that point, which is not trained on in
    /// this row.
    Rejected,
}

impl Sequence {
    /// A completion of a record, with every other field empty.
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

    /// Whether the role's completion at the same index is correct, where known.
    pub fn correct_of(&self, role: Role) -> Option<bool> {
        self.correct_of.iter().find(|(known, _)| *known == role).map(|(_, right)| *right)
    }

    /// The reward of a part of the verifier, by the part's name.
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

    /// Number of decoding steps, where a step draws up to two tokens; else `None`.
    pub fn steps(&self) -> Option<usize> {
        Some(self.heads.as_ref()?.iter().filter(|head| **head == 0).count())
    }

    /// Whether it is the rejected tail of a draft.
    pub fn is_rejected(&self) -> bool {
        self.speculation == Some(Speculation::Rejected)
    }

    /// Maximal ranges of consecutive tokens that are trained on: the model's turns.
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

    /// The elements of trained tokens, from a slice with one element per token of the completion.
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
