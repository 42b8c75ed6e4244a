//! The mopd language, from text to a checked experiment. No input or output: the host hands texts over.

#![forbid(unsafe_code)]

pub mod check;
pub mod diag;
pub mod experiment;
pub mod fmt;
pub mod ide;
pub mod source;
pub mod stack;
pub mod syntax;

/// Formulas hold rollouts and rollouts hold formulas: they are one room.
pub use experiment::formula;

pub use check::{
    Analysis, AnalysisCache, Auditor, analyse, analyse_audited, analyse_edited, analyse_while, analyse_with,
};
