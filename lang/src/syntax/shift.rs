//! Moves a tree to another place of its file, or to another file.
//!
//! Every field with a span is named here in an exhaustive pattern: a field that is added to the tree and
//! missing here does not compile.

use std::rc::Rc;

use super::ast::*;
use crate::diag::{Diagnostic, Fix, Label};
use crate::source::{FileId, Span};

/// A change of the spans of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Moves them to a file, by a number of bytes (modulo 2^32, hence also backwards).
    Move { file: FileId, by: u32 },
    /// Makes them all equal, so that two trees that differ only in spans are equal.
    Erase,
}

impl Shift {
    pub fn new(file: FileId, from: usize, to: usize) -> Shift {
        Shift::Move { file, by: (to as u32).wrapping_sub(from as u32) }
    }
}

pub trait Shifted {
    fn shift(&mut self, shift: Shift);
}

impl Shifted for Span {
    fn shift(&mut self, shift: Shift) {
        let Span { file, start, end } = self;
        (*file, *start, *end) = match shift {
            Shift::Move { file, by } => (file, start.wrapping_add(by), end.wrapping_add(by)),
            Shift::Erase => (FileId(0), 0, 0),
        };
    }
}

impl<T: Shifted> Shifted for Vec<T> {
    fn shift(&mut self, shift: Shift) {
        self.iter_mut().for_each(|element| element.shift(shift));
    }
}

impl<T: Shifted> Shifted for Option<T> {
    fn shift(&mut self, shift: Shift) {
        self.iter_mut().for_each(|element| element.shift(shift));
    }
}

impl<T: Shifted> Shifted for Box<T> {
    fn shift(&mut self, shift: Shift) {
        self.as_mut().shift(shift);
    }
}

/// Shifts in place if the value is not shared.
impl<T: Shifted + Clone> Shifted for Rc<T> {
    fn shift(&mut self, shift: Shift) {
        Rc::make_mut(self).shift(shift);
    }
}

/// Types without a span.
macro_rules! fixed {
    ($($type:ty),*) => {
        $(impl Shifted for $type {
            fn shift(&mut self, _: Shift) {}
        })*
    };
}

macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => {
        $(impl Shifted for $type {
            fn shift(&mut self, shift: Shift) {
                let $type { $($field),* } = self;
                $($field.shift(shift);)*
            }
        })*
    };
}

macro_rules! enums {
    ($($type:ident { $($variant:ident $({ $($field:ident),* })? $(($value:ident))?),* })*) => {
        $(impl Shifted for $type {
            fn shift(&mut self, shift: Shift) {
                match self {
                    $($type::$variant $({ $($field),* })? $(($value))? => {
                        $($($field.shift(shift);)*)?
                        $($value.shift(shift);)?
                    })*
                }
            }
        })*
    };
}

fixed! {
    String, bool, f64, UnaryOperator, BinaryOperator, crate::diag::Code, crate::diag::Severity,
    crate::diag::Applicability
}

structs! {
    Name { text, span }
    Text { text, span }
    Item { doc, public, span, kind }
    DivergenceItem { name, is_sum, directed, parameters, body }
    Use { module, names }
    Parameter { name, annotation, default }
    Index { name, over }
    Binding { name, indices, value }
    NamedValue { name, value }
    WhereBinding { name, value }
    Block { span, statements, broken }
    Entry { key, value, marks }
    Mark { name, argument }
    Route { span, arms }
    Arm { span, index, condition, target }
    Expr { span, kind }
    Carried { name, start }
    Argument { name, value }
    MatchArm { span, condition, value, marks }

    Diagnostic { code, severity, message, primary, related, help, fix, choices }
    Label { span, text }
    Fix { title, span, replacement, applicability }
}

enums! {
    ItemKind {
        Use(import),
        Experiment { name, block },
        Param(parameter),
        Let { name, annotation, value },
        Fn { name, parameters, body },
        Domain { name, base, block },
        Reward { name, value },
        Schedule { name, value },
        Model(binding),
        Teacher { binding, parameters },
        Template { name, parameters, text },
        Divergence(declared),
        Rollout { name, parameters, body },
        Panel { name, value },
        Sweep { span, axes },
        Eval { name, base, block },
        Stage { name, parameters, body },
        Route(route),
        Objective { name, parameters, body },
        Compare { name, block }
    }
    Statement {
        Entry(entry),
        Let { name, index, annotation, value },
        State { name, index, first, by, next },
        Term { name, index, value, block },
        Trains { name, value },
        Step { name, block },
        Route(route)
    }
    ModuleName { Words(words), File(path) }
    Condition { When(condition), Else }
    ExprKind {
        Number { value, suffix },
        Text(text),
        Bool(value),
        Name(name),
        Field { base, field },
        Index { base, index },
        Call { callee, arguments, block },
        List(elements),
        With { base, changes },
        Settings(block),
        NamedValues(values),
        Unary { operator, operand },
        Binary { operator, operator_span, left, right },
        Live(operand),
        Arrow { from, to },
        Versus { left, right },
        Then { first, second },
        For { index, carried, body },
        Match { arms },
        Range { low, high },
        Pipe { value, through },
        Where { value, bindings },
        By { value, axis, block },
        Error
    }
}
