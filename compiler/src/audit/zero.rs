//! The reason why a term has no gradient in toy models.

use mopd_experiment::formula::{Axis, Formula, FormulaKind};

use super::bounds::{self, Culprit};
use super::branches::truths;
use super::judge::{Query, quoted};
use super::range::{ALL, RunFacts};
use super::variants;
use super::verdict::Verdict;

impl<'a> Query<'a> {
    /// The verdict on a term without gradient for any outcome, where conditions and bounds may be why.
    pub(super) fn without_gradient(&self) -> Verdict {
        if self.culprit().is_some() {
            return Verdict::Zero;
        }
        let nowhere = |what: &str| Verdict::NotAudited { why: format!("{what} in toy models this small") };
        if let Some(condition) = self.unmet_condition() {
            return nowhere(&format!("`{}` holds for no token", quoted(condition)));
        }
        match self.factor_of_zero() {
            Some(factor) if factor.axis() <= Axis::Run => Verdict::Zero,
            Some(factor) => nowhere(&format!("`{}` is 0 for every token", quoted(factor))),
            None => nowhere("its bounds and cases leave no gradient"),
        }
    }

    /// The reason of [`Verdict::Zero`], where a condition or a bound could be taken for it.
    pub(super) fn cause_of_zero(&self) -> Option<String> {
        if !self.may_be_silent() {
            return None;
        }
        if let Some(Culprit { part, .. }) = self.culprit() {
            return Some(format!("`{}` is 0, whatever is drawn", quoted(part)));
        }
        let factor = self.factor_of_zero().filter(|factor| factor.axis() <= Axis::Run)?;
        Some(format!("`{}` is 0 here", quoted(factor)))
    }

    fn culprit(&self) -> Option<Culprit<'a>> {
        let facts = RunFacts {
            teachers: &self.spec.teachers,
            steps: Some(self.spec.step.steps),
            reward: ALL,
            longest: self.spec.longest,
        };
        bounds::silent(&self.view, &facts)
    }

    /// A `select`, `when` or filter that holds for no token of any toy model.
    fn unmet_condition(&self) -> Option<&'a Formula> {
        let conditions = self.view.select.into_iter().chain(self.view.when).chain(self.view.samples.filter);
        let conditions: Vec<&Formula> = conditions.collect();
        let seen = truths(&conditions, &self.toys()).ok()?;
        conditions.into_iter().zip(seen).find(|(_, [_, holds])| !holds).map(|(condition, _)| condition)
    }

    /// A weight that is 0 in all toy models.
    fn factor_of_zero(&self) -> Option<&'a Formula> {
        let factors = self.view.weight.into_iter().chain(self.view.own_weight);
        let factors: Vec<&Formula> = factors.chain(variants::weights(self.view.value)).collect();
        let seen = truths(&factors, &self.toys()).ok()?;
        let zero = factors.into_iter().zip(seen).find(|(_, [_, not_zero])| !not_zero);
        zero.map(|(factor, _)| innermost(factor))
    }
}

/// The factor of a product that is a schedule, if there is one, since it is what moves.
fn innermost(factor: &Formula) -> &Formula {
    let schedule = |part: &&Formula| matches!(part.0.kind, FormulaKind::Schedule(_));
    factor.parts().into_iter().find(schedule).unwrap_or(factor)
}
