//! The mopd language, from text to a checked experiment. Does no I/O: the host passes texts in.

#![forbid(unsafe_code)]

pub mod check;
pub mod diag;
pub mod fmt;
pub mod ide;
pub mod source;
pub mod syntax;

pub use check::{
    Analysis, Auditor, ParseCache, analyse, analyse_audited, analyse_edited, analyse_run, analyse_runs,
    analyse_with,
};
