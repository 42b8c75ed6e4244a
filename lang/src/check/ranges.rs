//! Numbers of the run, before the run: what a schedule or an expression of `step` and `progress` is worth at every step.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Length, Objective};
use crate::formula::{
    Declared, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, Live, PreferenceKind, Scan, Signal, elementwise,
};

use super::Checker;

/// What the names in a number of the run stand for.
pub struct Bindings<'a> {
    pub step: u32,
    pub steps: u32,
    /// The variable of a generator.
    pub variable: Option<(&'a str, f64)>,
}

/// The value of a formula that nothing but the step decides; none where something else does.
pub fn number_at(formula: &Formula, bindings: &Bindings) -> Option<f64> {
    match &formula.0.kind {
        FormulaKind::Number(value) => Some(*value),
        FormulaKind::Schedule(schedule) => Some(schedule.at(bindings.step, bindings.steps)),
        FormulaKind::Signal(Signal::Step) => Some(f64::from(bindings.step)),
        FormulaKind::Signal(Signal::Progress) => Some(f64::from(bindings.step) / f64::from(bindings.steps.max(1))),
        FormulaKind::Variable(name) => bindings.variable.and_then(|(variable, value)| (**name == *variable).then_some(value)),
        FormulaKind::Apply { function, operands } => {
            let values: Option<Vec<f64>> = operands.iter().map(|operand| number_at(operand, bindings)).collect();
            Some(elementwise::apply(*function, &values?))
        }
        _ => None,
    }
}

/// Smallest and largest value over a run, each with the step at which it is first met; none where it can't be known before.
pub fn range_over_run(formula: &Formula, steps: u32) -> Option<[(f64, u32); 2]> {
    let mut range: Option<[(f64, u32); 2]> = None;
    for step in 0..steps.max(1) {
        let value = number_at(formula, &Bindings { step, steps, variable: None })?;
        let [low, high] = range.get_or_insert([(value, step); 2]);
        // A value that is no number is worse than any.
        if value < low.0 || value.is_nan() {
            *low = (value, step);
        }
        if value > high.0 || value.is_nan() {
            *high = (value, step);
        }
        if value.is_nan() {
            break;
        }
    }
    range
}

/// Without the noise of binary fractions.
fn readable(number: f64) -> f64 {
    format!("{number:.6e}").parse().unwrap_or(number)
}

impl Checker {
    /// Whether a number stays within bounds over a run of `steps` steps; reports the first step at which it does not.
    pub(super) fn stays_within(&mut self, formula: &Formula, what: &str, (low, high): (f64, f64), steps: u32) -> bool {
        let out = (0..steps.max(1)).find_map(|step| {
            let value = number_at(formula, &Bindings { step, steps, variable: None })?;
            (!value.is_finite() || !(low..=high).contains(&value)).then_some((step, value))
        });
        let Some((step, value)) = out else { return true };
        let span = self.span(formula.0.origin);
        let bounds = match (low.is_finite(), high.is_finite()) {
            (true, true) => format!("between {low} and {high}"),
            (true, false) => format!("at least {low}"),
            _ => format!("at most {high}"),
        };
        self.report(
            Diagnostic::error(Code::ScheduleRange, span, format!("{what} must stay {bounds} during the whole run"))
                .label(format!("is {} at step {step} of {steps}", readable(value)))
                .help("change its ends, hold it with `clip(...)`, or end the run before"),
        );
        false
    }

    /// Without its factor beta * (1 - beta) taken out, `jsd` goes to 0 at both ends, and its gradient with it.
    fn leaves_ends(&mut self, beta: &Formula, steps: u32) -> bool {
        let found = (0..steps.max(1)).find_map(|step| {
            let value = number_at(beta, &Bindings { step, steps, variable: None })?;
            (value == 0.0 || value == 1.0).then_some((step, value))
        });
        let Some((step, value)) = found else { return true };
        let span = self.span(beta.0.origin);
        self.report(
            Diagnostic::error(Code::ScheduleRange, span, format!("`jsd` with beta = {value} is 0 everywhere"))
                .label(format!("is {value} at step {step} of {steps}"))
                .help(
                    "`normalized: true` divides by beta * (1 - beta): its ends are the two directions of `kl`, and it changes smoothly \
                     between them",
                ),
        );
        false
    }

    /// The parameters of an objective's divergences, over the whole run of the stage that uses it.
    pub(super) fn check_ranges(&mut self, objective: &Objective, steps: u32) -> bool {
        let mut good = true;
        for part in objective.formulas().into_iter().flat_map(Formula::parts) {
            good &= match &part.0.kind {
                FormulaKind::Scan { scan: Scan::RewardToGo { discount }, .. } => {
                    self.stays_within(discount, "a discount", (0.0, 1.0), steps)
                }
                FormulaKind::Live(Live::Preference(preference)) => match &preference.kind {
                    PreferenceKind::Dpo { beta } => self.stays_within(beta, "`beta`", (0.0, f64::INFINITY), steps),
                    PreferenceKind::BradleyTerry => true,
                },
                _ => true,
            };
            let divergence = match &part.0.kind {
                FormulaKind::Signal(Signal::Divergence(divergence)) | FormulaKind::Live(Live::Divergence(divergence)) => {
                    divergence
                }
                _ => continue,
            };
            good &= match &divergence.kind {
                DivergenceKind::Jsd { beta, normalized } => {
                    self.stays_within(beta, "`beta`", (0.0, 1.0), steps) && (*normalized || self.leaves_ends(beta, steps))
                }
                DivergenceKind::Skew { lambda } => self.stays_within(lambda, "`lambda`", (0.0, 1.0), steps),
                _ => true,
            };
            good &= self.shares_add_up(divergence, steps);
        }
        good
    }

    /// The shares of blends are a distribution at every step.
    fn shares_add_up(&mut self, divergence: &Divergence, steps: u32) -> bool {
        for side in [&divergence.left, &divergence.right] {
            let mut side = side;
            while let Distribution::Detached(inner) = side {
                side = inner;
            }
            let Distribution::Blend(parts) = side else { continue };
            if !parts.iter().all(|(share, _)| self.stays_within(share, "a share of a blend", (0.0, 1.0), steps)) {
                return false;
            }
            let total = |step| -> Option<f64> {
                parts.iter().map(|(share, _)| number_at(share, &Bindings { step, steps, variable: None })).sum()
            };
            let off =
                (0..steps.max(1)).find_map(|step| Some((step, total(step)?)).filter(|(_, total)| (total - 1.0).abs() > 1e-9));
            let Some((step, total)) = off else { continue };
            let span = self.span(parts[0].0.0.origin);
            self.report(
                Diagnostic::error(Code::ShareSum, span, "the shares of this blend must add up to 1 during the whole run")
                    .label(format!("they add up to {} at step {step} of {steps}", readable(total)))
                    .help("write the last one as the rest: `blend(teacher: a, student: 1 - a)`"),
            );
            return false;
        }
        true
    }

    /// Numbers that move, given for parameters whose type bounds them, over the whole run of the stage that uses them.
    pub(super) fn check_declared(&mut self, objective: &Objective, length: Length) -> bool {
        let mut good = true;
        for part in objective.formulas().into_iter().flat_map(Formula::parts) {
            let Some(Declared { parameter, low, high }) = &part.0.declared else { continue };
            good &= self.within(part, parameter, (*low, *high), Some(length));
        }
        good
    }
}
