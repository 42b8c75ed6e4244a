//! From checked types to executable ones. Checked types hold everything that the language can say, the plan's
//! only what this version runs; whatever does not convert is refused by name, where it was asked for. Matches
//! are exhaustive, one function a type: a construct that the language gains is a compile error here until
//! somebody decides what becomes of it.

mod comparisons;
mod curriculum;
mod data;
mod derived;
mod divergence;
mod extrapolation;
pub(super) mod feedback;
mod filter;
pub(super) mod formula;
mod guards;
mod of_step;
mod optimizer;
pub(super) mod roles;
pub(super) mod settings;
mod shares;
mod stage;
pub(super) mod sums;
pub(super) mod teacher;

use mopd_lang::diag::Diagnostic;

use crate::refusal::{Converted, refused};
