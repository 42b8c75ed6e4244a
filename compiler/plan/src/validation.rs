//! A loss on rows that no stage is trained on.

use serde::{Deserialize, Serialize};

/// The student's mean negative log-probability of a field in the validation rows of a stage's domains, in
/// nats per token at temperature 1, over all tokens of the field including the end token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The field whose text is predicted.
    pub target: String,
    /// The steps between two evaluations; the first is before the first step.
    pub every: u32,
    /// The number of rows of each domain, from the first; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

impl Validation {
    /// The number of a domain's rows that are used.
    pub fn rows_of(&self, rows: usize) -> usize {
        self.rows.map_or(rows, |most| rows.min(most as usize))
    }

    /// The number of evaluations in `steps` steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}
