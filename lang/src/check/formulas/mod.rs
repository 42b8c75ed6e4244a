//! Typed formulas of numbers that are known only per token: operators, functions, reductions, divergences and
//! signals, with units and axes.

pub mod along_axis;
pub mod arithmetic;
pub mod blends;
pub mod declared;
pub mod divergences;
pub mod functions;
pub mod precision;
pub mod properties;
pub mod reduce;
pub mod signals;
