//! Losses that may follow `live`, besides divergences and the student's own numbers. `dpo` is also a stage.

use super::declare::builtins;
use super::types::{Dimensions, Formula, Role, Rollout, Schedule, Support, TextSpan};

builtins! { Loss: LossName, LossCall {
    /// Minus the student's log-probability of a role's most probable token.
    #[usage = "live nll(teacher)"]
    nll => Likelihood { of: Role },

    /// A preference between two completions of one prompt, measured against the reference (one number per
    /// group).
    #[usage = "live dpo(chosen: from(teacher, ...), rejected: snapshot(start, ...), beta: 0.1)"]
    dpo => Dpo { chosen: Rollout, rejected: Rollout, beta: Schedule },

    /// The negative log-likelihood, under the student, of the order in which a role ranks its entries
    /// (Plackett-Luce).
    #[usage = "live ranking(order: top_k(teacher, 8))"]
    ranking => Ranking { order: Support },

    /// A preference between the scores of two completions of one prompt (one number per group).
    #[usage = "live bradley_terry(chosen: from(teacher, ...), rejected: sample(...))"]
    bradley_terry => BradleyTerry { chosen: Rollout, rejected: Rollout, on: Option<TextSpan> },

    /// The squared difference between a number of the student's and a target.
    #[usage = "live mse(student.value, reward)"]
    mse => SquaredError { x: Formula, target: Formula, dimensions: Option<Dimensions> },

    /// Binary cross-entropy between the student's confidence and a target from 0 to 1.
    #[usage = "live bce(student.confidence, target)"]
    bce => BinaryCrossEntropy { x: Formula, target: Formula },
}}
