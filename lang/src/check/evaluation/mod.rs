//! How models are judged: held-out prompts, tables, budgets, and grids of experiments.

pub mod benchmarks;
pub mod budgets;
pub mod compare;
pub mod sweep;
