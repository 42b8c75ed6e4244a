//! Panels: scorers that talk about a prompt before they score its completions (arXiv:2605.01347).

use serde::{Deserialize, Serialize};

use super::{Role, Sampling};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    pub name: String,
    /// Its teachers, in the order in which they speak. What each reads is what it sees as a scorer.
    pub members: Vec<Role>,
    /// Turns of each.
    pub rounds: u32,
    /// How a turn is drawn.
    pub sampling: Sampling,
    /// A whole number that each states in its last turn, between these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<(i64, i64)>,
}

/// A panel without its name. What its members see is said of them as scorers.
#[derive(Serialize)]
pub(crate) struct PanelMeaning<'a> {
    members: &'a [Role],
    rounds: u32,
    sampling: &'a Sampling,
    confidence: Option<(i64, i64)>,
}

impl Panel {
    pub(crate) fn meaning(&self) -> PanelMeaning<'_> {
        let Panel { name: _, members, rounds, sampling, confidence } = self;
        PanelMeaning { members, rounds: *rounds, sampling, confidence: *confidence }
    }

    /// Of all members together.
    pub fn turns(&self) -> u32 {
        self.rounds.saturating_mul(self.members.len() as u32)
    }

    /// All that is said about a prompt, in tokens, at most.
    pub fn tokens(&self) -> u32 {
        self.turns().saturating_mul(self.sampling.max_tokens)
    }

    /// What stands before a turn in a transcript: the speaker by its place.
    pub fn label(member: usize) -> String {
        format!("Expert {}: ", member + 1)
    }

    /// What stands between two turns in a transcript.
    pub const BETWEEN: &'static str = "\n\n";
}
