//! Rewards, which judge completions. Each kind is declared with its arguments and read in
//! [`crate::check::builtins::rewards`].

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{Reward, Secret};

use crate::check::Checker;
use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::Call;
use crate::check::builtins::rewards::function_of;
use crate::check::builtins::teachers::Environment;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    /// `exact_match`, `numeric(tolerance: 0.01)`, `command("python3 verify.py")`, or a `reward` declared
    /// above.
    pub(in crate::check) fn reward(&mut self, expr: &Expr, env: &Env) -> Option<Reward> {
        if let ExprKind::Binary { .. } = &expr.kind {
            let text = "a reward is put together by `parts`, not by arithmetic";
            let usage = crate::check::builtins::find("parts").expect("built in").usage;
            self.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(usage));
            return None;
        }
        match self.evaluate(expr, env) {
            Value::Reward(reward) => Some(reward),
            // A bare name stands for a call without arguments.
            Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Reward(_)) => {
                let BuiltinKind::Reward(name) = builtin.kind else { return None };
                let call = Call { builtin, arguments: &[], block: None, span: expr.span };
                let given = self.builtin_arguments(call)?;
                self.reward_call(name.call(call, &given)?, env)
            }
            Value::Text(text) if function_of(&text).is_some() => {
                let said = "a reward that is a function of Python is named by `python(...)`";
                let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, said);
                let named = format!("python({})", self.sources.text(expr.span));
                self.report(diagnostic.label("this is text").replace_with(format!("write `{named}`"), named));
                None
            }
            other => {
                self.wrong_kind(
                    expr.span,
                    "a reward is `exact_match`, `numeric(...)`, `regex(...)`, `command(...)` or the like",
                    &other,
                );
                None
            }
        }
    }

    /// One number for each of `count` things, or the word `equal`.
    pub(in crate::check) fn weights(
        &mut self,
        expr: &Expr,
        count: usize,
        of: &str,
        env: &Env,
    ) -> Option<Vec<f64>> {
        if let ExprKind::Name(name) = &expr.kind
            && name == "equal"
            && env.local(name).is_none()
        {
            return Some(vec![1.0 / count as f64; count]);
        }
        let weights = self.numbers(expr, env)?;
        if weights.len() != count {
            let text = format!("there are {count} {of} and {} weights", weights.len());
            self.report(
                Diagnostic::error(Code::OutOfRange, expr.span, text).help("write one for each, or `equal`"),
            );
            return None;
        }
        Some(weights)
    }

    /// A text, or an environment variable.
    pub(in crate::check) fn secret(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<Secret> {
        match self.evaluate(expr, env) {
            Value::Secret(secret) => Some(secret),
            Value::Text(text) => Some(Secret::Text(text)),
            other => {
                self.wrong_kind(
                    expr.span,
                    &format!("`{key}` is a text in quotes or `env(\"NAME\")`"),
                    &other,
                );
                None
            }
        }
    }

    /// `env("TEACHER_URL")`
    pub(in crate::check) fn env_call(&mut self, given: Environment, env: &Env) -> Option<Value> {
        let name = self.read(given.name, env)?;
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(sound) {
            self.report(
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
}
