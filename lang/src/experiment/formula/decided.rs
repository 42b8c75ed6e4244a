//! Simplifies conditions that are partly known: for the prompts of another domain,
//! `domain == sort and data.level > 3` reads no data.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::{Formula, FormulaKind, FormulaNode, Function};

impl Formula {
    /// The condition without the parts that are known before the run: `1 and x` becomes `x`, `0 and x`
    /// becomes `0`. The insides of comparisons and calls stay as they are.
    pub fn decided(&self) -> Formula {
        // Not recursive, since formulas may be deep; shared parts are visited once.
        let mut known: FxHashMap<*const FormulaNode, Formula> = FxHashMap::default();
        let mut pending = vec![self.clone()];
        while let Some(formula) = pending.last().cloned() {
            let truths = truths(&formula);
            let before = pending.len();
            pending.extend(
                truths
                    .iter()
                    .filter(|part| !known.contains_key(&Rc::as_ptr(&part.0)))
                    .map(|part| (*part).clone()),
            );
            if pending.len() > before {
                continue;
            }
            let parts: Vec<&Formula> = truths.iter().map(|part| &known[&Rc::as_ptr(&part.0)]).collect();
            let decided = simplified(&formula, &parts);
            known.insert(Rc::as_ptr(&formula.0), decided);
            pending.pop();
        }
        known.remove(&Rc::as_ptr(&self.0)).unwrap_or_else(|| self.clone())
    }
}

/// The operands of a logical operator.
fn truths(formula: &Formula) -> &[Formula] {
    match &formula.0.kind {
        FormulaKind::Apply { function: Function::And | Function::Or | Function::Not, operands } => operands,
        _ => &[],
    }
}

fn simplified(formula: &Formula, parts: &[&Formula]) -> Formula {
    let FormulaKind::Apply { function, operands } = &formula.0.kind else { return formula.clone() };
    let truth = |formula: &Formula| formula.constant().map(|value| value != 0.0);
    let of = |kind| Formula::new(kind, formula.unit(), formula.axis(), formula.live(), formula.0.origin);
    let number = |truth: bool| of(FormulaKind::Number(f64::from(u8::from(truth))));
    match (function, parts) {
        (Function::Not, [part]) if let Some(value) = truth(part) => number(!value),
        (Function::And | Function::Or, [left, right]) => {
            // The operand that decides the result alone: false for `and`, true for `or`.
            let decides = *function == Function::Or;
            match (truth(left), truth(right)) {
                (Some(value), _) | (_, Some(value)) if value == decides => number(decides),
                (Some(_), _) => (*right).clone(),
                (_, Some(_)) => (*left).clone(),
                (None, None) => with(formula, operands, parts),
            }
        }
        (Function::Not, parts) => with(formula, operands, parts),
        _ => formula.clone(),
    }
}

/// The same function of other operands, or the formula itself if they are its own.
fn with(formula: &Formula, operands: &[Formula], parts: &[&Formula]) -> Formula {
    if operands.iter().zip(parts).all(|(one, other)| Rc::ptr_eq(&one.0, &other.0)) {
        return formula.clone();
    }
    let FormulaKind::Apply { function, .. } = &formula.0.kind else { return formula.clone() };
    let kind = FormulaKind::Apply {
        function: *function,
        operands: parts.iter().map(|part| (*part).clone()).collect(),
    };
    Formula::new(kind, formula.unit(), formula.axis(), formula.live(), formula.0.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Origin;
    use crate::experiment::formula::{Axis, Signal, Unit, text};

    fn truth(kind: FormulaKind) -> Formula {
        Formula::new(kind, Unit::Bool, Axis::Sequence, false, Origin(0))
    }

    fn apply(function: Function, operands: &[&Formula]) -> Formula {
        truth(FormulaKind::Apply {
            function,
            operands: operands.iter().map(|operand| (*operand).clone()).collect(),
        })
    }

    #[test]
    fn known_conditions_are_simplified_away() {
        let [yes, no] = [1.0, 0.0].map(|value| truth(FormulaKind::Number(value)));
        let open = truth(FormulaKind::Signal(Signal::DataIs { field: "kind".into(), text: "proof".into() }));
        let both = apply(Function::And, &[&open, &yes]);
        let either = apply(Function::Or, &[&no, &both]);
        let nested = apply(Function::Not, &[&apply(Function::Or, &[&either, &open])]);
        for (formula, expected) in [
            (&open, "data.kind == \"proof\""),
            (&both, "data.kind == \"proof\""),
            (&either, "data.kind == \"proof\""),
            (&apply(Function::And, &[&no, &open]), "false"),
            (&apply(Function::Or, &[&open, &yes]), "true"),
            (&apply(Function::And, &[&apply(Function::Not, &[&no]), &yes]), "true"),
            (&nested, "not (data.kind == \"proof\" or data.kind == \"proof\")"),
        ] {
            assert_eq!(text::formula(&formula.decided(), 100), expected);
        }
    }

    /// Shared parts are simplified once, and a long chain needs no deep stack.
    #[test]
    fn a_long_chain_is_decided() {
        let yes = truth(FormulaKind::Number(1.0));
        let mut chain =
            truth(FormulaKind::Signal(Signal::DataIs { field: "kind".into(), text: "proof".into() }));
        let expected = text::formula(&chain, 100);
        for _ in 0..20_000 {
            chain = apply(Function::And, &[&yes, &chain]);
        }
        assert_eq!(text::formula(&chain.decided(), 100), expected);
    }
}
