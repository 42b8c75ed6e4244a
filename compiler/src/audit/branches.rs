//! Cases and bounds of a term that the toy models never choose.

use std::rc::Rc;

use mopd_experiment::formula::{
    Axis, DivergenceKind, Formula, FormulaKind, Function, ModelSignal, PlainSignal, Signal, Unit,
};

use super::evaluate::{DrawnValues, Evaluator};
use super::judge::{Query, quoted};
use super::known::KnownGradients;
use super::leaves::ToySample;
use super::refusal::AuditRefusal;
use super::toy_model::{ToyModel, ToyModelSpec, Variation};
use super::variants;
use super::verdict::Verdict;
use super::view::is_choice;
use crate::lower::FormulaGraph;

/// The number of further toy models in which a case is looked for.
const FURTHER: u64 = 12;

impl<'a> Query<'a> {
    /// Conditions that never change in these toy models, so that only one case was tested. Further toy models
    /// may reach the other case: then the verdict there, if it is another one.
    pub(super) fn untried(&self, verdict: &Verdict, toys: &[ToyModel]) -> Vec<String> {
        let mut conditions: Vec<&Formula> = self.view.select.into_iter().chain(self.view.when).collect();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            let FormulaKind::Apply { function: Function::Where, operands } = &part.0.kind else { continue };
            if !conditions.contains(&&operands[0]) {
                conditions.push(&operands[0]);
            }
        }
        conditions.retain(|condition| condition.axis() > Axis::Run);
        let Ok(seen) = truths(&conditions, toys) else { return Vec::new() };
        let same = conditions.iter().zip(seen).filter(|(_, seen)| *seen != [true; 2]);
        let verdict = match verdict {
            Verdict::ByLength { of_two, .. } => of_two,
            verdict => verdict,
        };
        let said = same.filter_map(|(condition, seen)| {
            let (holds, other) = if seen[1] { ("always", "does not") } else { ("never", "does") };
            // Only a name can be compared with one.
            let there = verdict.one_gradient().and_then(|_| self.in_other_case(condition, !seen[1], toys));
            match there {
                Some(there) if verdict.is_same(&there) => None,
                Some(there) => Some(format!(
                    "`{}` {holds} holds in most toy models; where it {other}: {}",
                    quoted(condition),
                    there.text()
                )),
                None => Some(format!(
                    "`{}` {holds} holds here: where it {other}, nothing was tested",
                    quoted(condition)
                )),
            }
        });
        let mut said: Vec<String> = said.collect();
        said.dedup();
        said
    }

    /// The verdict in toy models in which a condition has a value that it does not have in `usual`. `None` if
    /// none of them reaches it.
    fn in_other_case(&self, condition: &Formula, wanted: bool, usual: &[ToyModel]) -> Option<Verdict> {
        let reaches = |toy: &ToyModel| {
            truths(&[condition], std::slice::from_ref(toy)).is_ok_and(|seen| seen[0][usize::from(wanted)])
        };
        let further =
            (self.spec.toys..self.spec.toys + FURTHER).map(|seed| self.spec.toy(seed, Variation::Usual));
        let mut toys: Vec<ToyModel> = further.filter(reaches).take(1).collect();
        if !toys.is_empty() {
            toys.extend(usual.iter().cloned());
        } else if variants::has_bounds(&self.view) {
            // In steep toy models its bounds act, too, so a difference could be due to them.
            return None;
        } else {
            let steep = [Variation::Steep, Variation::SteepStudent].into_iter();
            let reached =
                steep.map(|variation| self.spec.toys(variation).into_iter().filter(reaches).collect());
            toys = reached.into_iter().find(|toys: &Vec<ToyModel>| !toys.is_empty())?;
        }
        let measured = self.gradient_in(&toys).ok()?;
        if measured.is_zero() {
            return Some(Verdict::Zero);
        }
        let named = self.candidates();
        let known = KnownGradients::new(&named, &toys, self.block()).ok()?;
        Some(known.identify(&measured.gradient).unwrap_or_else(|| {
            let (nearest, cosine) = known.nearest(&measured.gradient);
            Verdict::Unnamed { nearest, cosine }
        }))
    }

    /// A case or a bound of the term that chooses the same for everything that can be drawn, in the usual toy
    /// models and where models differ by many nats. Also the words that say so.
    pub(super) fn untried_choice(&self) -> Option<(&'a Formula, String)> {
        let mut choices: Vec<(&'a Formula, Formula)> = Vec::new();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            let FormulaKind::Apply { function, operands } = &part.0.kind else { continue };
            let compared = |function, left: &Formula, right: &Formula| {
                let operands = vec![left.clone(), right.clone()];
                let kind = FormulaKind::Apply { function, operands };
                (part, Formula::new(kind, Unit::Bool, part.axis(), false, part.0.origin))
            };
            match (function, operands.as_slice()) {
                // Whatever it chooses, it is the same for all tokens after a prefix.
                _ if part.axis() <= Axis::Run || is_known_before_token(part) => {}
                (Function::Where, [condition, ..]) => {
                    // A comparison is a part of its own.
                    let is_own = condition.axis() > Axis::Run && !is_choice(&condition.0);
                    choices.extend(is_own.then(|| (condition, condition.clone())));
                }
                (Function::Minimum | Function::Maximum, [left, right]) => {
                    choices.push(compared(Function::Less, left, right));
                }
                (Function::Clip, [value, low, high]) => {
                    choices.push(compared(Function::Less, value, low));
                    choices.push(compared(Function::Greater, value, high));
                }
                (Function::Relu, [value]) => {
                    let kind = FormulaKind::Number(0.0);
                    let zero = Formula::new(kind, value.unit(), Axis::Run, false, part.0.origin);
                    choices.push(compared(Function::Less, value, &zero));
                }
                _ if is_choice(&part.0) => choices.push((part, part.clone())),
                _ => {}
            }
        }
        let smallest = ToyModelSpec { size: self.spec.size.smallest(), ..self.spec.clone() };
        let mut toys = self.toys();
        toys.extend([Variation::Steep, Variation::SteepStudent].into_iter().flat_map(|of| smallest.toys(of)));
        let conditions: Vec<&Formula> = choices.iter().map(|(_, condition)| condition).collect();
        let seen = truths(&conditions, &toys).ok()?;
        let untried = choices.iter().zip(seen).find(|(_, seen)| *seen != [true; 2]);
        untried.map(|((part, condition), seen)| {
            let how = match (Rc::ptr_eq(&part.0, &condition.0), seen[1]) {
                (true, true) => "always holds there",
                (true, false) => "never holds there",
                (false, _) => "was not tried on both sides of its bound",
            };
            (*part, format!("`{}` {how}", quoted(part)))
        })
    }
}

/// Whether a number depends at most on the prefix, and not on the token that is drawn after it. False where
/// that is not certain: a mean over the completion already depends on the token.
fn is_known_before_token(formula: &Formula) -> bool {
    let of_prefix = |part: &Formula| match &part.0.kind {
        FormulaKind::Number(_) | FormulaKind::Schedule(_) | FormulaKind::Apply { .. } => true,
        FormulaKind::Signal(signal) => match signal {
            Signal::Of { part, .. } => {
                matches!(part, ModelSignal::Entropy | ModelSignal::Top1 | ModelSignal::EndLogp)
            }
            Signal::Divergence(divergence) => {
                !matches!(divergence.kind, DivergenceKind::Gaussian { .. })
                    && !divergence.support.reads_token()
            }
            Signal::Mass { support, .. } | Signal::SupportSize { support } => !support.reads_token(),
            Signal::Overlap { .. }
            | Signal::Plain(PlainSignal::Position | PlainSignal::Progress | PlainSignal::Step) => true,
            _ => false,
        },
        _ => false,
    };
    !formula.live() && formula.parts().into_iter().all(of_prefix)
}

/// For each condition, whether it is ever false and ever true in these toy models.
pub(super) fn truths(conditions: &[&Formula], toys: &[ToyModel]) -> Result<Vec<[bool; 2]>, AuditRefusal> {
    let lowered = FormulaGraph::from_formulas(None, conditions)?;
    let mut seen = vec![[false; 2]; conditions.len()];
    for toy in toys {
        let evaluator = Evaluator::new(toy, &lowered, true)?;
        for outcome in toy.size.outcomes() {
            let sample = ToySample::new(toy, &outcome, true);
            for drawn in evaluator.each_draw(&sample)? {
                let DrawnValues { values, probability } = drawn?;
                if probability == 0.0 {
                    continue;
                }
                for (seen, root) in seen.iter_mut().zip(&lowered.roots) {
                    for element in 0..sample.layout.len(lowered.graph.axis(*root)) {
                        seen[usize::from(values.at(*root, element).truth())] = true;
                    }
                }
            }
        }
    }
    Ok(seen)
}
