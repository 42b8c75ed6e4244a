//! Secrets: texts, or the names of environment variables that hold them.

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::Expr;
use mopd_experiment::Secret;

use crate::check::builtins::teachers::Environment;
use crate::check::checker::Checker;
use crate::check::read::expected;
use crate::check::read::read;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// A text, or an environment variable.
pub fn secret(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<Secret> {
    match checker.evaluate(expr, env) {
        Value::Secret(secret) => Some(secret),
        Value::Text(text) => Some(Secret::Text(text)),
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                &format!("`{key}` is a text in quotes or `env(\"NAME\")`"),
                &other,
            );
            None
        }
    }
}

/// `env("TEACHER_URL")`
pub fn env_call(checker: &mut Checker, given: Environment, env: &Env) -> Option<Value> {
    let name = read(checker, given.name, env)?;
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(sound) {
        checker.report(
            Diagnostic::error(
                Code::OutOfRange,
                given.call.span,
                format!("`{name}` can't be the name of an environment variable"),
            )
            .help("letters, digits and `_`, such as `env(\"TEACHER_URL\")`"),
        );
        return None;
    }
    Some(Value::Secret(Secret::Environment(name)))
}
