//! Operator precedence: builds a tree from a flat sequence of operands and operators.
//!
//! Lowest to highest: `then`; `->`; `|>`; `||`; `or`; `and`; `not`; comparisons; `..=`; `+ -`; `* /`; unary
//! `-`; `^` (right-associative); `live`.

use super::build::AstBuilder;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{BinaryOperator, Expr, ExprKind, UnaryOperator};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    Not,
    Negate,
    Live,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Infix {
    Then,
    Arrow,
    Pipe,
    Versus,
    Range,
    Binary(BinaryOperator),
}

pub enum InfixPiece {
    Prefix(Prefix, Span),
    Operand(Expr),
    Infix(Infix, Span),
}

const NOT: u8 = 7;
const NEGATE: u8 = 12;
const POWER: u8 = 13;
const LIVE: u8 = 14;

impl Infix {
    fn power(self) -> u8 {
        use BinaryOperator::*;
        match self {
            Infix::Then => 1,
            Infix::Arrow => 2,
            Infix::Pipe => 3,
            Infix::Versus => 4,
            Infix::Binary(Or) => 5,
            Infix::Binary(And) => 6,
            Infix::Binary(Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual) => 8,
            Infix::Range => 9,
            Infix::Binary(Add | Subtract) => 10,
            Infix::Binary(Multiply | Divide) => 11,
            Infix::Binary(Power) => POWER,
        }
    }
}

/// Builds the tree. In the grammar, operands and operators alternate; a missing operand becomes an error
/// node.
pub fn arrange(builder: &mut AstBuilder, pieces: Vec<InfixPiece>) -> Expr {
    let mut pieces = pieces.into_iter().peekable();
    climb(builder, &mut pieces, 0)
}

type Pieces = std::iter::Peekable<std::vec::IntoIter<InfixPiece>>;

fn climb(builder: &mut AstBuilder, pieces: &mut Pieces, least: u8) -> Expr {
    let mut left = match pieces.next() {
        Some(InfixPiece::Operand(operand)) => operand,
        Some(InfixPiece::Prefix(prefix, span)) => {
            let power = match prefix {
                Prefix::Not => NOT,
                Prefix::Negate => NEGATE,
                Prefix::Live => LIVE,
            };
            let operand = Box::new(climb(builder, pieces, power));
            let span = span.to(operand.span);
            let kind = match prefix {
                Prefix::Not => ExprKind::Unary { operator: UnaryOperator::Not, operand },
                Prefix::Negate => ExprKind::Unary { operator: UnaryOperator::Negate, operand },
                Prefix::Live => ExprKind::Live(operand),
            };
            Expr { span, kind }
        }
        Some(InfixPiece::Infix(_, span)) => Expr { span, kind: ExprKind::Error },
        None => Expr { span: builder.span_at(0, 0), kind: ExprKind::Error },
    };
    while let Some(&InfixPiece::Infix(infix, operator_span)) = pieces.peek() {
        let power = infix.power();
        if power < least || power == least && infix != Infix::Binary(BinaryOperator::Power) {
            break;
        }
        pieces.next();
        let right = climb(builder, pieces, power);
        left = join(builder, infix, operator_span, left, right);
    }
    left
}

fn join(builder: &mut AstBuilder, infix: Infix, operator_span: Span, left: Expr, right: Expr) -> Expr {
    let span = left.span.to(right.span);
    if unparenthesised(&left).is_some_and(|before| chains(before, infix)) {
        let diagnostic = match infix {
            Infix::Arrow => {
                Diagnostic::error(Code::Syntax, operator_span, "`->` goes from one value to another, once")
                    .label("a second `->`")
            }
            Infix::Versus => {
                Diagnostic::error(Code::Syntax, operator_span, "`||` stands between two distributions, once")
                    .label("a second `||`")
                    .help("for the logical or, write `or`")
            }
            Infix::Range => {
                Diagnostic::error(Code::Syntax, operator_span, "a range has two ends").label("a second `..=`")
            }
            _ => Diagnostic::error(Code::Syntax, operator_span, "comparisons can't be chained")
                .label("a second comparison")
                .help("write `a < b and b < c`"),
        };
        builder.report(diagnostic);
        return Expr { span, kind: ExprKind::Error };
    }
    let (left, right) = (Box::new(left), Box::new(right));
    let kind = match infix {
        Infix::Then => ExprKind::Then { first: left, second: right },
        Infix::Arrow => ExprKind::Arrow { from: left, to: right },
        Infix::Pipe => ExprKind::Pipe { value: left, through: right },
        Infix::Versus => ExprKind::Versus { left, right },
        Infix::Range => ExprKind::Range { low: left, high: right },
        Infix::Binary(operator) => ExprKind::Binary { operator, operator_span, left, right },
    };
    Expr { span, kind }
}

fn is_comparison(operator: BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(operator, Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual)
}

fn chains(before: Infix, infix: Infix) -> bool {
    match (before, infix) {
        (Infix::Arrow, Infix::Arrow) | (Infix::Versus, Infix::Versus) | (Infix::Range, Infix::Range) => true,
        (Infix::Binary(before), Infix::Binary(after)) => is_comparison(before) && is_comparison(after),
        _ => false,
    }
}

/// The top operator of an expression without parentheses. With parentheses, the span begins before the first
/// operand.
fn unparenthesised(expr: &Expr) -> Option<Infix> {
    let (first, infix) = match &expr.kind {
        ExprKind::Arrow { from, .. } => (from, Infix::Arrow),
        ExprKind::Versus { left, .. } => (left, Infix::Versus),
        ExprKind::Range { low, .. } => (low, Infix::Range),
        ExprKind::Binary { left, operator, .. } => (left, Infix::Binary(*operator)),
        _ => return None,
    };
    (first.span.start == expr.span.start).then_some(infix)
}
