//! Guards, which watch the numbers of a stage's steps and act when a condition holds.

use serde::{Deserialize, Serialize};

use super::formula::Formula;
use super::{DomainId, Origin};

/// A guard. It acts when its condition has held for `steps` steps in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// One bool per step, made of [`super::formula::Signal::OfSteps`].
    pub condition: Formula,
    pub steps: u32,
    /// The domain whose numbers it reads; where absent, those of all domains together.
    pub on: Option<DomainId>,
    pub action: GuardAction,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Warns.
    Warn,
    /// Ends the stage without a result.
    Stop,
    /// Multiplies the learning rate, from the next step on.
    LowerRate { by: f64 },
}

impl GuardAction {
    /// The name in the language.
    pub fn name(self) -> &'static str {
        match self {
            GuardAction::Warn => "warn",
            GuardAction::Stop => "stop",
            GuardAction::LowerRate { .. } => "lower_lr",
        }
    }
}
