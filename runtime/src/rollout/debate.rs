//! What a panel said about a prompt.

use serde::{Deserialize, Serialize};

use crate::data::mixture::Draw;

/// A panel's words about a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Debate {
    /// Its place among those of the stage.
    pub panel: u32,
    pub prompt: Draw,
    pub transcript: String,
    /// Of each member.
    pub stances: Vec<Stance>,
}

/// What a member's last turn comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stance {
    /// It said something.
    pub answered: bool,
    /// How sure it said it is; none where it did not say so.
    pub confidence: Option<i64>,
}
