//! The ledger of a server: numbers that come from another process are measured before anything is trained on
//! them. The checks need no weights. They are the same for every dialect:
//!
//! - [`gap`]: the trainer's log-probabilities of sampled tokens against the sampler's;
//! - [`ending`]: how a completion ended;
//! - [`draws`]: a teacher's log-probabilities against the sampler's own draws;
//! - [`prefixes`]: equal prefixes have equal numbers;
//! - [`teacher`]: the ledger of a teacher's server, with these, the versions that it names, and its canary.

pub mod draws;
pub mod ending;
pub mod gap;
pub mod prefixes;
pub mod teacher;
#[cfg(test)]
mod tests;
