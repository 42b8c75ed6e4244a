//! Rollouts, the sources of the tokens that an objective scores, and their edits.
//! Each kind is declared with its arguments in [`crate::check::builtins::rollouts`].

pub mod calls;
pub mod environments;
pub mod reward_calls;
pub mod rewards;

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Axis, Formula, Role, Unit};
use mopd_experiment::{self as experiment, Edit, Rollout, RolloutSource, Sampling};

use crate::check::builtins::BuiltinKind;
use crate::check::builtins::edits::{EditCall, ExpertTurns};
use crate::check::checker::Checker;
use crate::check::data::per_prompt;
use crate::check::formulas::{arithmetic, schedules};
use crate::check::names::callable::Callable;
use crate::check::read::numbers::{self, has_variables};
use crate::check::read::{expected, read, reads};
use crate::check::roles;
use crate::check::teachers::templates;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    Share => |checker, given, env| schedules::share(checker, given.expr, &format!("`{}`", given.name), env);
    Whole => |checker, given, env| tokens_or_turns(checker, given.expr, given.name, env);
    Program => |checker, given, env| program(checker, given.expr, given.name, env);
    Stop => |checker, given, env| stop_texts(checker, Some(given.expr), env);
    Dependencies => |checker, given, env| {
        const WANTED: &str = "`depends` is a file or folder that the program reads, or a list of them: \
                              `[\"rules.json\", \"lib\"]`";
        texts(checker, Some(given.expr), WANTED, "an empty text names no file", env)
    };
    EndTokens => |checker, given, env| {
        const WANTED: &str = "`end_tokens` is the text of a token, or a list of them: `[\"<|im_end|>\"]`";
        texts(checker, Some(given.expr), WANTED, "an empty text is no token", env)
    };
    Author => |checker, given, env| speaker(checker, given.expr, env);
    Rollout => |checker, given, env| rollout_value(checker, given.expr, env);
    Drawn => |checker, given, env| drawn(checker, given.expr, given.owner, env);
}

/// The sampling arguments that `sample`, `from` and `grpo` share; the numbers are `None` where faulty.
pub struct SamplingArguments<'e> {
    pub n: Option<u32>,
    pub temperature: Option<Formula>,
    pub max_tokens: Option<Formula>,
    pub top_p: Option<&'e Expr>,
    pub top_k: Option<&'e Expr>,
    pub stop: Option<&'e Expr>,
}

/// A rollout, as a call or a name.
pub fn rollout_value(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Rc<Rollout>> {
    match checker.evaluate(expr, env) {
        Value::Rollout(rollout) => Some(rollout),
        // A bare name: every parameter takes its default.
        Value::Item { item, kind: Callable::Rollout } => match checker.call_item(item, expr.span, &[], env) {
            Value::Rollout(rollout) => Some(rollout),
            _ => None,
        },
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "a rollout is `sample(n: 1, temperature: 1.0, max_tokens: 24)`",
                &other,
            );
            None
        }
    }
}

/// The inner rollout of one that needs sampled completions. Reports one whose completions are only read.
pub fn drawn(checker: &mut Checker, expr: &Expr, by: &str, env: &Env) -> Option<Rc<Rollout>> {
    let rollout = rollout_value(checker, expr, env)?;
    if rollout.sampling().is_none() {
        checker.report(
            Diagnostic::error(
                Code::TypeMismatch,
                expr.span,
                format!("`{by}` works on completions that are drawn"),
            )
            .label("these are read from the data")
            .help("write `sample(n: 1, temperature: 1.0, max_tokens: 24)` here"),
        );
        return None;
    }
    Some(rollout)
}

/// `stop: ["\n\n", "Question:"]`: the texts that end a completion.
pub fn stop_texts(checker: &mut Checker, expr: Option<&Expr>, env: &Env) -> Option<Vec<String>> {
    const WANTED: &str = "`stop` is a text that ends a completion, or a list of them: `[\"\\n\\n\"]`";
    texts(checker, expr, WANTED, "an empty text ends every completion before it begins", env)
}

/// A list of texts without empty ones or duplicates, also from a single text. `wanted` describes the
/// texts, `empty` says why none may be empty.
pub fn texts(
    checker: &mut Checker,
    expr: Option<&Expr>,
    wanted: &str,
    empty: &str,
    env: &Env,
) -> Option<Vec<String>> {
    let Some(expr) = expr else { return Some(Vec::new()) };
    let values = match checker.evaluate(expr, env) {
        Value::List(values) => values,
        text @ (Value::Text(_) | Value::Error) => vec![text],
        other => {
            expected::wrong_kind(checker, expr.span, wanted, &other);
            return None;
        }
    };
    let mut texts: Vec<String> = Vec::new();
    for value in values {
        match value {
            Value::Text(text) if text.is_empty() => {
                checker.report(Diagnostic::error(Code::OutOfRange, expr.span, empty));
                return None;
            }
            Value::Text(text) if texts.contains(&text) => {
                checker.report(Diagnostic::error(
                    Code::DuplicateKey,
                    expr.span,
                    format!("{text:?} is listed twice"),
                ));
                return None;
            }
            Value::Text(text) => texts.push(text),
            other => {
                expected::wrong_kind(checker, expr.span, wanted, &other);
                return None;
            }
        }
    }
    Some(texts)
}

pub fn truncation(
    checker: &mut Checker,
    top_p: Option<&Expr>,
    top_k: Option<&Expr>,
    env: &Env,
) -> Option<(Option<f64>, Option<u32>)> {
    let top_p = match top_p {
        Some(expr) => {
            let value = checker.evaluate(expr, env);
            let p = numbers::fraction(checker, &value, expr.span, "`top_p`")?;
            if p == 0.0 {
                let text = "with `top_p` = 0 no token could be drawn";
                checker.report(
                    Diagnostic::error(Code::OutOfRange, expr.span, text)
                        .help("write a share above 0, such as `0.95`"),
                );
                return None;
            }
            Some(p)
        }
        None => None,
    };
    let top_k = match top_k {
        Some(expr) => Some(numbers::count(checker, expr, "top_k", env, 1)?),
        None => None,
    };
    Some((top_p, top_k))
}

pub fn sampling(checker: &mut Checker, given: SamplingArguments, env: &Env) -> Option<Sampling> {
    let truncation = truncation(checker, given.top_p, given.top_k, env);
    let stop = stop_texts(checker, given.stop, env);
    let (top_p, top_k) = truncation?;
    let sampling = Sampling::new(given.n?, given.temperature?, given.max_tokens?);
    Some(Sampling { top_p, top_k, stop: stop?, ..sampling })
}

/// The role that writes completions: the routed `teacher`, a declared teacher, or a model.
pub fn speaker(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Role> {
    let routed = matches!(&expr.kind, ExprKind::Name(name) if name == "teacher");
    // Outside an objective `teacher` does not name the routed teacher.
    let value = if routed {
        checker.evaluate(expr, &env.with_context(EvaluationContext::Objective))
    } else {
        checker.evaluate(expr, env)
    };
    roles::teacher_role(checker, value, expr.span, env, "a rollout is written by a teacher or a model")
}

/// A whole number, at least 1, that may change during training.
pub fn tokens_or_turns(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<Formula> {
    let formula = schedules::schedule_setting(checker, expr, env)?;
    if formula.constant().is_some() {
        numbers::whole(checker, &Value::Formula(formula.clone()), expr.span, &format!("`{key}`"), 1)?;
    }
    Some(formula)
}

/// The command line of a program that the run starts.
pub fn program(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<String> {
    let command = expected::text(checker, expr, key, env)?;
    not_empty(checker, command, expr.span)
}

/// Reports a command that is empty.
fn not_empty(checker: &mut Checker, command: String, span: Span) -> Option<String> {
    if command.trim().is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, span, "this command is empty"));
        return None;
    }
    Some(command)
}

/// `sample(...) |> keep(correct)`
pub fn pipe(checker: &mut Checker, value: &Expr, through: &Expr, span: Span, env: &Env) -> Value {
    let rollout = rollout_value(checker, value, env);
    let edit = match checker.evaluate(through, env) {
        Value::Edit(edit) => Some(edit),
        Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Edit(_)) => {
            let text = format!("`{}` needs its arguments", builtin.name);
            checker.report(Diagnostic::error(Code::MissingArgument, through.span, text).help(builtin.usage));
            None
        }
        other => {
            let wanted = "`|>` leads to an edit: `rewrite`, `keep`, `retry`, `best`, `first_turns`, \
                          `expert_turns`, `through`";
            expected::wrong_kind(checker, through.span, wanted, &other);
            None
        }
    };
    let (Some(rollout), Some(edit)) = (rollout, edit) else { return Value::Error };
    let given_later =
        rollout.all().iter().any(|rollout| matches!(rollout.source, RolloutSource::Parameter { .. }));
    if let Edit::Best { of, .. } = edit
        && of > rollout.group()
        && !given_later
    {
        let text = format!("`best` keeps {of} of {}", rollout.group());
        let drawn = checker.span(rollout.origin);
        checker.report(
            Diagnostic::error(Code::OutOfRange, through.span, text)
                .note(drawn, "samples of each prompt are drawn here")
                .help("draw more samples of each prompt, or keep fewer"),
        );
        return Value::Error;
    }
    let mut edited = Rc::unwrap_or_clone(rollout);
    edited.edits.push(edit);
    edited.origin = checker.origin(span);
    Value::Rollout(Rc::new(edited))
}

pub fn edit_call(checker: &mut Checker, call: EditCall, env: &Env) -> Option<Edit> {
    Some(match call {
        EditCall::Rewrite(given) => {
            let (from, to) = templates::rewrite(checker, given.change.expr, env)?;
            Edit::Rewrite { from, to }
        }
        EditCall::Keep(given) => {
            Edit::Keep { condition: of_completions(checker, given.condition.expr, env, true)? }
        }
        EditCall::Retry(given) => {
            let until = of_completions(checker, given.until.expr, env, true);
            let at_most = read(checker, given.at_most, env)?;
            Edit::Retry { until: until?, at_most }
        }
        EditCall::Best(given) => {
            let by = of_completions(checker, given.x.expr, env, false);
            let of = read(checker, given.of, env)?;
            Edit::Best { by: by?, of }
        }
        EditCall::FirstTurns(given) => Edit::FirstTurns { turns: read(checker, given.turns, env)? },
        EditCall::ExpertTurns(given) => Edit::ExpertTurns { turns: expert_turns(checker, given, env)? },
        EditCall::Through(given) => {
            let command = read(checker, given.command, env);
            let time_limit_seconds = read(checker, given.time_limit, env)?;
            let depends = read(checker, given.depends, env)?.unwrap_or_default();
            Edit::Through { command: command?, time_limit_seconds, depends }
        }
    })
}

/// `expert_turns(3)`, `expert_turns(all_but: 2)`
fn expert_turns(
    checker: &mut Checker,
    given: ExpertTurns,
    env: &Env,
) -> Option<experiment::ExpertTurns<Formula>> {
    match (given.turns, given.all_but) {
        (Some(first), None) => read(checker, first, env).map(experiment::ExpertTurns::First),
        (None, Some(last)) => read(checker, last, env).map(experiment::ExpertTurns::AllBut),
        _ => {
            let text = "the number of the expert's turns is missing";
            checker.report(Diagnostic::error(Code::MissingArgument, given.call.span, text).help(
                "write `expert_turns(3)`, or `expert_turns(all_but: 2)` for all that were recorded but \
                 the last two",
            ));
            None
        }
    }
}

/// The criterion of an edit: one bool, or one number, per completion or coarser.
fn of_completions(checker: &mut Checker, expr: &Expr, env: &Env, truth: bool) -> Option<Formula> {
    judged_by(checker, expr, env, truth, Axis::Sequence)
}

/// A detached formula of the completions, no finer than `finest`.
pub fn judged_by(
    checker: &mut Checker,
    expr: &Expr,
    env: &Env,
    truth: bool,
    finest: Axis,
) -> Option<Formula> {
    let value = checker.evaluate(expr, &env.with_context(EvaluationContext::Objective));
    let formula = expected::formula(checker, value, expr.span)?;
    if (formula.unit() == Unit::Bool) != truth && !has_variables(&formula) {
        let (message, help) = if truth {
            ("expected a condition", "compare with a bound, such as `reward > 0.5`")
        } else {
            ("expected a number, found a bool", "write the number itself, such as `reward`")
        };
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, expr.span), message, Some(help));
        return None;
    }
    // All completions of a prompt have its row.
    let formula = if finest == Axis::Group { per_prompt(&formula) } else { formula };
    if formula.axis() > finest {
        let over = finest.name();
        checker.report(
            Diagnostic::error(Code::AxisMismatch, expr.span, format!("this is decided once per {over}"))
                .label(format!("this is one per {}", formula.axis().name()))
                .help(format!("reduce first: `{}(..., over: {over})`", if truth { "any" } else { "mean" })),
        );
        return None;
    }
    Some(formula)
}
