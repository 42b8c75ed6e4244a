//! The operators of the language, below its checker and its compiler. Each is declared once, here.
//!
//! An elementwise function is one entry of the table in `functions/table.rs`, a [`FunctionDefinition`]:
//!
//! | field | what derives from it |
//! |---|---|
//! | `name`, `notation` | names, arities, completion, hover, the book, the editors' grammars, formulas as text |
//! | `units` | which units it takes and gives |
//! | `value` | constant folding, the interpreter, the audit's dual numbers |
//! | `gradients` | reverse-mode derivatives in the expression graph, the audit's dual numbers; empty where there is none |
//! | `range` | what a schedule or a bound can be over a run |
//! | `accuracy` | the error that tests hold the f32 program to, and the book's table |
//!
//! A `value` is a Rust function of `f64` numbers, one of the operands, or an [`OpExpr`] of other functions.
//! In the last case no program in single precision is needed, since machine code ([`f32_ops`]) and tensors
//! evaluate the same expression: such a function needs only its entry and its page of tests. Any other
//! function needs a program in [`f32_ops`], and a line in the runtime's table of libtorch's
//! kernels.
//!
//! Functions along an axis have one entry each too ([`OperatorEntry`]): [`Reduction`]s, [`Statistic`]s,
//! [`Scan`]s and [`Memory`], with the name, arguments and documentation that the checker, editors and the
//! book read, and the value that the interpreter, compiled programs and the audit compute.
//!
//! All ways to evaluate an [`OpExpr`] implement one trait, [`Backend`]: a constant, and a function applied to
//! operands (numbers, graph nodes, f32 programs, tensors).

#![forbid(unsafe_code)]

mod entry;
pub mod f32_ops;
mod functions;
mod reduction;
mod scan;
mod statistic;
pub mod testing;
mod unit;

pub use entry::OperatorEntry;
pub use functions::{
    Accuracy, Backend, Function, FunctionDefinition, FunctionValue, Notation, OpExpr, Range, Units, expr,
    interval, maximum, minimum,
};
pub use reduction::{Receivers, Reduction, ReductionGradient};
pub use scan::{Memory, Scan};
pub use statistic::{Deviation, Statistic, ZSCORE_EPSILON, quantile};
pub use unit::{Mismatch, Unit, common_unit};
