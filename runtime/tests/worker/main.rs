//! The worker alone: whole runs on plans written by hand, through its real input and output.

mod keys;
mod resume;
mod run;
mod scores;
mod support;
