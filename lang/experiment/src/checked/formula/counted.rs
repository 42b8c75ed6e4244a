//! What numbers count: the word after a literal, `150 steps`, what arithmetic makes of it, and whether a
//! number can count at all.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{Adaptive, Formula, FormulaKind, FormulaNode, Function, PlainSignal, Signal, Unit};
use crate::checked::Origin;

/// The word after a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountWord {
    /// `steps` or `tokens`
    pub word: &'static str,
    /// The literal that has the word.
    pub origin: Origin,
}

impl CountWord {
    /// The word of a literal: `step`, `steps`.
    pub fn of_literal(suffix: &str, origin: Origin) -> Option<CountWord> {
        let singular = suffix.trim_end_matches('s');
        let word = ["steps", "tokens"].into_iter().find(|word| word.trim_end_matches('s') == singular)?;
        Some(CountWord { word, origin })
    }

    /// What the result of a function counts.
    ///
    /// # Errors
    /// If two operands must count the same and do not: steps and tokens have no sum.
    pub fn of_result(function: Function, operands: &[Formula]) -> Result<Option<CountWord>, [CountWord; 2]> {
        use Function::*;
        let words: Vec<Option<CountWord>> = operands.iter().map(|operand| operand.0.counted).collect();
        match (function, words.as_slice()) {
            (Multiply, [left, right]) if left.is_some() && right.is_some() => Ok(None),
            (Multiply, [left, right]) => Ok(left.or(*right)),
            // How often one number of tokens fits into another is no number of tokens.
            (Divide, [above, below]) => Ok(above.filter(|_| below.is_none())),
            (Negate | Abs | Floor, [x]) => Ok(*x),
            (Add | Subtract | Minimum | Maximum | Clip | Where, _) => one_of(&words),
            (Less | LessEqual | Greater | GreaterEqual | Equal | NotEqual, _) => one_of(&words).map(|_| None),
            _ => Ok(None),
        }
    }
}

/// The only word among these.
fn one_of(words: &[Option<CountWord>]) -> Result<Option<CountWord>, [CountWord; 2]> {
    let mut words = words.iter().flatten();
    let Some(first) = words.next() else { return Ok(None) };
    match words.find(|other| other.word != first.word) {
        Some(other) => Err([*first, *other]),
        None => Ok(Some(*first)),
    }
}

/// Whether every value of a number is certainly whole. A line from 0 to 3 is not: it passes 1.5.
pub fn is_whole(formula: &Formula) -> bool {
    is_whole_once(formula, &mut FxHashMap::default())
}

/// [`is_whole`] with a cache, so that shared parts are visited once.
fn is_whole_once(formula: &Formula, known: &mut FxHashMap<*const FormulaNode, bool>) -> bool {
    let address = Rc::as_ptr(&formula.0);
    if let Some(known) = known.get(&address) {
        return *known;
    }
    let mut whole = |formula: &Formula| is_whole_once(formula, known);
    let found = match &formula.0.kind {
        FormulaKind::Number(value) => value.fract() == 0.0,
        FormulaKind::Schedule(schedule) => schedule.is_whole(),
        FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => {
            values.iter().all(|value| value.fract() == 0.0)
        }
        FormulaKind::Signal(Signal::Plain(PlainSignal::Step)) => true,
        FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
            (Function::Floor, _) => true,
            (Function::Where, [_, then, otherwise]) => whole(then) && whole(otherwise),
            (
                Function::Negate
                | Function::Abs
                | Function::Add
                | Function::Subtract
                | Function::Multiply
                | Function::Minimum
                | Function::Maximum
                | Function::Clip,
                operands,
            ) => operands.iter().all(whole),
            _ => formula.unit() == Unit::Bool,
        },
        _ => matches!(formula.unit(), Unit::Count | Unit::Bool),
    };
    known.insert(address, found);
    found
}
