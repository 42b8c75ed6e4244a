//! A file that is being written: what has not changed since the last analysis is not checked again.

pub mod cache;
pub mod recording;
pub mod tracked;
