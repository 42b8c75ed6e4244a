//! Numbers over training time: schedules, expressions of `step` and `progress`, and their values over the
//! whole run.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Adaptive, Axis, Formula, FormulaKind, Unit};
use mopd_experiment::{Length, Schedule, ScheduleLength};

use crate::check::Checker;
use crate::check::builtins::bounds;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::Required;
use crate::check::builtins::schedules::{Ladder, Learned, Linear, ScheduleCall, Warmup};
use crate::check::builtins::types;
use crate::check::stages::settings::{has_variables, undecided};
use crate::check::values::calls::DEEPEST_CALL;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::ranges::{RangeCheck, first_outside, is_never_above_0, significant};
use crate::check::values::value::Value;

impl Checker {
    /// A number over training time: a plain number, a schedule, or any expression of numbers of the whole
    /// run.
    pub(in crate::check) fn schedule_setting(&mut self, expr: &Expr, env: &Env) -> Option<Formula> {
        let value = self.evaluate(expr, &env.with_context(EvaluationContext::Schedule));
        let formula = match value {
            Value::Formula(formula) if formula.unit() != Unit::Bool => formula,
            Value::Arrow { .. } => {
                self.report(
                    Diagnostic::error(Code::TypeMismatch, expr.span, "`a -> b` alone is not a schedule")
                        .help("write `linear(a -> b)` or `cosine(a -> b)`"),
                );
                return None;
            }
            other => {
                self.wrong_kind(expr.span, "expected a number or a schedule", &other);
                return None;
            }
        };
        if !self.word_fits_here(&Value::Formula(formula.clone()), expr.span) {
            return None;
        }
        if formula.axis() != Axis::Run {
            self.report(
                Diagnostic::error(Code::AxisMismatch, expr.span, "expected one number for the whole run")
                    .label(format!("this is one per {}", formula.axis().name()))
                    .help("a schedule reads `step` and `progress`"),
            );
            return None;
        }
        Some(formula)
    }

    /// The length of a stage: `steps = 100`, `steps = 2 epochs`.
    pub(in crate::check) fn stage_length(&mut self, expr: &Expr, env: &Env) -> Option<Length> {
        match self.evaluate(expr, env) {
            Value::Epochs(epochs) => Some(Length::Epochs(epochs)),
            value => self.whole(&value, expr.span, "`steps`", 1).map(|steps| Length::Steps(steps as u32)),
        }
    }

    /// A learning rate: positive at every step.
    pub(in crate::check) fn learning_rate(
        &mut self,
        given: Required<types::Schedule>,
        env: &Env,
        length: Option<Length>,
    ) -> Option<Formula> {
        let given = self.required_setting(given)?;
        let (expr, rate) = (given.expr, self.read(given, env)?);
        match rate.constant() {
            Some(value) if value <= 0.0 => {
                let diagnostic =
                    Diagnostic::error(Code::OutOfRange, expr.span, "a learning rate must be above 0");
                self.report(diagnostic.label(format!("this is {value}")));
                None
            }
            Some(_) => {
                self.warn_of_rate(&rate, expr.span, length);
                Some(rate)
            }
            // A rate may reach 0 at its end; below 0 it would ascend the loss.
            None if !self.within(&rate, "the learning rate", (0.0, f64::INFINITY), length) => None,
            None if length.is_some_and(|length| is_never_above_0(&rate, length)) => {
                let text = "a learning rate of 0 at every step trains nothing";
                let diagnostic = Diagnostic::error(Code::OutOfRange, expr.span, text);
                self.report(diagnostic.help("let it be above 0 at some step of the run"));
                None
            }
            None => {
                self.warn_of_rate(&rate, expr.span, length);
                Some(rate)
            }
        }
    }

    /// Warns of learning rates above 1. Published rates of all optimizers are far below: a larger one is a
    /// slip, often a lost `e-` or a percentage.
    fn warn_of_rate(&mut self, rate: &Formula, place: Span, length: Option<Length>) {
        if has_variables(rate) {
            return;
        }
        let steps = if let Some(Length::Steps(steps)) = length { steps } else { 1 };
        let largest = match (rate.constant(), first_outside(rate, (f64::NEG_INFINITY, 1.0), steps)) {
            (Some(value), _) if value > 1.0 => value,
            (None, RangeCheck::Leaves { value, .. }) => value,
            _ => return,
        };
        // The fewest digits that show that it is above 1.
        let shown = [4, 7].into_iter().map(|digits| significant(largest, digits)).find(|shown| *shown > 1.0);
        let shown = shown.unwrap_or(largest);
        let diagnostic =
            Diagnostic::warning(Code::OutOfRange, place, "a learning rate above 1 destroys the weights");
        self.report(
            diagnostic
                .label(format!("reaches {shown}"))
                .help("published rates lie between 1e-7 and 1e-2: write `1e-5`, for example"),
        );
    }

    /// Whether a number over training time stays within its bounds at every step of a stage. Reports where it
    /// does not.
    pub(in crate::check) fn within(
        &mut self,
        formula: &Formula,
        what: &str,
        (low, high): (f64, f64),
        length: Option<Length>,
    ) -> bool {
        if has_variables(formula) {
            return true;
        }
        if let FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) = &formula.0.kind {
            let Some(outside) = values.iter().find(|value| !(low..=high).contains(*value)) else {
                return true;
            };
            let (span, text) = (
                self.span(formula.0.origin),
                format!("{what} must stay between {low} and {high} on every rung"),
            );
            self.report(
                Diagnostic::error(Code::ScheduleRange, span, text).label(format!("one rung is {outside}")),
            );
            return false;
        }
        if !matches!(length, Some(Length::Steps(_))) {
            // The steps of an epoch are known only when the data is read, but the end values of a schedule
            // are known now.
            let ends = if let FormulaKind::Schedule(schedule) = &formula.0.kind {
                schedule.ends()
            } else {
                Vec::new()
            };
            if let Some(outside) = ends.into_iter().find(|value| !(low..=high).contains(value)) {
                let span = self.span(formula.0.origin);
                let diagnostic = Diagnostic::error(
                    Code::ScheduleRange,
                    span,
                    format!("{what} must stay between {low} and {high}"),
                );
                self.report(diagnostic.label(format!("goes to {outside}")));
                return false;
            }
        }
        // A missing length is an error of its own.
        self.stays_within(formula, what, (low, high), length.unwrap_or(Length::Steps(1)))
    }

    /// `linear(0 -> 1, over: 100 steps)` and the other schedules.
    pub(in crate::check) fn schedule_call(&mut self, call: ScheduleCall, env: &Env) -> Option<Formula> {
        let span = call.written().span;
        let (kind, unit) = match call {
            ScheduleCall::Ladder(given) => (self.ladder(given, env).map(FormulaKind::Adaptive), Unit::Number),
            ScheduleCall::Learned(given) => {
                (self.learned(given, env).map(FormulaKind::Adaptive), Unit::Fraction)
            }
            call => (self.schedule(call, env).map(FormulaKind::Schedule), Unit::Number),
        };
        let origin = self.origin(span);
        kind.map(|kind| Formula::new(kind, unit, Axis::Run, false, origin))
    }

    fn schedule(&mut self, call: ScheduleCall, env: &Env) -> Option<Schedule> {
        Some(match call {
            ScheduleCall::Constant(given) => Schedule::Constant { value: self.read(given.value, env)? },
            ScheduleCall::Linear(given) | ScheduleCall::Cosine(given) | ScheduleCall::Exponential(given) => {
                self.crossing(given, env)?
            }
            ScheduleCall::Piecewise(given) => self.piecewise(given.pieces.expr, env)?,
            ScheduleCall::Alternate(given) => {
                let (values, every) = (self.read(given.values, env), self.read(given.every, env));
                Schedule::Alternate { values: values?, every: every? }
            }
            ScheduleCall::Warmup(given) => self.warmup(given, env)?,
            ScheduleCall::Ladder(_) | ScheduleCall::Learned(_) => unreachable!("they adapt to the run"),
        })
    }

    fn warmup(&mut self, given: Warmup, env: &Env) -> Option<Schedule> {
        let steps = self.read(given.steps, env);
        let formula = self.read(given.then, env)?;
        let then = match &formula.0.kind {
            FormulaKind::Number(value) => Schedule::Constant { value: *value },
            FormulaKind::Schedule(schedule) => schedule.clone(),
            _ if has_variables(&formula) => return None,
            _ => {
                let wanted = "`then` of a warm-up is a number or a schedule";
                self.wrong_kind(given.then.expr.span, wanted, &Value::Formula(formula));
                return None;
            }
        };
        if then.warmups() >= DEEPEST_CALL {
            let text = format!("warmups are nested more than {DEEPEST_CALL} deep");
            self.report(
                Diagnostic::error(Code::NestingTooDeep, given.steps.expr.span, text)
                    .help("one of them is enough"),
            );
            return None;
        }
        Some(Schedule::Warmup { steps: steps?, then: Box::new(then) })
    }

    /// The schedule from one number to another: `linear`, `cosine` or `exponential`.
    fn crossing(&mut self, given: Linear, env: &Env) -> Option<Schedule> {
        let (range, written) = (given.range.expr, given.call.builtin.name);
        let (from, to) = match self.evaluate(range, env) {
            Value::Arrow { from, to } => (from, to),
            other => {
                let wanted = format!("`{written}` needs a range, such as `{written}(1e-3 -> 1e-4)`");
                // `cosine(1e-3, 1e-4)`
                let second = given.over.map(Arg::expr).filter(|second| {
                    self.key_before(second.span).is_none()
                        && matches!(second.kind, ExprKind::Number { suffix: None, .. })
                });
                match (other.constant(), second) {
                    (Some(_), Some(second)) => {
                        let whole = range.span.to(second.span);
                        let ours = format!(
                            "{} -> {}",
                            self.sources.text(range.span),
                            self.sources.text(second.span)
                        );
                        let diagnostic =
                            Diagnostic::error(Code::TypeMismatch, whole, wanted).label("two numbers");
                        self.report(diagnostic.help(format!("write `{written}({ours})`")).fix(
                            format!("write `{ours}`"),
                            whole,
                            ours,
                        ));
                    }
                    _ => {
                        self.wrong_kind(range.span, &wanted, &other);
                    }
                }
                return None;
            }
        };
        let over = match given.over {
            None => ScheduleLength::Run,
            Some(over) => self.over(over.expr, env)?,
        };
        Some(match written {
            "linear" => Schedule::Linear { from, to, over },
            "cosine" => Schedule::Cosine { from, to, over },
            _ => {
                if from <= 0.0 || to <= 0.0 {
                    let text =
                        "`exponential` multiplies by the same factor every step, so both ends are above 0";
                    self.report(
                        Diagnostic::error(Code::OutOfRange, range.span, text)
                            .label(format!("goes from {from} to {to}"))
                            .help("to end at 0, write `linear` or `cosine`"),
                    );
                    return None;
                }
                Schedule::Exponential { from, to, over }
            }
        })
    }

    /// `over: 100 steps`, or a share of the run: `over: 25%`.
    fn over(&mut self, expr: &Expr, env: &Env) -> Option<ScheduleLength> {
        let value = self.evaluate(expr, env);
        // 100% and 1 are the same number; the notation decides.
        let percent = match &value {
            Value::Formula(formula) => self.sources.text(self.span(formula.0.origin)).ends_with('%'),
            _ => false,
        };
        match value.constant() {
            Some(share) if percent || (share > 0.0 && share < 1.0) => {
                let share = self.fraction(&value, expr.span, "a share of the run")?;
                if share == 0.0 {
                    self.report(
                        Diagnostic::error(
                            Code::OutOfRange,
                            expr.span,
                            "the length of a schedule must be above 0",
                        )
                        .label("no step at all"),
                    );
                    return None;
                }
                Some(ScheduleLength::Share(share))
            }
            _ => self.whole(&value, expr.span, "`over`", 1).map(|steps| ScheduleLength::Steps(steps as u32)),
        }
    }

    /// `[0 -> 1e-3, 100 -> 1e-4]`: increasing steps, from 0.
    fn piecewise(&mut self, expr: &Expr, env: &Env) -> Option<Schedule> {
        const USAGE: &str = "write each as `step -> value`: `piecewise([0 -> 1e-3, 100 -> 1e-4])`";
        let values = match self.evaluate(expr, env) {
            Value::List(values) => values,
            other => {
                self.wrong_kind(expr.span, "`piecewise` needs a list of pieces", &other);
                return None;
            }
        };
        let place = |index: usize| match &expr.kind {
            ExprKind::List(items) => items[index].span,
            _ => expr.span,
        };
        let mut pieces: Vec<(u32, f64)> = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let Value::Arrow { from, to } = value else {
                self.wrong_kind(place(index), USAGE, value);
                return None;
            };
            let rises = pieces.last().map_or(*from == 0.0, |(last, _)| *from > f64::from(*last));
            let last = f64::from(bounds::STEPS.most);
            if from.fract() != 0.0 || *from > last || !rises {
                let wanted = match index {
                    0 => "the first piece begins at step 0",
                    _ if *from > last => "no run has that many steps",
                    _ => "each piece begins at a later step",
                };
                self.report(
                    Diagnostic::error(Code::OutOfRange, place(index), wanted)
                        .label(format!("begins at {from}"))
                        .help(USAGE),
                );
                return None;
            }
            pieces.push((*from as u32, *to));
        }
        if pieces.is_empty() {
            self.report(
                Diagnostic::error(Code::OutOfRange, expr.span, "this list of pieces is empty").help(USAGE),
            );
            return None;
        }
        Some(Schedule::Piecewise { pieces })
    }

    /// A list of numbers known before the run, at least one.
    pub(in crate::check) fn numbers(&mut self, expr: &Expr, env: &Env) -> Option<Vec<f64>> {
        let values = match self.evaluate(expr, env) {
            Value::List(values) => values,
            other => {
                self.wrong_kind(expr.span, "expected a list of numbers, such as `[0, 1]`", &other);
                return None;
            }
        };
        let mut numbers = Vec::new();
        for value in &values {
            match value.number() {
                Some(number) => numbers.push(number),
                None if undecided(value) => return None,
                None => {
                    self.wrong_kind(expr.span, "every element must be a number known before the run", value);
                    return None;
                }
            }
        }
        if numbers.is_empty() {
            self.report(Diagnostic::error(Code::OutOfRange, expr.span, "this list of numbers is empty"));
            return None;
        }
        Some(numbers)
    }

    fn ladder(&mut self, given: Ladder, env: &Env) -> Option<Adaptive> {
        let (values, every) = (self.read(given.values, env), self.read(given.every, env));
        let advance_if = self.after_a_step(given.advance_if.expr, env, true)?;
        Some(Adaptive::Ladder { values: values?, advance_if, every: every? })
    }

    fn learned(&mut self, given: Learned, env: &Env) -> Option<Adaptive> {
        let gain = self.after_a_step(given.gain.expr, env, false);
        let (hold, discount) = (self.read(given.hold, env), self.read(given.discount, env));
        let lr = self.read(given.lr, env);
        Some(Adaptive::Learned { gain: gain?, hold: hold?, discount: discount?, lr: lr? })
    }

    /// The formula that drives an adaptive schedule: one number, or one bool, per step.
    fn after_a_step(&mut self, expr: &Expr, env: &Env, truth: bool) -> Option<Formula> {
        let value = self.evaluate(expr, &env.with_context(EvaluationContext::Objective));
        let formula = self.formula(value, expr.span)?;
        if (formula.unit() == Unit::Bool) != truth {
            let message =
                if truth { "`advance_if` is a condition" } else { "`gain` is a number, not a bool" };
            self.unit_mismatch(Spanned::new(&formula, expr.span), message, None);
            return None;
        }
        if formula.axis() > Axis::Batch {
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    expr.span,
                    "this is computed once per step, so it must be one number",
                )
                .label(format!("this is one per {}", formula.axis().name()))
                .help("reduce first: `mean(x, over: batch)`"),
            );
            return None;
        }
        Some(formula)
    }
}
