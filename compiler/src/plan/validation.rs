//! A loss on rows that no stage is trained on.

use serde::{Deserialize, Serialize};

/// The student's mean negative log-probability, in nats per token at temperature 1, of a field of the
/// validation rows of a stage's domains: over all their tokens, the one that ends a completion among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The field whose text is predicted.
    pub target: String,
    /// It is computed before the first step, and again after so many.
    pub every: u32,
    /// The first ones of each domain; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

impl Validation {
    /// How many of a domain's rows are read.
    pub fn rows_of(&self, rows: usize) -> usize {
        self.rows.map_or(rows, |most| rows.min(most as usize))
    }

    /// How often it is computed in so many steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}
