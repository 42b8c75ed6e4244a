//! Blends: weighted sums of distributions, as sides of divergences.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Expr, ExprKind};
use mopd_experiment::formula::{Distribution, Formula, Unit, WeightedRole};

use crate::check::checker::Checker;
use crate::check::formulas::ranges::{possible_values, readable};
use crate::check::formulas::{arithmetic, divergences};
use crate::check::read::expected;
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// `blend(teacher: 0.1, student: 0.9)`
pub fn blend(checker: &mut Checker, arguments: &[Argument], span: Span, env: &Env) -> Value {
    if divergences::outside_objective(checker, span, env) {
        return Value::Error;
    }
    let mut parts: Vec<WeightedRole> = Vec::new();
    for argument in arguments {
        let Some(name) = &argument.name else {
            checker.report(
                Diagnostic::error(
                    Code::MissingArgument,
                    argument.value.span,
                    "the role of this share is missing",
                )
                .help("write the role before it: `blend(teacher: 0.1, student: 0.9)`"),
            );
            return Value::Error;
        };
        let role = Expr { span: name.span, kind: ExprKind::Name(name.text.clone()) };
        let role = checker.evaluate(&role, env);
        let role = roles::role_of(
            checker,
            role,
            name.span,
            "a blend is made of roles, such as `teacher` and `student`",
        );
        let value = checker.evaluate(&argument.value, env);
        let share = expected::formula(checker, value, argument.value.span);
        let (Some(role), Some(share)) = (role, share) else { return Value::Error };
        if share.unit() == Unit::Bool {
            let help = "use `where(condition, then, else)`";
            let share = Spanned::new(&share, argument.value.span);
            arithmetic::unit_mismatch(checker, share, "a share is a number", Some(help));
            return Value::Error;
        }
        if parts.iter().any(|part| part.role == role) {
            let text = format!("`{}` is in this blend twice", role.name());
            checker.report(
                Diagnostic::error(Code::DuplicateKey, name.span, text).help("give it one share: their sum"),
            );
            return Value::Error;
        }
        if share.live() {
            let text = "the shares of a blend are numbers already computed: nothing in them is `live`";
            checker.report(Diagnostic::error(Code::NotDifferentiable, argument.value.span, text));
            return Value::Error;
        }
        parts.push(WeightedRole { weight: share, role });
    }
    if parts.len() < 2 {
        let diagnostic = Diagnostic::error(Code::MissingArgument, span, "a blend needs at least two roles");
        checker.report(diagnostic.help("for example `blend(teacher: 0.1, student: 0.9)`"));
        return Value::Error;
    }
    let shares: Vec<Spanned<&Formula>> = parts
        .iter()
        .zip(arguments)
        .map(|(part, argument)| Spanned::new(&part.weight, argument.value.span))
        .collect();
    if !may_be_shares(checker, &shares, span) {
        return Value::Error;
    }
    Value::Distribution(Distribution::Blend(parts))
}

/// Whether numbers may be the shares of a blend: each from 0 to 1, with sum 1. Shares that change from
/// token to token are checked here by their bounds only, and fully in the run.
fn may_be_shares(reporter: &mut Reporter, shares: &[Spanned<&Formula>], span: Span) -> bool {
    const HELP: &str = "a blend of distributions is a distribution: its shares add up to 1";
    // The rounding error of a sum of binary fractions.
    const ROUNDING: f64 = 1e-9;
    let (mut least, mut most) = (0.0, 0.0);
    for Spanned { value: share, span: place } in shares {
        let (low, high) = possible_values(share);
        if high < -ROUNDING || low > 1.0 + ROUNDING {
            let text = "a share of a blend must lie between 0 and 1";
            let is = match share.constant() {
                Some(number) => format!("this is {}", readable(number)),
                None if low > 1.0 => format!("this is never below {}", readable(low)),
                None => format!("this is never above {}", readable(high)),
            };
            reporter.report(Diagnostic::error(Code::OutOfRange, *place, text).label(is).help(HELP));
            return false;
        }
        least += low.max(0.0);
        most += high.min(1.0);
    }
    if (least..=most).contains(&1.0) || (least - 1.0).abs() <= ROUNDING || (most - 1.0).abs() <= ROUNDING {
        return true;
    }
    let total: Option<f64> = shares.iter().map(|share| share.value.constant()).sum();
    let diagnostic = match total {
        Some(total) => {
            let text = format!("the shares of this blend add up to {}, not 1", readable(total));
            Diagnostic::error(Code::ShareSum, span, text)
        }
        None => {
            let text = "the shares of this blend never add up to 1";
            Diagnostic::error(Code::ShareSum, span, text).label(match least > 1.0 {
                true => format!("together at least {}", readable(least)),
                false => format!("together at most {}", readable(most)),
            })
        }
    };
    reporter.report(diagnostic.help(HELP));
    false
}
