//! Incremental analysis of a file that is being edited: items that have not changed are not checked again.

pub mod cache;
pub mod recording;
pub mod tracked;
