//! Rewards, which judge completions. Each kind is declared with its arguments in
//! [`crate::check::builtins::rewards`].

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::Reward;

use crate::check::builtins;
use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::Call;
use crate::check::checker::Checker;
use crate::check::read::{arguments, expected, reads, secrets};
use crate::check::rollouts::reward_calls::{self, function_of};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Secret => |checker, given, env| secrets::secret(checker, given.expr, given.name, env);
    Reward => |checker, given, env| reward(checker, given.expr, env);
}

/// `exact_match`, `numeric(tolerance: 0.01)`, `command("python3 verify.py")`, or a `reward` declared
/// above.
pub fn reward(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Reward> {
    if let ExprKind::Binary { .. } = &expr.kind {
        let text = "a reward is put together by `parts`, not by arithmetic";
        let usage = builtins::find("parts").expect("built in").usage;
        checker.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(usage));
        return None;
    }
    match checker.evaluate(expr, env) {
        Value::Reward(reward) => Some(reward),
        // A bare name stands for a call without arguments.
        Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Reward(_)) => {
            let BuiltinKind::Reward(name) = builtin.kind else { return None };
            let call = Call { builtin, arguments: &[], block: None, span: expr.span };
            let given = arguments::builtin_arguments(checker, call)?;
            reward_calls::reward_call(checker, name.call(call, &given)?, env)
        }
        Value::Text(text) if function_of(&text).is_some() => {
            let said = "a reward that is a function of Python is named by `python(...)`";
            let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, said);
            let named = format!("python({})", checker.sources.text(expr.span));
            checker.report(diagnostic.label("this is text").replace_with(format!("write `{named}`"), named));
            None
        }
        Value::List(_) => {
            let text = "a domain has one reward, and this is a list";
            checker.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(
                "several rewards are parts of one: `parts(right: numeric, form: regex(\"...\"), weights: [0.8, 0.2])`",
            ));
            None
        }
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "a reward is `exact_match`, `numeric(...)`, `regex(...)`, `command(...)` or the like",
                &other,
            );
            None
        }
    }
}
