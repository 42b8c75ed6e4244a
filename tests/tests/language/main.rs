//! The language and the repository: what needs no worker. One program, since each more costs a build its
//! link.

mod additions;
mod audit;
mod book;
mod chains;
mod diagnostics;
mod difference;
mod editors;
mod engines;
mod format;
mod hints;
mod incremental;
mod layering;
mod methods;
mod mistakes;
mod mistyped;
mod mutations;
mod names;
mod reference;
mod source_rules;
mod suite;
mod weights;
