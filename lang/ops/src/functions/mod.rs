//! Elementwise functions. The files of this folder refer to each other, because a function's value and
//! gradients may be expressions of other functions: the entries are in [`table`], the fields of an entry in
//! [`definition`], expressions in [`expr`], and intervals for ranges in [`interval`].

mod definition;
pub mod expr;
pub mod interval;
mod table;

pub use definition::{Accuracy, FunctionDefinition, FunctionValue, Notation, Range, Units, maximum, minimum};
pub use expr::{Backend, OpExpr};
pub use table::Function;
