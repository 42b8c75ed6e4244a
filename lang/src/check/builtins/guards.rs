//! Built-in guards: actions of a stage when numbers of its steps go wrong.

use super::declare::builtins;
use super::types::{Condition, Count, Domains, Formula, Fraction};

builtins! { Guard: GuardName, GuardCall {
    /// Says so when the condition has held for so many steps in a row; again only after it has failed to
    /// hold.
    #[usage = "warn(entropy < 0.1, for: 10 steps)"]
    warn => Warn { condition: Condition, steps "for": Count = 1, on: Option<Domains> },

    /// Stops the stage when the condition has held for so many steps in a row. It has no result; its
    /// checkpoint is kept.
    #[usage = "stop(divergence > 4 * initial(divergence), for: 5 steps)"]
    stop => Stop as Warn,

    /// Multiplies the learning rate with `by` from the next step on, each time the condition has held for so
    /// many steps in a row.
    #[usage = "lower_lr(gradient_norm > 10, by: 0.5, for: 3 steps)"]
    lower_lr => LowerLr { condition: Condition, by: Fraction, steps "for": Count = 1, on: Option<Domains> },

    /// In a guard: the mean of a number over the first steps that have it; the first one by default.
    #[usage = "initial(divergence, steps: 5)"]
    initial => Initial { x: Formula, steps: Count = 1 },

    /// In a guard: the mean of a number over the last steps that have it.
    #[usage = "recent(reward, steps: 10)"]
    recent => Recent { x: Formula, steps: Count },
}}
