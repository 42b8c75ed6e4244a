//! Several teachers as one: mixtures, products and sums of their distributions.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::Expr;
use mopd_experiment::formula::{Role, WeightedRole};
use mopd_experiment::{Pool, TeacherWeights};

use crate::check::checker::Checker;
use crate::check::declarations::plain_teachers;
use crate::check::read::{expected, numbers};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// `mixture([a, b], weights: [0.7, 0.3])`
pub fn pooled(
    checker: &mut Checker,
    pool: Pool,
    place: &Expr,
    weights: Option<&Expr>,
    span: Span,
    env: &Env,
) -> Value {
    let values = match checker.evaluate(place, env).elements() {
        Ok(values) => values,
        Err(Value::Panel(panel)) => {
            checker.parts.panels[panel.0 as usize].members.iter().map(|id| Value::Teacher(*id)).collect()
        }
        Err(other) => {
            return expected::wrong_kind(
                checker,
                place.span,
                "expected several teachers: a list or a family",
                &other,
            );
        }
    };
    let roles: Vec<Option<Role>> = values
        .into_iter()
        .map(|value| roles::teacher_role(checker, value, place.span, env, "every element must be a teacher"))
        .collect();
    let double = roles.iter().enumerate().find_map(|(at, role)| {
        let role = role.as_ref()?;
        roles[..at].iter().flatten().any(|known| known == role).then(|| role.name().to_owned())
    });
    if let Some(name) = double {
        let text = format!("`{name}` is in this `{}` twice", pool.name());
        checker.report(
            Diagnostic::error(Code::DuplicateName, place.span, text)
                .help("name each teacher once, and give it the sum of its weights"),
        );
        return Value::Error;
    }
    let Some(weights) = weights else {
        let text = format!("`{}` needs `weights`", pool.name());
        checker.report(
            Diagnostic::error(Code::MissingArgument, span, text)
                .label("not given here")
                .help("say how much each teacher counts: `weights: [0.7, 0.3]`, or `weights: equal`"),
        );
        return Value::Error;
    };
    let parsed = numbers::weights(checker, weights, roles.len(), "teachers", env);
    let (Some(roles), Some(parsed)) = (roles.into_iter().collect::<Option<Vec<Role>>>(), parsed) else {
        return Value::Error;
    };
    if roles.len() < 2 {
        let text = format!("`{}` combines several teachers", pool.name());
        checker.report(
            Diagnostic::error(Code::OutOfRange, place.span, text).label(format!("{} in here", roles.len())),
        );
        return Value::Error;
    }
    if !check_pool_weights(checker, pool, weights, &parsed) {
        return Value::Error;
    }
    let names: Vec<&str> = roles.iter().map(Role::name).collect();
    let name = format!("{}({})", pool.name(), names.join(", "));
    let members = parsed.into_iter().zip(roles).map(|(weight, role)| WeightedRole { weight, role }).collect();
    let weights = TeacherWeights::Pooled { pool, members };
    let teacher = plain_teachers::plain_teacher(checker, &name, weights, span);
    plain_teachers::declare_once(&mut checker.parts, teacher)
}

/// Reports weights of a pool that are negative, all 0, or shares that don't add up to 1.
pub fn check_pool_weights(reporter: &mut Reporter, pool: Pool, weights: &Expr, parsed: &[f64]) -> bool {
    let total: f64 = parsed.iter().sum();
    let shares = matches!(pool, Pool::Mixture | Pool::Geometric);
    if let Some(negative) = parsed.iter().find(|weight| **weight < 0.0) {
        let text = format!("a weight of `{}` is not negative", pool.name());
        reporter.report(
            Diagnostic::error(Code::OutOfRange, weights.span, text)
                .label(format!("{negative} is in here"))
                .help("to push away from a teacher, compose logits: `logits(a) + 0.5 * (logits(a) - logits(b))`"),
        );
        return false;
    }
    if total <= 0.0 || (shares && (total - 1.0).abs() > 1e-6) {
        let text = format!(
            "the weights of `{}` {}",
            pool.name(),
            if shares { "are shares: they add up to 1" } else { "are all 0: no teacher counts" }
        );
        let together = numbers::rounded(total);
        reporter.report(
            Diagnostic::error(Code::OutOfRange, weights.span, text).label(format!("together {together}")),
        );
        return false;
    }
    true
}
