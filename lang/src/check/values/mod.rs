//! Evaluation of expressions to values: the evaluator, calls, and numbers over training time.

pub mod calls;
pub mod declared_type;
pub mod evaluate;
mod expected;
pub mod frames;
pub mod matches;
pub mod postfix_words;
pub mod ranges;
pub mod schedules;
pub mod value;
