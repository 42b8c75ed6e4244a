//! `match { condition -> value, else -> value }`.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Condition, MatchArm};
use mopd_experiment::formula::{Formula, FormulaKind, Function, Unit};

use crate::check::checker::Checker;
use crate::check::formulas::{arithmetic, functions};
use crate::check::read::{expected, settings};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// `match { condition -> value, else -> value }`: the first condition that holds decides. Without `else`,
/// the conditions must cover the domains of each stage that uses it, see `check_domains`.
pub fn matched(checker: &mut Checker, arms: &[MatchArm], span: Span, env: &Env) -> Value {
    let otherwise = arms.iter().position(|arm| matches!(arm.condition, Condition::Else));
    if let Some(otherwise) = otherwise
        && let Some(late) = arms.get(otherwise + 1)
    {
        checker.report(
            Diagnostic::error(Code::UnreachableArm, late.span, "this arm is never reached")
                .note(arms[otherwise].span, "`else` takes everything before it")
                .help("move `else` to the end"),
        );
        return Value::Error;
    }
    for arm in arms {
        let marks = settings::marks(checker, &arm.marks);
        let setting = match &arm.condition {
            Condition::When(condition) => checker.sources.text(condition.span).to_owned(),
            Condition::Else => "else".to_owned(),
        };
        settings::record_marks(&mut checker.parts, "a `match`", &setting, marks);
    }
    let mut conditions: Vec<Option<Formula>> = Vec::new();
    for arm in arms {
        let Condition::When(condition) = &arm.condition else { continue };
        let value = checker.evaluate(condition, env);
        let formula = expected::formula(checker, value, condition.span);
        if let Some(formula) = &formula
            && formula.unit() != Unit::Bool
        {
            let message = "the condition of an arm must be a bool";
            arithmetic::not_a_bool(checker, Spanned::new(formula, condition.span), message);
            conditions.push(None);
            continue;
        }
        conditions.push(formula);
    }
    let by_domain = conditions.iter().flatten().any(Formula::reads_domain);
    if otherwise.is_none() && !by_domain {
        for arm in arms {
            checker.evaluate(&arm.value, env);
        }
        // A condition that has no value was reported, or is by a domain that is not given yet.
        if conditions.iter().all(Option::is_some) {
            checker.report(
                Diagnostic::error(
                    Code::MissingElse,
                    span,
                    "this `match` has no `else`: it has no value where no arm holds",
                )
                .help("end it with `else -> ...`; `else -> 0` if nothing is trained there"),
            );
        }
        return Value::Error;
    }
    unreachable_arms(checker, arms, &conditions);
    // All conditions are decided before the run, so the branches may be values of any kind.
    let decided: Option<Vec<bool>> =
        conditions.iter().map(|condition| condition.as_ref()?.constant().map(|truth| truth != 0.0)).collect();
    if let (Some(decided), Some(otherwise)) = (decided, otherwise) {
        let chosen = decided.iter().position(|holds| *holds).unwrap_or(otherwise);
        return checker.evaluate(&arms[chosen].value, env);
    }
    let mut values = Vec::new();
    for arm in arms {
        let value = checker.evaluate(&arm.value, env);
        values.push(
            expected::formula(checker, value, arm.value.span)
                .map(|formula| Spanned::new(formula, arm.value.span)),
        );
    }
    let values: Option<Vec<Spanned<Formula>>> = values.into_iter().collect();
    let conditions: Option<Vec<Formula>> = conditions.into_iter().collect();
    let (Some(mut values), Some(conditions)) = (values, conditions) else { return Value::Error };
    let Some(unit) = functions::shared_unit(checker, "match", &values, span) else { return Value::Error };
    let mut covered: Option<Formula> = None;
    for condition in conditions.iter().filter(|_| otherwise.is_none()) {
        covered = match covered {
            None => Some(condition.clone()),
            Some(above) => {
                match arithmetic::apply(
                    checker,
                    Function::Or,
                    vec![above, condition.clone()],
                    Unit::Bool,
                    span,
                ) {
                    Value::Formula(either) => Some(either),
                    _ => return Value::Error,
                }
            }
        };
    }
    // The last arm is `else`, or holds wherever no other does.
    let mut chosen = values.pop().expect("a `match` has arms").value;
    for (condition, Spanned { value, span }) in conditions.into_iter().zip(values).rev() {
        match arithmetic::apply(checker, Function::Where, vec![condition, value, chosen], unit, span) {
            Value::Formula(formula) => chosen = formula,
            _ => return Value::Error,
        }
    }
    Value::Formula(match covered {
        Some(covered) => chosen.covering(covered),
        None => chosen,
    })
}

/// Reports arms whose condition can't hold if none above holds: a repeated condition, or one that implies
/// an earlier one. Conditions that are equal only for the arguments of one use are allowed, such as
/// `dopd` with one model as both teachers.
fn unreachable_arms(reporter: &mut Reporter, arms: &[MatchArm], conditions: &[Option<Formula>]) {
    let of_one_use = reporter.frames.iter().any(|frame| !frame.given.is_empty());
    for (later, condition) in conditions.iter().enumerate() {
        let Some(condition) = condition.as_ref().filter(|condition| condition.constant().is_none()) else {
            continue;
        };
        let above = conditions[..later]
            .iter()
            .position(|above| above.as_ref().is_some_and(|above| implies(condition, above)));
        let (Some(above), Condition::When(place)) = (above, &arms[later].condition) else { continue };
        let Condition::When(first) = &arms[above].condition else { continue };
        let same = reporter.sources.text(place.span) == reporter.sources.text(first.span);
        if of_one_use && !same {
            continue;
        }
        let label =
            if same { "the same condition as above" } else { "where this holds, an arm above holds already" };
        let diagnostic =
            Diagnostic::error(Code::UnreachableArm, place.span, "this arm is never reached").label(label);
        reporter.report(
            diagnostic
                .note(first.span, "matches everything that this arm could match")
                .help("the first arm that holds decides: put the narrower condition first, or remove one"),
        );
    }
}

/// Whether `wide` holds wherever `narrow` does: both are the same condition, or compare the same number and
/// `wide` has the looser bound.
fn implies(narrow: &Formula, wide: &Formula) -> bool {
    if same(narrow, wide) {
        return true;
    }
    let (Some((x, a, low)), Some((y, b, bound))) = (bounded(narrow), bounded(wide)) else { return false };
    if !same(x, y) {
        return false;
    }
    use Function::{Greater, GreaterEqual, Less, LessEqual};
    match (a, b) {
        (Greater, Greater | GreaterEqual) | (GreaterEqual, GreaterEqual) => low >= bound,
        (GreaterEqual, Greater) => low > bound,
        (Less, Less | LessEqual) | (LessEqual, LessEqual) => low <= bound,
        (LessEqual, Less) => low < bound,
        _ => false,
    }
}

/// Whether two formulas are the same, wherever they are written.
fn same(a: &Formula, b: &Formula) -> bool {
    const LONGEST: usize = 400;
    let (a, b) = (
        mopd_experiment::formula::text::formula(a, LONGEST),
        mopd_experiment::formula::text::formula(b, LONGEST),
    );
    a == b && a.chars().count() < LONGEST
}

/// The operand, the comparison and the bound of a condition such as `x >= 0.5`, also written `0.5 <= x`.
fn bounded(condition: &Formula) -> Option<(&Formula, Function, f64)> {
    use Function::{Greater, GreaterEqual, Less, LessEqual};
    let FormulaKind::Apply { function, operands } = &condition.0.kind else { return None };
    let [left, right] = operands.as_slice() else { return None };
    let turned = match function {
        Greater => Less,
        GreaterEqual => LessEqual,
        Less => Greater,
        LessEqual => GreaterEqual,
        _ => return None,
    };
    match (left.constant(), right.constant()) {
        (None, Some(bound)) => Some((left, *function, bound)),
        (Some(bound), None) => Some((right, turned, bound)),
        _ => None,
    }
}
