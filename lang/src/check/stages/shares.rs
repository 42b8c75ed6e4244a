//! `shares = state.gap`: the domains' shares of a step's prompts, computed from the objective's states.

use crate::check::Checker;
use crate::check::stages::settings::has_variables;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::Value;
use crate::diag::{Code, Diagnostic, Reported};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, Name};
use mopd_experiment::Objective;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Signal, Unit};

/// The prefix under which states are bound in scope, and its marker there. No written name contains a dot.
const KNOWN: &str = "state.";

impl Checker {
    /// The formula of `shares`, if it is set.
    pub(super) fn shares(
        &mut self,
        given: Option<&Expr>,
        objective: &Objective,
        env: &Env,
    ) -> Result<Option<Formula>, Reported> {
        let Some(expr) = given else { return Ok(None) };
        let mut env = env.with_context(EvaluationContext::Schedule);
        env.bind(KNOWN, Value::Error);
        for state in &objective.states {
            let signal = Signal::State {
                name: state.name.clone(),
                axis: state.axis,
                unit: state.next.unit(),
                first: state.first,
            };
            env.bind(
                &format!("{KNOWN}{}", state.name),
                Value::Formula(Formula::signal(signal, state.origin)),
            );
        }
        let value = self.evaluate(expr, &env);
        let formula = self.formula(value, expr.span).ok_or(Reported)?;
        if has_variables(&formula) {
            return Ok(Some(formula));
        }
        if formula.unit() == Unit::Bool {
            let message = "expected a number, found a bool";
            let help = Some("write the number itself, such as `state.gap`");
            self.unit_mismatch(Spanned::new(&formula, expr.span), message, help);
            return Err(Reported);
        }
        if formula.axis() != Axis::Domain {
            let text = format!(
                "`shares` are one number for each domain, and this is one for the whole {}",
                formula.axis().name()
            );
            let known = objective.states.iter().find(|state| state.axis == Axis::Domain);
            let help = match known {
                Some(state) => format!("read a state with `by domain`, such as `state.{}`", state.name),
                None => format!(
                    "let the objective `{}` carry one: `state gap = 1 by domain then mean(x, over: domain)`",
                    objective.name
                ),
            };
            let diagnostic = Diagnostic::error(Code::AxisMismatch, expr.span, text)
                .label("the same for all domains")
                .help(help);
            self.report(diagnostic);
            return Err(Reported);
        }
        Ok(Some(formula))
    }

    /// The value of `state.gap` in the setting `shares`. `None` in every other place.
    pub(in crate::check) fn state_of_objective(
        &mut self,
        field: &Name,
        span: Span,
        env: &Env,
    ) -> Option<Value> {
        env.local(KNOWN)?;
        if let Some(Value::Formula(formula)) = env.local(&format!("{KNOWN}{}", field.text))
            && let FormulaKind::Signal(signal) = &formula.0.kind
        {
            return Some(self.signal(signal.clone(), span));
        }
        let known: Vec<String> = env
            .locals
            .iter()
            .filter_map(|(name, _)| name.strip_prefix(KNOWN))
            .filter(|name| !name.is_empty())
            .map(|name| format!("`{name}`"))
            .collect();
        let text = format!("the objective of this stage has no state `{}`", field.text);
        let help = match known.is_empty() {
            true => "it has none: write `state gap = 1 by domain then ...` in it".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        self.report(Diagnostic::error(Code::UnknownField, field.span, text).help(help));
        Some(Value::Error)
    }
}
