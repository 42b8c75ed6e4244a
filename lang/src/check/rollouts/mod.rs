//! Rollouts: where the tokens come from that an objective judges, and what is done to them.
//! Their words and arguments are declared in [`crate::check::builtins::rollouts`].

pub mod rewards;

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::experiment::{self, Edit, Heads, Keeps, Rollout, RolloutSource, Sampling};
use crate::formula::{Axis, Formula, Role, Unit};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};

use crate::check::Checker;
use crate::check::builtins::Kind;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::edits::{EditCall, ExpertTurns};
use crate::check::builtins::rollouts::{FirstOf, From, Replay, RolloutCall, Sample};
use crate::check::stages::settings::open;
use crate::check::teachers::route::decided_by_data;
use crate::check::values::evaluate::{Context, Env};
use crate::check::values::value::{Callable, Value};

impl Checker {
    /// A rollout, called or named.
    pub(in crate::check) fn rollout_value(&mut self, expr: &Expr, env: &Env) -> Option<Rc<Rollout>> {
        match self.evaluate(expr, env) {
            Value::Rollout(rollout) => Some(rollout),
            // A bare name: every parameter has its default.
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

    pub(in crate::check) fn rollout_call(&mut self, call: RolloutCall, env: &Env) -> Option<RolloutSource> {
        Some(match call {
            RolloutCall::Sample(given) => RolloutSource::Sample(self.sample(given, env)?),
            RolloutCall::From(given) => self.written_by(given, env)?,
            RolloutCall::Data(given) => RolloutSource::Data { field: self.read(given.field, env)? },
            RolloutCall::Mix(given) => {
                let share = self.share(given.share.expr, "the share", env);
                let (first, second) = (self.read(given.first, env), self.read(given.second, env));
                RolloutSource::Mix { share: share?, first: first?, second: second? }
            }
            RolloutCall::TokenMix(given) => {
                let alpha = self.read(given.alpha, env);
                RolloutSource::TokenMix { of: self.read(given.of, env)?, alpha: alpha? }
            }
            RolloutCall::Interleave(given) => {
                let top_k = self.read(given.top_k, env);
                RolloutSource::Interleave { of: self.read(given.of, env)?, top_k: top_k? }
            }
            RolloutCall::Refine(given) => {
                let (by, of) = (self.read(given.by, env), self.read(given.of, env));
                let sees = self.read(given.sees, env)?;
                RolloutSource::Refine { by: by?, sees, of: of? }
            }
            RolloutCall::Snapshot(given) => {
                let model = self.read(given.model, env);
                RolloutSource::Snapshot { of: self.read(given.of, env)?, model: model? }
            }
            RolloutCall::Replay(given) => self.replay(given, env)?,
            RolloutCall::FirstOf(given) => {
                let FirstOf { first, second, third, fourth, .. } = given;
                let choices: Vec<Option<Rc<Rollout>>> = [Some(first), Some(second), third, fourth]
                    .into_iter()
                    .flatten()
                    .map(|choice| self.read(choice, env))
                    .collect();
                RolloutSource::FirstOf { choices: choices.into_iter().collect::<Option<_>>()? }
            }
            RolloutCall::EachTurn(given) => {
                let (history, of) = (self.read(given.history, env), self.read(given.of, env));
                RolloutSource::EachTurn { history: history?, of: of? }
            }
            RolloutCall::Speculative(given) => {
                let block = self.read(given.block, env);
                RolloutSource::Speculative { of: self.read(given.of, env)?, block: block? }
            }
            RolloutCall::Turns(given) => {
                let environment = self.read(given.environment, env);
                let (at_most, of) = (self.read(given.at_most, env), self.read(given.of, env));
                let time_limit_seconds = self.read(given.time_limit, env)?;
                let depends = self.read(given.depends, env)?.unwrap_or_default();
                RolloutSource::Turns {
                    environment: environment?,
                    time_limit_seconds,
                    depends,
                    at_most: at_most?,
                    of: of?,
                }
            }
            RolloutCall::Denoise(given) => {
                let (steps, block) = (self.read(given.steps, env), self.read(given.block, env));
                let of = self.read(given.of, env);
                RolloutSource::Denoise { steps: steps?, block: block?, of: of? }
            }
            RolloutCall::Derived(given) => {
                let (template, of) = (self.read(given.template, env), self.read(given.from, env));
                RolloutSource::Derived { template: template?, of: of? }
            }
        })
    }

    /// A rollout inside another that needs completions drawn, not read.
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

    /// `replay(sample(...), capacity: 10_000, share: 0.25, keeps: prompts, while: ..., order: ...)`
    fn replay(&mut self, given: Replay, env: &Env) -> Option<RolloutSource> {
        let (of, capacity) = (self.read(given.of, env), self.read(given.capacity, env));
        let (share, keeps) = (self.read(given.share, env), self.read(given.keeps, env));
        let condition = match given.condition {
            Some(condition) => self.judged_by(condition.expr, env, true, Axis::Group).map(Some),
            None => Some(None),
        };
        let order = match given.order {
            Some(order) => self.judged_by(order.expr, env, false, Axis::Group).map(Some),
            None => Some(None),
        };
        Some(RolloutSource::Replay {
            capacity: capacity?,
            share: share?,
            keeps: keeps?.unwrap_or(Keeps::Rollouts),
            condition: condition?,
            order: order?,
            of: of?,
        })
    }

    /// `heads: 2, accept: 0.95`: one says nothing without the other. `None` where faulty.
    fn heads(&mut self, given: &Sample, env: &Env) -> Option<Option<Heads>> {
        let alone = match (given.heads, given.accept) {
            (None, None) => return Some(None),
            (Some(heads), Some(accept)) => {
                let (heads, accept) = (self.read(heads, env), self.read(accept, env));
                return Some(Some(Heads { heads: heads?, accept: accept? }));
            }
            (Some(heads), None) => heads.expr,
            (None, Some(accept)) => accept.expr,
        };
        let text = "several heads need to know when a later one is kept";
        self.report(
            Diagnostic::error(Code::MissingArgument, alone.span, text)
                .help("write both: `heads: 2, accept: 0.95`"),
        );
        None
    }

    fn sample(&mut self, given: Sample, env: &Env) -> Option<Sampling> {
        let n = self.read(given.n, env);
        let temperature = self.read(given.temperature, env);
        let max_tokens = self.read(given.max_tokens, env);
        let (top_p, top_k) = self.truncation(given.top_p.map(Arg::expr), given.top_k.map(Arg::expr), env)?;
        let repetition_penalty = self.read(given.repetition_penalty, env)?;
        let heads = self.heads(&given, env)?;
        let stop = self.read(given.stop, env)?.unwrap_or_default();
        if temperature == Some(0.0) {
            self.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    given.temperature.expr.span,
                    "a greedy rollout has no distribution to learn from",
                )
                .help("write a temperature above 0; 1.0 samples from the model itself"),
            );
            return None;
        }
        Some(Sampling {
            n: n?,
            temperature: temperature?,
            max_tokens: max_tokens?,
            top_p,
            top_k,
            repetition_penalty,
            heads,
            stop,
        })
    }

    /// `from(teacher, sequences: 9600, ...)`: made once; `from(teacher, n: 1, ...)`: fresh every step.
    fn written_by(&mut self, given: From, env: &Env) -> Option<RolloutSource> {
        let teacher = self.read(given.teacher, env);
        let lacks =
            [(given.temperature.is_none(), "temperature"), (given.max_tokens.is_none(), "max_tokens")];
        for (_, name) in lacks.iter().filter(|(lacks, _)| *lacks) {
            let text = format!("`from` needs `{name}`");
            self.report(
                Diagnostic::error(Code::MissingArgument, given.call.span, text)
                    .label("not given here")
                    .help("write `from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)`"),
            );
        }
        if let (Some(sequences), Some(n)) = (given.sequences, given.n) {
            self.report(
                Diagnostic::error(
                    Code::UnknownArgument,
                    n.expr.span,
                    "`n` and `sequences` are two different experiments",
                )
                .note(sequences.expr.span, "made once, so many in all")
                .help("write `n` for fresh completions of every prompt, `sequences` for a fixed set"),
            );
            return None;
        }
        let (temperature, max_tokens) = (given.temperature?, given.max_tokens?);
        let sequences = self.read(given.sequences, env)?;
        let n = self.read(given.n, env);
        let temperature = self.read(temperature, env);
        let max_tokens = self.read(max_tokens, env);
        let (top_p, top_k) = self.truncation(given.top_p.map(Arg::expr), given.top_k.map(Arg::expr), env)?;
        let sees = self.read(given.sees, env)?;
        let stop = self.read(given.stop, env)?.unwrap_or_default();
        let sampling = Sampling {
            n: n?.unwrap_or(1),
            temperature: temperature?,
            max_tokens: max_tokens?,
            top_p,
            top_k,
            repetition_penalty: None,
            heads: None,
            stop,
        };
        Some(RolloutSource::From { teacher: teacher?, sees, sequences, sampling })
    }

    /// `stop: ["\n\n", "Question:"]`: the texts that end a completion.
    pub(in crate::check) fn stop_texts(&mut self, expr: Option<&Expr>, env: &Env) -> Option<Vec<String>> {
        const WANTED: &str = "`stop` is a text that ends a completion, or a list of them: `[\"\\n\\n\"]`";
        self.texts(expr, WANTED, "an empty text ends every completion before it begins", env)
    }

    /// A text or a list of texts, none of them empty or twice; `wanted` says what they are, `empty` why none
    /// is empty.
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

    /// Who writes: the routed `teacher`, a declared one, or a model.
    pub(in crate::check) fn speaker(&mut self, expr: &Expr, env: &Env) -> Option<Role> {
        let routed = matches!(&expr.kind, ExprKind::Name(name) if name == "teacher");
        // Outside an objective the routed teacher has no name of its own.
        let value = if routed {
            self.evaluate(expr, &env.with_context(Context::Objective))
        } else {
            self.evaluate(expr, env)
        };
        self.teacher_role(value, expr.span, env, "a rollout is written by a teacher or a model")
    }

    /// A share that may move over training time.
    pub(in crate::check) fn share(&mut self, expr: &Expr, what: &str, env: &Env) -> Option<Formula> {
        let formula = self.schedule_setting(expr, env)?;
        if formula.constant().is_some() {
            self.fraction(&Value::Formula(formula.clone()), expr.span, what)?;
        }
        Some(formula)
    }

    /// A whole number, at least 1, that may move over training time.
    pub(in crate::check) fn tokens_or_turns(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<Formula> {
        let formula = self.schedule_setting(expr, env)?;
        if formula.constant().is_some() {
            self.whole(&Value::Formula(formula.clone()), expr.span, &format!("`{key}`"), 1)?;
        }
        Some(formula)
    }

    /// The command of a program that the run starts.
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
            Value::Builtin(builtin) if matches!(builtin.kind, Kind::Edit(_)) => {
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
    fn expert_turns(&mut self, given: ExpertTurns, env: &Env) -> Option<experiment::ExpertTurns> {
        match (given.turns, given.all_but) {
            (Some(first), None) => self.read(first, env).map(experiment::ExpertTurns::First),
            (None, Some(last)) => self.read(last, env).map(experiment::ExpertTurns::AllBut),
            _ => {
                let text = "how many turns are the expert's?";
                self.report(Diagnostic::error(Code::MissingArgument, given.call.span, text).help(
                    "write `expert_turns(3)`, or `expert_turns(all_but: 2)` for all that were recorded but \
                     the last two",
                ));
                None
            }
        }
    }

    /// What an edit decides by: one bool, or one number, per completion or coarser.
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
        let value = self.evaluate(expr, &env.with_context(Context::Objective));
        let formula = self.formula(value, expr.span)?;
        if (formula.unit() == Unit::Bool) != truth && !open(&formula) {
            let (message, help) = if truth {
                ("expected a condition", "compare with a bound, such as `reward > 0.5`")
            } else {
                ("expected a number, found a bool", "write the number itself, such as `reward`")
            };
            self.unit_mismatch(expr.span, message, &[(expr.span, &formula)], Some(help));
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
