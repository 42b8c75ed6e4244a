//! What a run leaves for people and tools to read: the series of every step, and the tables.

pub mod metrics;
pub mod results;
pub mod statistics;
