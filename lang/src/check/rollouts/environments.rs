//! The environment of `turns`: a command in quotes, or a class of Python.

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::Expr;
use mopd_experiment::{EnvironmentProgram, Reward};

use crate::check::checker::Checker;
use crate::check::read::{expected, reads};
use crate::check::rollouts;
use crate::check::rollouts::reward_calls::function_of;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Environment => |checker, given, env| environment(checker, given.expr, env);
}

/// `"python3 env.py"` or `python("shop.py:Shop")`
fn environment(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<EnvironmentProgram> {
    match checker.evaluate(expr, env) {
        Value::Text(text) if function_of(&text).is_some() => {
            let text = "an environment that is a class of Python is named by `python(...)`";
            let diagnostic =
                Diagnostic::error(Code::TypeMismatch, expr.span, text).label("this is a command");
            let named = format!("python({})", checker.sources.text(expr.span));
            checker.report(diagnostic.replace_with(format!("write `{named}`"), named));
            None
        }
        Value::Text(command) => {
            rollouts::not_empty(checker, command, expr.span).map(EnvironmentProgram::Command)
        }
        Value::Reward(reward) => class(checker, reward, expr),
        other => {
            let wanted = "an environment is `python(\"shop.py:Shop\")`, or a command in quotes: \
                          `\"python3 env.py\"`";
            expected::wrong_kind(checker, expr.span, wanted, &other);
            None
        }
    }
}

/// The class that `python(...)` names. Its settings are those of a reward.
fn class(checker: &mut Checker, reward: Reward, expr: &Expr) -> Option<EnvironmentProgram> {
    let plain = |file: &str, function: &str| Reward::Python {
        file: file.to_owned(),
        function: function.to_owned(),
        time_limit_seconds: 30.0,
        batch: 256,
        depends: Vec::new(),
        range: Default::default(),
    };
    match &reward {
        Reward::Python { file, function, .. } if reward == plain(file, function) => {
            Some(EnvironmentProgram::Python { file: file.clone(), class: function.clone() })
        }
        Reward::Python { .. } => {
            let text = "in an environment, `python` takes the class alone";
            checker.report(Diagnostic::error(Code::UnknownArgument, expr.span, text).help(
                "`time_limit` and `depends` are arguments of `turns`: `turns(python(\"shop.py:Shop\"), \
                 at_most: 30, sample(...), time_limit: 10)`",
            ));
            None
        }
        _ => {
            let text = "a reward does not reply to a student";
            checker.report(
                Diagnostic::error(Code::TypeMismatch, expr.span, text)
                    .help("an environment is `python(\"shop.py:Shop\")`, or a command in quotes"),
            );
            None
        }
    }
}
