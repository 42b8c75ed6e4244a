//! Finds terms whose value or gradient is infinite or NaN for something that can be drawn.

use mopd_experiment::formula::{
    Formula, FormulaKind, FormulaNode, Function, ModelSignal, PlainSignal, Signal, text,
};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Span;

use super::expectation::{ALL, CompiledTerm};
use super::judge::Query;
use super::toy_model::{ToyModel, ToyModelSpec, Variation};
use super::view::TermView;

/// What makes a term's value or gradient infinite or NaN.
pub(super) struct NonFinite<'a> {
    /// The innermost part that is not finite, or the `where` that it is in.
    pub part: &'a Formula,
    /// Whether it is so for every outcome of every model, not just for some.
    pub always: bool,
}

impl NonFinite<'_> {
    /// Reported at the part.
    pub fn diagnostic(&self, place: Span) -> Diagnostic {
        let diagnostic = match self.always {
            true => {
                Diagnostic::error(Code::NotFinite, place, "this term is infinite or NaN, whatever is drawn")
            }
            false => Diagnostic::warning(
                Code::NotFinite,
                place,
                "this term is infinite or NaN for some of what can be drawn",
            ),
        };
        let part = text::formula(self.part, 60);
        diagnostic.label(format!("`{part}` or its derivative is not finite")).help(
            "keep its argument in range, `max(x, 1e-6)`, or leave these tokens out by `when`; a run stops at \
                 the first number that is not finite",
        )
    }
}

impl<'a> Query<'a> {
    /// The cause of numbers that are not finite in the smallest toy model. `None` if there are none, or the
    /// toy model can't be evaluated.
    pub fn non_finite(&self) -> Option<NonFinite<'a>> {
        let spec = ToyModelSpec { size: self.spec.size.smallest(), ..self.spec.clone() };
        let toy = spec.toy(1, Variation::Usual);
        let (finite, outcomes) = finite_outcomes(&self.view, &toy)?;
        if finite == outcomes {
            return None;
        }
        // A part alone, with the masks of the term and without its weights.
        let alone = |value| TermView { weight: None, own_weight: None, ..self.view.with_value(value) };
        let is_non_finite = |part: &'a Formula| {
            finite_outcomes(&alone(part), &toy).is_some_and(|(finite, outcomes)| finite < outcomes)
        };
        let factors = [Some(self.view.value), self.view.weight, self.view.own_weight];
        let whole = factors.into_iter().flatten().find(|factor| is_non_finite(factor));
        let mut part = whole.unwrap_or(self.view.value);
        // A branch of a `where` may be infinite by itself and finite wherever it is chosen.
        let is_where =
            |part: &Formula| matches!(part.0.kind, FormulaKind::Apply { function: Function::Where, .. });
        while !is_where(part)
            && let Some(operand) = part.operands().into_iter().find(|operand| is_non_finite(operand))
        {
            part = operand;
        }
        Some(NonFinite { part, always: finite == 0 && !part.any(has_assumed_values) })
    }
}

/// Whether the values of a signal in toy models say nothing of those in a run, which may have any.
fn has_assumed_values(node: &FormulaNode) -> bool {
    matches!(
        &node.kind,
        FormulaKind::Signal(
            Signal::Data { .. }
                | Signal::Plain(PlainSignal::Reward | PlainSignal::TurnReward)
                | Signal::RewardPart { .. }
                | Signal::SpanScore { .. }
                | Signal::Plain(PlainSignal::Loss)
                | Signal::TermLoss { .. }
                | Signal::ValidationLoss
                | Signal::Of { part: ModelSignal::Score | ModelSignal::Value, .. }
        )
    )
}

/// The number of outcomes with a finite value and gradient, and that of all outcomes. `None` if the toy model
/// can't be evaluated.
fn finite_outcomes(view: &TermView, toy: &ToyModel) -> Option<(usize, usize)> {
    CompiledTerm::new(view, ALL).ok()?.finite_outcomes(toy, ALL).ok()
}
