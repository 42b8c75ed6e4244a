//! A panel's debate about a prompt.

use serde::{Deserialize, Serialize};

use crate::data::mixture::Draw;

/// A panel's debate about a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Debate {
    /// Index of the panel among those of the stage.
    pub panel: u32,
    pub prompt: Draw,
    pub transcript: String,
    /// One per member.
    pub stances: Vec<TurnSummary>,
}

/// A summary of a member's last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnSummary {
    /// Whether the turn's text is not empty.
    pub answered: bool,
    /// The confidence that it stated; `None` where it stated none.
    pub confidence: Option<i64>,
}
