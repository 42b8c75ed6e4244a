//! Typed formulas of numbers that are known only per token: operators, functions, reductions, divergences and
//! signals, with units and axes.

pub mod along_axis;
pub mod arithmetic;
pub mod blends;
pub mod declared;
pub mod divergences;
pub mod fractions;
pub mod functions;
pub mod lists;
pub mod logits;
pub mod precision;
pub mod properties;
pub mod ranges;
pub mod reduce;
pub mod schedules;
pub mod signals;
pub mod temperatures;
pub mod uniform;
