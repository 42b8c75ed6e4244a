//! `shares = state.gap`: the domains' shares of a step's prompts, computed from the objective's states.

use crate::diag::{Code, Diagnostic, Reported};
use crate::source::Spanned;
use crate::syntax::ast::Expr;
use mopd_experiment::Objective;
use mopd_experiment::formula::{Axis, Formula, Signal, Unit};

use crate::check::checker::Checker;
use crate::check::formulas::arithmetic;
use crate::check::formulas::signals::KNOWN;
use crate::check::read::expected;
use crate::check::read::numbers::has_variables;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The environment in which `state.gap` is the state `gap` of the stage's objective. If there is no
/// objective, that has been reported.
pub(super) fn with_states(objective: Option<&Objective>, env: &Env) -> Env {
    let mut env = env.clone();
    let Some(objective) = objective else {
        env.bind(KNOWN, Value::Error);
        return env;
    };
    env.bind(KNOWN, Value::Text(objective.name.clone()));
    for state in &objective.states {
        let signal = Signal::State {
            name: state.name.clone(),
            axis: state.axis,
            unit: state.next.unit(),
            first: state.first,
        };
        env.bind(&format!("{KNOWN}{}", state.name), Value::Formula(Formula::signal(signal, state.origin)));
    }
    env
}

/// The formula of `shares`, if it is set.
pub(super) fn shares(
    checker: &mut Checker,
    given: Option<&Expr>,
    objective: &Objective,
    env: &Env,
) -> Result<Option<Formula>, Reported> {
    let Some(expr) = given else { return Ok(None) };
    let env = with_states(Some(objective), &env.with_context(EvaluationContext::Schedule));
    let value = checker.evaluate(expr, &env);
    let formula = expected::formula(checker, value, expr.span).ok_or(Reported)?;
    if has_variables(&formula) {
        return Ok(Some(formula));
    }
    if formula.unit() == Unit::Bool {
        let message = "expected a number, found a bool";
        let help = Some("write the number itself, such as `state.gap`");
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, expr.span), message, help);
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
        checker.report(diagnostic);
        return Err(Reported);
    }
    Ok(Some(formula))
}
