//! Rollouts, the sources of the tokens that an objective scores, and their edits.
//! Each kind is declared with its arguments and read in [`crate::check::builtins::rollouts`].

pub mod rewards;

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Axis, Formula, Role, Unit};
use mopd_experiment::{self as experiment, Edit, Rollout, RolloutSource, Sampling};

use crate::check::Checker;
use crate::check::builtins::BuiltinKind;
use crate::check::builtins::edits::{EditCall, ExpertTurns};
use crate::check::stages::settings::has_variables;
use crate::check::teachers::route::decided_by_data;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::{Callable, Value};

/// The sampling arguments that `sample`, `from` and `grpo` share; the numbers are `None` where faulty.
pub(in crate::check) struct SamplingArguments<'e> {
    pub n: Option<u32>,
    pub temperature: Option<Formula>,
    pub max_tokens: Option<Formula>,
    pub top_p: Option<&'e Expr>,
    pub top_k: Option<&'e Expr>,
    pub stop: Option<&'e Expr>,
}

impl Checker {
    /// A rollout, as a call or a name.
    pub(in crate::check) fn rollout_value(&mut self, expr: &Expr, env: &Env) -> Option<Rc<Rollout>> {
        match self.evaluate(expr, env) {
            Value::Rollout(rollout) => Some(rollout),
            // A bare name: every parameter takes its default.
            Value::Item { item, kind: Callable::Rollout } => {
                match self.call_item(item, expr.span, &[], env) {
                    Value::Rollout(rollout) => Some(rollout),
                    _ => None,
                }
            }
            other => {
                self.wrong_kind(
                    expr.span,
                    "a rollout is `sample(n: 1, temperature: 1.0, max_tokens: 24)`",
                    &other,
                );
                None
            }
        }
    }

    /// The inner rollout of one that needs sampled completions. Reports one whose completions are only read.
    pub(in crate::check) fn drawn(&mut self, expr: &Expr, by: &str, env: &Env) -> Option<Rc<Rollout>> {
        let rollout = self.rollout_value(expr, env)?;
        if rollout.sampling().is_none() {
            self.report(
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
    pub(in crate::check) fn stop_texts(&mut self, expr: Option<&Expr>, env: &Env) -> Option<Vec<String>> {
        const WANTED: &str = "`stop` is a text that ends a completion, or a list of them: `[\"\\n\\n\"]`";
        self.texts(expr, WANTED, "an empty text ends every completion before it begins", env)
    }

    /// A list of texts without empty ones or duplicates, also from a single text. `wanted` describes the
    /// texts, `empty` says why none may be empty.
    pub(in crate::check) fn texts(
        &mut self,
        expr: Option<&Expr>,
        wanted: &str,
        empty: &str,
        env: &Env,
    ) -> Option<Vec<String>> {
        let Some(expr) = expr else { return Some(Vec::new()) };
        let values = match self.evaluate(expr, env) {
            Value::List(values) => values,
            text @ (Value::Text(_) | Value::Error) => vec![text],
            other => {
                self.wrong_kind(expr.span, wanted, &other);
                return None;
            }
        };
        let mut texts: Vec<String> = Vec::new();
        for value in values {
            match value {
                Value::Text(text) if text.is_empty() => {
                    self.report(Diagnostic::error(Code::OutOfRange, expr.span, empty));
                    return None;
                }
                Value::Text(text) if texts.contains(&text) => {
                    self.report(Diagnostic::error(
                        Code::DuplicateKey,
                        expr.span,
                        format!("{text:?} is listed twice"),
                    ));
                    return None;
                }
                Value::Text(text) => texts.push(text),
                other => {
                    self.wrong_kind(expr.span, wanted, &other);
                    return None;
                }
            }
        }
        Some(texts)
    }

    pub(in crate::check) fn truncation(
        &mut self,
        top_p: Option<&Expr>,
        top_k: Option<&Expr>,
        env: &Env,
    ) -> Option<(Option<f64>, Option<u32>)> {
        let top_p = match top_p {
            Some(expr) => {
                let value = self.evaluate(expr, env);
                let p = self.fraction(&value, expr.span, "`top_p`")?;
                if p == 0.0 {
                    let text = "with `top_p` = 0 no token could be drawn";
                    self.report(Diagnostic::error(Code::OutOfRange, expr.span, text));
                    return None;
                }
                Some(p)
            }
            None => None,
        };
        let top_k = match top_k {
            Some(expr) => Some(self.count(expr, "top_k", env, 1)?),
            None => None,
        };
        Some((top_p, top_k))
    }

    pub(in crate::check) fn sampling(&mut self, given: SamplingArguments, env: &Env) -> Option<Sampling> {
        let truncation = self.truncation(given.top_p, given.top_k, env);
        let stop = self.stop_texts(given.stop, env);
        let (top_p, top_k) = truncation?;
        let sampling = Sampling::new(given.n?, given.temperature?, given.max_tokens?);
        Some(Sampling { top_p, top_k, stop: stop?, ..sampling })
    }

    /// The role that writes completions: the routed `teacher`, a declared teacher, or a model.
    pub(in crate::check) fn speaker(&mut self, expr: &Expr, env: &Env) -> Option<Role> {
        let routed = matches!(&expr.kind, ExprKind::Name(name) if name == "teacher");
        // Outside an objective `teacher` does not name the routed teacher.
        let value = if routed {
            self.evaluate(expr, &env.with_context(EvaluationContext::Objective))
        } else {
            self.evaluate(expr, env)
        };
        self.teacher_role(value, expr.span, env, "a rollout is written by a teacher or a model")
    }

    /// A share that may change during training.
    pub(in crate::check) fn share(&mut self, expr: &Expr, what: &str, env: &Env) -> Option<Formula> {
        let formula = self.schedule_setting(expr, env)?;
        if formula.constant().is_some() {
            self.fraction(&Value::Formula(formula.clone()), expr.span, what)?;
        }
        Some(formula)
    }

    /// A whole number, at least 1, that may change during training.
    pub(in crate::check) fn tokens_or_turns(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<Formula> {
        let formula = self.schedule_setting(expr, env)?;
        if formula.constant().is_some() {
            self.whole(&Value::Formula(formula.clone()), expr.span, &format!("`{key}`"), 1)?;
        }
        Some(formula)
    }

    /// The command line of a program that the run starts.
    pub(in crate::check) fn program(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<String> {
        let command = self.text(expr, key, env)?;
        if command.trim().is_empty() {
            self.report(Diagnostic::error(Code::OutOfRange, expr.span, "this command is empty"));
            return None;
        }
        Some(command)
    }

    /// `sample(...) |> keep(correct)`
    pub(in crate::check) fn pipe(&mut self, value: &Expr, through: &Expr, span: Span, env: &Env) -> Value {
        let rollout = self.rollout_value(value, env);
        let edit = match self.evaluate(through, env) {
            Value::Edit(edit) => Some(edit),
            Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Edit(_)) => {
                let text = format!("`{}` needs its arguments", builtin.name);
                self.report(Diagnostic::error(Code::MissingArgument, through.span, text).help(builtin.usage));
                None
            }
            other => {
                let wanted = "`|>` leads to an edit: `rewrite`, `keep`, `retry`, `best`, `first_turns`, \
                              `expert_turns`, `through`";
                self.wrong_kind(through.span, wanted, &other);
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
            let drawn = self.span(rollout.origin);
            self.report(
                Diagnostic::error(Code::OutOfRange, through.span, text)
                    .note(drawn, "samples of each prompt are drawn here")
                    .help("draw more samples of each prompt, or keep fewer"),
            );
            return Value::Error;
        }
        let mut edited = Rc::unwrap_or_clone(rollout);
        edited.edits.push(edit);
        edited.origin = self.origin(span);
        Value::Rollout(Rc::new(edited))
    }

    pub(in crate::check) fn edit_call(&mut self, call: EditCall, env: &Env) -> Option<Edit> {
        Some(match call {
            EditCall::Rewrite(given) => {
                let (from, to) = self.rewrite(given.change.expr, env)?;
                Edit::Rewrite { from, to }
            }
            EditCall::Keep(given) => {
                Edit::Keep { condition: self.of_completions(given.condition.expr, env, true)? }
            }
            EditCall::Retry(given) => {
                let until = self.of_completions(given.until.expr, env, true);
                let at_most = self.read(given.at_most, env)?;
                Edit::Retry { until: until?, at_most }
            }
            EditCall::Best(given) => {
                let by = self.of_completions(given.x.expr, env, false);
                let of = self.read(given.of, env)?;
                Edit::Best { by: by?, of }
            }
            EditCall::FirstTurns(given) => Edit::FirstTurns { turns: self.read(given.turns, env)? },
            EditCall::ExpertTurns(given) => Edit::ExpertTurns { turns: self.expert_turns(given, env)? },
            EditCall::Through(given) => {
                let command = self.read(given.command, env);
                let time_limit_seconds = self.read(given.time_limit, env)?;
                let depends = self.read(given.depends, env)?.unwrap_or_default();
                Edit::Through { command: command?, time_limit_seconds, depends }
            }
        })
    }

    /// `expert_turns(3)`, `expert_turns(all_but: 2)`
    fn expert_turns(&mut self, given: ExpertTurns, env: &Env) -> Option<experiment::ExpertTurns<Formula>> {
        match (given.turns, given.all_but) {
            (Some(first), None) => self.read(first, env).map(experiment::ExpertTurns::First),
            (None, Some(last)) => self.read(last, env).map(experiment::ExpertTurns::AllBut),
            _ => {
                let text = "the number of the expert's turns is missing";
                self.report(Diagnostic::error(Code::MissingArgument, given.call.span, text).help(
                    "write `expert_turns(3)`, or `expert_turns(all_but: 2)` for all that were recorded but \
                     the last two",
                ));
                None
            }
        }
    }

    /// The criterion of an edit: one bool, or one number, per completion or coarser.
    fn of_completions(&mut self, expr: &Expr, env: &Env, truth: bool) -> Option<Formula> {
        self.judged_by(expr, env, truth, Axis::Sequence)
    }

    /// A detached formula of the completions, no finer than `finest`.
    pub(in crate::check) fn judged_by(
        &mut self,
        expr: &Expr,
        env: &Env,
        truth: bool,
        finest: Axis,
    ) -> Option<Formula> {
        let value = self.evaluate(expr, &env.with_context(EvaluationContext::Objective));
        let formula = self.formula(value, expr.span)?;
        if (formula.unit() == Unit::Bool) != truth && !has_variables(&formula) {
            let (message, help) = if truth {
                ("expected a condition", "compare with a bound, such as `reward > 0.5`")
            } else {
                ("expected a number, found a bool", "write the number itself, such as `reward`")
            };
            self.unit_mismatch(Spanned::new(&formula, expr.span), message, Some(help));
            return None;
        }
        if formula.axis() > finest && !(finest == Axis::Group && decided_by_data(&formula)) {
            let over = finest.name();
            self.report(
                Diagnostic::error(Code::AxisMismatch, expr.span, format!("this is decided once per {over}"))
                    .label(format!("this is one per {}", formula.axis().name()))
                    .help(format!(
                        "reduce first: `{}(..., over: {over})`",
                        if truth { "any" } else { "mean" }
                    )),
            );
            return None;
        }
        Some(formula)
    }
}
