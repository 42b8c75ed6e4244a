//! Teachers made of several: linear combinations of logits, and pools of distributions.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, WhereBinding};
use mopd_experiment::formula::{Axis, NamedFormula, Role, Unit, WeightedRole};
use mopd_experiment::{Capability, TeacherWeights};

use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::formulas::arithmetic;
use crate::check::read::expected;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The largest factor. Products with logits stay finite in single precision, which ends at about 1e38.
const MOST_FACTOR: f64 = 1e30;

/// `logits(a) + w * (logits(a) - logits(b)) where w = 15 * tv(a, b)`
pub fn composed(
    checker: &mut Checker,
    value: &Expr,
    bindings: &[WhereBinding],
    env: &Env,
) -> Option<TeacherWeights> {
    let mut inner = env.with_context(EvaluationContext::Objective);
    let mut known: Vec<NamedFormula> = Vec::new();
    let mut good = true;
    for WhereBinding { name, value: expr } in bindings {
        if known.iter().any(|other| other.name == name.text) {
            checker.report(Diagnostic::error(
                Code::DuplicateName,
                name.span,
                format!("`{}` is set twice", name.text),
            ));
            good = false;
            continue;
        }
        let value = checker.evaluate(expr, &inner);
        checker.record(name.span, &value);
        inner.bind(&name.text, value.clone());
        match expected::formula(checker, value, expr.span) {
            Some(formula) => known.push(NamedFormula { name: name.text.clone(), formula }),
            None => good = false,
        }
    }
    let parts = match checker.evaluate(value, &inner) {
        Value::Logits(parts) => parts,
        other => {
            let wanted = "`where` after a value belongs to a teacher composed of logits";
            expected::wrong_kind(checker, value.span, wanted, &other);
            return None;
        }
    };
    if !good {
        return None;
    }
    composed_of(checker, parts, known, value.span)
}

pub fn composed_of(
    declarations: &mut Declarations,
    logits: Vec<WeightedRole>,
    bindings: Vec<NamedFormula>,
    span: Span,
) -> Option<TeacherWeights> {
    for WeightedRole { weight: factor, role } in &logits {
        if factor.unit() == Unit::Bool || factor.axis() > Axis::Token {
            arithmetic::unit_mismatch(
                declarations,
                Spanned::new(factor, span),
                "logits are added up with numbers as factors",
                None,
            );
            return None;
        }
        if let Some(number) = factor.constant().filter(|number| number.abs() > MOST_FACTOR) {
            let text = format!("a factor of logits must be at most {MOST_FACTOR:e}");
            declarations.report(
                Diagnostic::error(Code::OutOfRange, span, text)
                    .label(format!("one of them is {number:e}"))
                    .help("logits times it would be infinite in single precision"),
            );
            return None;
        }
        if let Some(short) = short_of_distribution(&declarations.parts, role) {
            let text = format!("`{}` answers {short}: it has no logits to add up", role.name());
            let mut diagnostic = Diagnostic::error(Code::TeacherCapability, span, text)
                .help("logits are composed over the whole vocabulary: use a teacher that answers `dist`");
            if let Role::Named { teacher, .. } = role {
                diagnostic = diagnostic
                    .note(declarations.span(declarations.parts.teacher(*teacher).origin), "declared here");
            }
            declarations.report(diagnostic);
            return None;
        }
    }
    Some(TeacherWeights::Composed { logits, bindings })
}

fn short_of_distribution(parts: &ExperimentParts, role: &Role) -> Option<Capability> {
    let Role::Named { teacher, .. } = role else { return None };
    Some(parts.teacher(*teacher).answers).filter(|answers| *answers < Capability::Distribution)
}
