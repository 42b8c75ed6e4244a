//! `state beta = 0.04 then clip(beta * ..., 0.001, 1)`: numbers that an objective carries from step to step.

use mopd_ops::common_unit;

use crate::check::Checker;
use crate::check::stages::settings::undecided;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;
use crate::diag::{Code, Diagnostic};
use crate::experiment::State;
use crate::formula::{Axis, Formula, FormulaKind, Signal, Unit, text};
use crate::source::Span;
use crate::syntax::ast::{Expr, Name};

/// A state whose next value is still to be looked at: it may read what stands below it.
pub(super) struct Begun<'a> {
    name: &'a Name,
    first: f64,
    unit: Unit,
    first_span: Span,
    next: &'a Expr,
}

impl Checker {
    /// From here on formulas know the name.
    pub(super) fn state_begins<'a>(
        &mut self,
        name: &'a Name,
        first: &Expr,
        next: Option<&'a Expr>,
        env: &mut Env,
    ) -> Option<Begun<'a>> {
        self.hides_nothing(name, env);
        let begun = self.first_value(name, first, env);
        let value = begun.map_or(Value::Error, |(first, unit)| {
            self.signal(Signal::State { name: name.text.clone(), unit, first }, name.span)
        });
        self.record(name.span, &value);
        env.bind(&name.text, value);
        if next.is_none() {
            let text = format!("the state `{}` does not say what it is next", name.text);
            let help = format!(
                "write `state {} = first then next`, or `let` for a number that each step computes anew",
                name.text
            );
            self.report(Diagnostic::error(Code::MissingArgument, name.span, text).help(help));
        }
        let (first_span, next, (first, unit)) = (first.span, next?, begun?);
        Some(Begun { name, first, unit, first_span, next })
    }

    fn first_value(&mut self, name: &Name, first: &Expr, env: &Env) -> Option<(f64, Unit)> {
        let value = self.evaluate(first, env);
        let number = match value.constant() {
            Some(number) => Some(number),
            None if undecided(&value) => self.any_number(1.0),
            None => {
                let text =
                    format!("the first value of `{}` must be a number known before the run", name.text);
                self.wrong_kind(first.span, &text, &value);
                None
            }
        };
        let formula = self.formula(value, first.span)?;
        if formula.unit() == Unit::Bool {
            let text = "a state is a number, not a bool";
            let help = Some("begin with 0 or 1, and compare where it is read");
            self.unit_mismatch(first.span, text, &[(first.span, &formula)], help);
            return None;
        }
        Some((number?, formula.unit()))
    }

    /// What a state is after a step; `env` knows all names of the objective.
    pub(super) fn state_moves(&mut self, begun: Begun, env: &Env) -> Option<State> {
        let Begun { name, first, unit, first_span, next: expr } = begun;
        let value = self.evaluate(expr, env);
        let next = self.formula(value, expr.span)?;
        if common_unit(unit, next.unit()).is_none() {
            let text = format!(
                "`{}` would be {} next, and begins as {}",
                name.text,
                next.unit().name(),
                unit.name()
            );
            let diagnostic = Diagnostic::error(Code::UnitMismatch, expr.span, text)
                .label(format!("this is {}", next.unit().name()))
                .note(first_span, format!("this is {}", unit.name()));
            self.report(diagnostic.help("a state keeps its unit from step to step"));
            return None;
        }
        if next.axis() > Axis::Batch {
            let axis = next.axis().name();
            let text = format!("`{}` is one number of the run, and this is one per {axis}", name.text);
            let culprit = unreduced(&next).unwrap_or(&next);
            let place = self.span(culprit.0.origin);
            let culprit = text::formula(culprit, 60);
            let diagnostic = Diagnostic::error(Code::AxisMismatch, expr.span, text)
                .label(format!("one number per {axis}"))
                .note(place, "differs within the batch");
            self.report(diagnostic.help(format!("reduce it first: `mean({culprit}, over: batch)`")));
            return None;
        }
        if next.live() {
            let text = "what is carried from step to step carries no gradient";
            self.report(Diagnostic::error(Code::NotDifferentiable, expr.span, text));
            return None;
        }
        Some(State { name: name.text.clone(), first, next, origin: self.origin(name.span) })
    }
}

/// The first number that nothing reduces to the batch.
fn unreduced(formula: &Formula) -> Option<&Formula> {
    let mut waiting = vec![formula];
    while let Some(formula) = waiting.pop() {
        let fine: Vec<&Formula> =
            formula.operands().into_iter().filter(|part| part.axis() > Axis::Batch).collect();
        match &formula.0.kind {
            _ if formula.axis() <= Axis::Batch => {}
            FormulaKind::Apply { .. } if !fine.is_empty() => waiting.extend(fine.into_iter().rev()),
            _ => return Some(formula),
        }
    }
    None
}
