//! The exact expected gradient of a term in a toy model: the mean of its derivative over everything that can
//! be drawn. Sampling is not differentiated: prefixes and samples are constants, as in trainers.

use mopd_experiment::formula::{Axis, Formula};

use super::dual::Dual;
use super::evaluate::{DrawnValues, Evaluator, NodeValues};
use super::leaves::{ToySample, reward};
use super::lengths::TokenShares;
use super::refusal::AuditRefusal;
use super::size::Outcome;
use super::toy_model::ToyModel;
use super::view::TermView;
use crate::lower::FormulaGraph;

/// The parts of a term that are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppliedParts {
    /// `clip`, and `min` and `max` with a bound.
    pub bounds: bool,
    /// `select`, `weight` and `when`.
    pub gates: bool,
}

pub(super) const ALL: AppliedParts = AppliedParts { bounds: true, gates: true };

/// A term lowered for evaluation.
pub(super) struct CompiledTerm {
    lowered: FormulaGraph,
    /// The finest axis of value, factors and masks.
    axis: Axis,
    /// The number of conditions (`when`, `filter`), which are the last roots.
    conditions: usize,
    kept: bool,
    /// The reduction of the elements; `None` where each counts the same.
    reduction: Option<TokenShares>,
}

/// Expected gradient and value of a term.
pub(super) struct Expectation {
    /// The derivative by the student's logits, prefix after prefix, per token that follows the prefix. 0
    /// after prefixes that never occur.
    pub gradient: Vec<f64>,
    /// The mean over the term's own elements.
    pub value: f64,
    /// The largest derivative of any single outcome.
    pub largest: f64,
}

impl CompiledTerm {
    /// # Errors
    /// A description of the first construct that a graph can't express.
    pub fn new(view: &TermView, counting: AppliedParts) -> Result<CompiledTerm, AuditRefusal> {
        let gates = counting.gates;
        let factors = view.weight.into_iter().chain(view.own_weight).filter(|_| gates);
        let conditions: Vec<&Formula> = view.when.into_iter().chain(view.samples.filter).collect();
        let conditions = if gates { conditions } else { Vec::new() };
        let roots: Vec<&Formula> =
            std::iter::once(view.value).chain(factors).chain(conditions.iter().copied()).collect();
        let lowered = FormulaGraph::from_formulas(view.select.filter(|_| gates), &roots)?;
        let all = lowered.roots.iter().chain(&lowered.select);
        let axis = all.map(|root| lowered.graph.axis(*root)).max().unwrap_or(Axis::Token);
        let kept = view.samples.kept && gates;
        Ok(CompiledTerm { lowered, axis, conditions: conditions.len(), kept, reduction: None })
    }

    /// The term as its `reduce` averages it.
    pub fn reduced(self, shares: TokenShares) -> CompiledTerm {
        let graph = &self.lowered.graph;
        let axis = self.lowered.roots.iter().map(|root| graph.axis(*root)).max();
        let axis = axis.map_or(shares.start(), |axis| axis.max(shares.start()));
        CompiledTerm { axis, reduction: Some(shares), ..self }
    }

    /// # Errors
    /// A description of what the toy model lacks, or of numbers that are not finite.
    pub fn expectation(&self, toy: &ToyModel, counting: AppliedParts) -> Result<Expectation, AuditRefusal> {
        self.mean(toy, counting, toy.size.outcomes().map(|outcome| (outcome, 1.0)))
    }

    /// [`Self::expectation`], from outcomes that stand for several which differ only in the order of
    /// completions.
    ///
    /// # Errors
    /// A description of what the toy model lacks, or of numbers that are not finite.
    pub fn unordered_expectation(&self, toy: &ToyModel) -> Result<Expectation, AuditRefusal> {
        self.mean(toy, ALL, toy.size.unordered_outcomes().into_iter())
    }

    /// The mean over outcomes, each of which stands for this many.
    fn mean(
        &self,
        toy: &ToyModel,
        counting: AppliedParts,
        outcomes: impl Iterator<Item = (Outcome, f64)>,
    ) -> Result<Expectation, AuditRefusal> {
        let size = toy.size;
        let evaluator = Evaluator::new(toy, &self.lowered, counting.bounds)?;
        let mut gradient = vec![0.0; size.logits()];
        let mut visits = vec![0.0; size.prefixes()];
        let (mut value, mut elements, mut largest) = (0.0, 0.0, 0.0f64);
        let own_axis = self.lowered.graph.axis(self.lowered.roots[0]);
        for (outcome, times) in outcomes {
            let sample = ToySample::new(toy, &outcome, counting.bounds);
            let probability = times * sample.probability();
            if probability == 0.0 {
                continue;
            }
            sample.prefixes().for_each(|prefix| visits[prefix] += probability);
            elements += probability * sample.layout.len(own_axis) as f64;
            let total = self.total(&evaluator, &sample)?;
            if !total.is_finite() {
                return Err(AuditRefusal::NotFinite);
            }
            value += probability * total.value;
            for (sum, partial) in gradient.iter_mut().zip(&total.gradient) {
                *sum += probability * partial;
                largest = largest.max(partial.abs());
            }
        }
        for (prefix, visits) in visits.into_iter().enumerate() {
            let own = &mut gradient[prefix * size.vocabulary..(prefix + 1) * size.vocabulary];
            own.iter_mut().for_each(|partial| *partial = if visits > 0.0 { *partial / visits } else { 0.0 });
        }
        Ok(Expectation { gradient, value: value / elements, largest })
    }

    /// The derivative of every outcome, by the student's logits.
    ///
    /// # Errors
    /// A description of what the toy model lacks.
    pub fn derivatives(&self, toy: &ToyModel, counting: AppliedParts) -> Result<Vec<Vec<f64>>, AuditRefusal> {
        let evaluator = Evaluator::new(toy, &self.lowered, counting.bounds)?;
        let of = |outcome: Outcome| {
            let sample = ToySample::new(toy, &outcome, counting.bounds);
            self.total(&evaluator, &sample).map(|total| total.gradient)
        };
        toy.size.outcomes().map(of).collect()
    }

    /// The number of outcomes whose value and gradient are finite, and that of all outcomes that can be
    /// drawn.
    ///
    /// # Errors
    /// A description of what the toy model lacks.
    pub fn finite_outcomes(
        &self,
        toy: &ToyModel,
        counting: AppliedParts,
    ) -> Result<(usize, usize), AuditRefusal> {
        let evaluator = Evaluator::new(toy, &self.lowered, counting.bounds)?;
        let (mut finite, mut outcomes) = (0, 0);
        for outcome in toy.size.outcomes() {
            let sample = ToySample::new(toy, &outcome, counting.bounds);
            if sample.probability() > 0.0 {
                outcomes += 1;
                finite += usize::from(self.total(&evaluator, &sample)?.is_finite());
            }
        }
        Ok((finite, outcomes))
    }

    /// The sum over the term's own elements of one sample, in the mean over its random draws.
    fn total(&self, evaluator: &Evaluator, sample: &ToySample) -> Result<Dual, AuditRefusal> {
        let mut mean: Option<Dual> = None;
        for drawn in evaluator.each_draw(sample)? {
            let DrawnValues { values, probability } = drawn?;
            if probability == 0.0 {
                continue;
            }
            let total = self.of_draw(&values, sample).scale(probability);
            mean = Some(mean.map_or(total.clone(), |mean| mean.add(&total)));
        }
        Ok(mean.expect("some result of the draws is possible"))
    }

    /// The sum over the term's own elements of one sample with its random draws.
    fn of_draw(&self, values: &NodeValues, sample: &ToySample) -> Dual {
        let FormulaGraph { graph, select, roots, .. } = &self.lowered;
        let (layout, axis) = (&sample.layout, self.axis);
        let (factors, conditions) = roots[1..].split_at(roots.len() - 1 - self.conditions);
        let selected =
            |token: usize| select.is_none_or(|select| values.around(select, Axis::Token, token).truth());
        let kept = |index: usize| {
            if !self.kept {
                return true;
            }
            let sequence = layout.parent(axis.max(Axis::Sequence), Axis::Sequence, index);
            reward(sample.toy, sample.toy.size.prompt(sequence), &sample.outcome[sequence]) >= 1.0
        };
        let elements = layout.len(axis);
        let chosen = |index: usize| {
            select.is_none()
                || (0..sample.tokens())
                    .any(|token| layout.parent(Axis::Token, axis, token) == index && selected(token))
        };
        let applies =
            |index: usize| conditions.iter().all(|condition| values.around(*condition, axis, index).truth());
        // A coarse term that is broadcast to finer elements counts once.
        let once = layout.len(graph.axis(roots[0])) as f64 / elements as f64;
        let shares = self.reduction.as_ref().map(|reduction| {
            let counted: Vec<bool> = (0..elements).map(chosen).collect();
            let applies = (0..elements).map(|index| counted[index] && applies(index)).collect();
            reduction.of_elements(layout, axis, counted, applies)
        });
        let mut total = Dual::plain(0.0);
        for index in 0..elements {
            if !chosen(index) || !kept(index) || !applies(index) {
                continue;
            }
            let share = shares.as_ref().map_or(once, |shares| shares[index]);
            let value = values.around(roots[0], axis, index).scale(share);
            let weighted = factors
                .iter()
                .fold(value, |value, factor| value.multiply(values.around(*factor, axis, index)));
            total = total.add(&weighted);
        }
        total
    }
}
