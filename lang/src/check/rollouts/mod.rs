//! Rollouts: where the tokens come from that an objective judges, and what is done to them.

pub mod rewards;

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Edit, ExpertTurns, Heads, Keeps, Rollout, RolloutSource, Sampling};
use crate::formula::{Axis, Formula, Role, Unit};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};

use crate::check::Checker;
use crate::check::builtins::{EditName, Kind, RolloutName};
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

    pub(in crate::check) fn rollout_call(
        &mut self,
        name: RolloutName,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Option<Rollout> {
        let first = given[0].expect("required");
        let inside = |slot: usize| given[slot].expect("required");
        let source = match name {
            RolloutName::Sample => RolloutSource::Sample(self.sample(given, env)?),
            RolloutName::From => self.written_by(given, span, env)?,
            RolloutName::Data => RolloutSource::Data { field: self.data_field(first)? },
            RolloutName::Mix => {
                let share = self.share(first, "the share", env);
                let (a, b) = (self.rollout_value(inside(1), env), self.rollout_value(inside(2), env));
                RolloutSource::Mix { share: share?, first: a?, second: b? }
            }
            RolloutName::TokenMix => {
                let alpha = self.share(first, "`alpha`", env);
                RolloutSource::TokenMix { of: self.drawn(inside(1), "token_mix", env)?, alpha: alpha? }
            }
            RolloutName::Interleave => {
                let top_k = self.count(first, "top_k", env, 1);
                RolloutSource::Interleave { of: self.drawn(inside(1), "interleave", env)?, top_k: top_k? }
            }
            RolloutName::Refine => {
                let by = self.speaker(first, env);
                let of = self.drawn(inside(1), "refine", env);
                let sees = self.optional_template(given[2], env)?;
                RolloutSource::Refine { by: by?, sees, of: of? }
            }
            RolloutName::Snapshot => {
                // A teacher is weights and what they are shown; here its weights alone are needed.
                let model = self.weights_of(first, env);
                RolloutSource::Snapshot { of: self.drawn(inside(1), "snapshot", env)?, model: model? }
            }
            RolloutName::Replay => self.replay(given, env)?,
            RolloutName::FirstOf => {
                let choices: Vec<Option<Rc<Rollout>>> =
                    given.iter().flatten().map(|expr| self.rollout_value(expr, env)).collect();
                RolloutSource::FirstOf { choices: choices.into_iter().collect::<Option<_>>()? }
            }
            RolloutName::EachTurn => {
                let history = self.rollout_value(first, env);
                let of = self.drawn(inside(1), "each_turn", env);
                RolloutSource::EachTurn { history: history?, of: of? }
            }
            RolloutName::Speculative => {
                let block = self.count(first, "block", env, 1);
                RolloutSource::Speculative { of: self.drawn(inside(1), "speculative", env)?, block: block? }
            }
            RolloutName::Turns => {
                let environment = self.program(first, "environment", env);
                let at_most = self.tokens_or_turns(inside(1), "at_most", env);
                let of = self.drawn(inside(2), "turns", env);
                RolloutSource::Turns { environment: environment?, at_most: at_most?, of: of? }
            }
            RolloutName::Denoise => {
                let steps = self.count(first, "steps", env, 1);
                let block = self.count(inside(1), "block", env, 1);
                let of = self.drawn(inside(2), "denoise", env);
                RolloutSource::Denoise { steps: steps?, block: block?, of: of? }
            }
            RolloutName::Derived => {
                let template = self.template_value(first, env);
                let of = self.drawn(inside(1), "derived", env);
                RolloutSource::Derived { template: template?, of: of? }
            }
        };
        Some(Rollout { source, edits: Vec::new(), origin: self.origin(span) })
    }

    /// A rollout inside another that needs completions drawn, not read.
    fn drawn(&mut self, expr: &Expr, by: &str, env: &Env) -> Option<Rc<Rollout>> {
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
    fn replay(&mut self, given: &[Option<&Expr>], env: &Env) -> Option<RolloutSource> {
        let place = |slot: usize| given[slot].expect("required");
        let of = self.rollout_value(place(0), env);
        let capacity = self.count(place(1), "capacity", env, 1);
        let share = self.share(place(2), "`share`", env);
        let keeps = match given[3] {
            Some(expr) => {
                let words = [("rollouts", Keeps::Rollouts), ("prompts", Keeps::Prompts)];
                self.word(expr, "what a buffer keeps", &words)
            }
            None => Some(Keeps::Rollouts),
        };
        let condition = match given[4] {
            Some(expr) => self.judged_by(expr, env, true, Axis::Group).map(Some),
            None => Some(None),
        };
        let order = match given[5] {
            Some(expr) => self.judged_by(expr, env, false, Axis::Group).map(Some),
            None => Some(None),
        };
        Some(RolloutSource::Replay {
            capacity: capacity?,
            share: share?,
            keeps: keeps?,
            condition: condition?,
            order: order?,
            of: of?,
        })
    }

    /// `heads: 2, accept: 0.95`: one says nothing without the other. `None` where faulty.
    fn heads(&mut self, heads: Option<&Expr>, accept: Option<&Expr>, env: &Env) -> Option<Option<Heads>> {
        match (heads, accept) {
            (None, None) => Some(None),
            (Some(heads), Some(accept)) => {
                let count = self.count(heads, "heads", env, 2);
                let value = self.evaluate(accept, env);
                let accept = self.fraction(&value, accept.span, "`accept`");
                Some(Some(Heads { heads: count?, accept: accept? }))
            }
            (Some(given), None) | (None, Some(given)) => {
                self.report(
                    Diagnostic::error(
                        Code::MissingArgument,
                        given.span,
                        "several heads need to know when a later one is kept",
                    )
                    .help("write both: `heads: 2, accept: 0.95`"),
                );
                None
            }
        }
    }

    fn sample(&mut self, given: &[Option<&Expr>], env: &Env) -> Option<Sampling> {
        let n = self.count(given[0].expect("required"), "n", env, 1);
        let temperature_place = given[1].expect("required");
        let temperature = self.at_least(temperature_place, "temperature", env, 0.0);
        let max_tokens = self.tokens_or_turns(given[2].expect("required"), "max_tokens", env);
        let (top_p, top_k) = self.truncation(given[3], given[4], env)?;
        let repetition_penalty = match given[5] {
            Some(expr) => Some(self.at_least(expr, "repetition_penalty", env, f64::MIN_POSITIVE)?),
            None => None,
        };
        let heads = self.heads(given[6], given[7], env)?;
        let stop = self.stop_texts(given[8], env)?;
        if temperature == Some(0.0) {
            self.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    temperature_place.span,
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
    fn written_by(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Option<RolloutSource> {
        let teacher = self.speaker(given[0].expect("required"), env);
        let mut missing = false;
        for (slot, name) in [(2, "temperature"), (3, "max_tokens")] {
            if given[slot].is_none() {
                self.report(
                    Diagnostic::error(Code::MissingArgument, span, format!("`from` needs `{name}`"))
                        .label("not given here")
                        .help("write `from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)`"),
                );
                missing = true;
            }
        }
        if let (Some(sequences), Some(n)) = (given[1], given[4]) {
            self.report(
                Diagnostic::error(
                    Code::UnknownArgument,
                    n.span,
                    "`n` and `sequences` are two different experiments",
                )
                .note(sequences.span, "made once, so many in all")
                .help("write `n` for fresh completions of every prompt, `sequences` for a fixed set"),
            );
            return None;
        }
        if missing {
            return None;
        }
        let sequences = match given[1] {
            Some(expr) => Some(self.count(expr, "sequences", env, 1)?),
            None => None,
        };
        let n = match given[4] {
            Some(expr) => self.count(expr, "n", env, 1),
            None => Some(1),
        };
        let temperature = self.at_least(given[2].expect("checked above"), "temperature", env, 0.0);
        let max_tokens = self.tokens_or_turns(given[3].expect("checked above"), "max_tokens", env);
        let (top_p, top_k) = self.truncation(given[5], given[6], env)?;
        let sees = self.optional_template(given[7], env)?;
        let stop = self.stop_texts(given[8], env)?;
        let (repetition_penalty, heads) = (None, None);
        let sampling = Sampling {
            n: n?,
            temperature: temperature?,
            max_tokens: max_tokens?,
            top_p,
            top_k,
            repetition_penalty,
            heads,
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
                    self.report(Diagnostic::error(
                        Code::OutOfRange,
                        expr.span,
                        "with `top_p` = 0 no token could be drawn",
                    ));
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
    fn speaker(&mut self, expr: &Expr, env: &Env) -> Option<Role> {
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
    fn program(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<String> {
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

    pub(in crate::check) fn edit_call(
        &mut self,
        name: EditName,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Option<Edit> {
        if name == EditName::ExpertTurns {
            return self.expert_turns(given, span, env).map(|turns| Edit::ExpertTurns { turns });
        }
        let first = given[0].expect("required");
        Some(match name {
            EditName::Rewrite => {
                let (from, to) = self.rewrite(first, env)?;
                Edit::Rewrite { from, to }
            }
            EditName::Keep => Edit::Keep { condition: self.of_completions(first, env, true)? },
            EditName::Retry => {
                let until = self.of_completions(first, env, true);
                let at_most = self.count(given[1].expect("required"), "at_most", env, 1)?;
                Edit::Retry { until: until?, at_most }
            }
            EditName::Best => {
                let by = self.of_completions(first, env, false);
                let of = self.count(given[1].expect("required"), "of", env, 1)?;
                Edit::Best { by: by?, of }
            }
            EditName::FirstTurns | EditName::ExpertTurns => {
                Edit::FirstTurns { turns: self.tokens_or_turns(first, "turns", env)? }
            }
            EditName::Through => Edit::Through { command: self.program(first, "command", env)? },
        })
    }

    /// `expert_turns(3)`, `expert_turns(all_but: 2)`
    fn expert_turns(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Option<ExpertTurns> {
        match (given[0], given[1]) {
            (Some(first), None) => self.tokens_or_turns(first, "turns", env).map(ExpertTurns::First),
            (None, Some(last)) => self.tokens_or_turns(last, "all_but", env).map(ExpertTurns::AllBut),
            _ => {
                self.report(
                    Diagnostic::error(Code::MissingArgument, span, "how many turns are the expert's?").help(
                        "write `expert_turns(3)`, or `expert_turns(all_but: 2)` for all that were recorded \
                         but the last two",
                    ),
                );
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
