//! Panels: scorers that discuss a prompt before they score its completions (arXiv:2605.01347).

use serde::{Deserialize, Serialize};

use super::{Role, Sampling};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    pub name: String,
    /// The teachers in the order of their turns. Each reads its template as a scorer.
    pub members: Vec<Role>,
    /// The number of turns of each member.
    pub rounds: u32,
    /// The sampling settings of a turn.
    pub sampling: Sampling,
    /// The range of the integer that each member states in its last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<(i64, i64)>,
}

/// A panel in a key, without its name. The templates of its members are part of the key as scorers'.
#[derive(Serialize)]
pub struct PanelMeaning<'a> {
    members: &'a [Role],
    rounds: u32,
    sampling: &'a Sampling,
    confidence: Option<(i64, i64)>,
}

impl Panel {
    pub fn meaning(&self) -> PanelMeaning<'_> {
        let Panel { name: _, members, rounds, sampling, confidence } = self;
        PanelMeaning { members, rounds: *rounds, sampling, confidence: *confidence }
    }

    /// The number of turns of all members together.
    pub fn turns(&self) -> u32 {
        self.rounds.saturating_mul(self.members.len() as u32)
    }

    /// The most tokens of a whole discussion.
    pub fn tokens(&self) -> u32 {
        self.turns().saturating_mul(self.sampling.max_tokens)
    }

    /// The text before a turn in a transcript, which names the speaker by index.
    pub fn label(member: usize) -> String {
        format!("Expert {}: ", member + 1)
    }

    /// The text between two turns in a transcript.
    pub const BETWEEN: &'static str = "\n\n";
}
