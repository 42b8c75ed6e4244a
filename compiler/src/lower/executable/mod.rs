//! Converts checked types to executable ones. Checked types hold everything that the language can express,
//! the plan's only what this version can run; everything else is refused by name, at its place in the source.
//! Matches are exhaustive, with one function per type: a new construct of the language does not compile here
//! until its conversion or refusal is written.

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
mod privacy;
mod producers;
pub(super) mod roles;
pub(super) mod schedules;
pub(super) mod settings;
mod shares;
mod stage;
pub(super) mod sums;
pub(super) mod teacher;
mod template;

use mopd_lang::diag::Diagnostic;

use crate::lower::refusal::{Converted, Origins, refused};
