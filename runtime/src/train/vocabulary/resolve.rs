//! From the plan's signals and primitives to what is computed at one step: parameters that move have a value.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::expr::interpret::interpret;
use mopd_compiler::expr::summand::{Kernel, Recognized};
use mopd_compiler::expr::values::EvaluationError;
use mopd_compiler::plan::{self, Axis, DivergenceKind, DivergenceParameter, Live, Signal};
use tch::Device;

use super::super::spans::is_of_spans;
use super::divergence::{DivergenceSide, MixtureWeight, Pairing, StepDivergence};
use super::quantities::{Primitive, Quantity};
use super::summands::{CompiledSummand, StepSummand};
use crate::machine::transfer::upload;

/// What formulas inside divergences are computed from.
pub struct Parameters<'a> {
    /// With the signals that they read; see [`plan::Divergence::signals`].
    pub batch: &'a Batch,
    pub device: Device,
}

impl Parameters<'_> {
    /// None for signals that do not come from distributions.
    pub fn quantity<'p>(&self, signal: &'p Signal) -> Result<Option<Quantity<'p>>, EvaluationError> {
        Ok(Some(match signal {
            Signal::Logp { role } => Quantity::Logp(*role),
            Signal::EndLogp { role } => Quantity::EndLogp(*role),
            Signal::Entropy { role } => Quantity::Entropy(*role),
            Signal::Top1 { role } => Quantity::Top1(*role),
            Signal::Rank { role } => Quantity::Rank(*role),
            Signal::Overlap { left, right, k } => Quantity::Overlap { left: *left, right: *right, k: *k },
            Signal::Mass { role, support } => Quantity::Mass { role: *role, support },
            Signal::InNucleus { role, p } => Quantity::InNucleus { role: *role, p: *p },
            Signal::SupportSize { support } => Quantity::SupportSize(support),
            Signal::Divergence(divergence) => {
                Quantity::Primitive(Primitive::Divergence(self.divergence(divergence)?))
            }
            Signal::Position
            | Signal::InSpan { .. }
            | Signal::Value { .. }
            | Signal::Accepted
            | Signal::Head
            | Signal::Confidence
            | Signal::Offset
            | Signal::Length
            | Signal::Truncated
            | Signal::Reward
            | Signal::Correct
            | Signal::Chosen
            | Signal::Progress
            | Signal::Step
            | Signal::Loss
            | Signal::TermLoss { .. }
            | Signal::State { .. }
            | Signal::ValidationLoss
            | Signal::OfSteps { .. }
            | Signal::RecordedLogp { .. }
            | Signal::Measured { .. }
            | Signal::VocabularySize
            | Signal::Data { .. }
            | Signal::DataIs { .. }
            | Signal::Uniform { .. }
            | Signal::Available { .. }
            | Signal::CorrectOf { .. }
            | Signal::Agreement { .. }
            | Signal::StatedConfidence { .. }
            | Signal::RewardPart { .. }
            | Signal::Other { .. } => return Ok(None),
        }))
    }

    /// None for what does not come from distributions.
    pub fn primitive<'p>(&self, live: &'p Live) -> Result<Option<Primitive<'p>>, EvaluationError> {
        Ok(Some(match live {
            Live::Logp => Primitive::Logp,
            Live::Value | Live::ConfidenceLogit => return Ok(None),
            Live::EndLogp => Primitive::EndLogp,
            Live::Divergence(divergence) => Primitive::Divergence(self.divergence(divergence)?),
            Live::Likelihood { of } => Primitive::Likelihood { of: *of },
            Live::Ranking { role, k } => Primitive::Ranking { role: *role, k: *k },
            Live::Other { text } => return Err(EvaluationError::MissingSignal { signal: text.clone() }),
        }))
    }

    pub fn divergence<'p>(
        &self,
        divergence: &'p plan::Divergence,
    ) -> Result<StepDivergence<'p>, EvaluationError> {
        let (pairing, reversed) = match &divergence.kind {
            DivergenceKind::Kl => (Pairing::Entrywise(StepSummand::Kl), false),
            DivergenceKind::SortedL1 => (Pairing::Sorted, false),
            DivergenceKind::Entrywise(summand) => {
                let (summand, reversed) = self.summand(summand);
                (Pairing::Entrywise(summand), reversed)
            }
        };
        let sides = (self.side(&divergence.left)?, self.side(&divergence.right)?);
        let (left, right) = if reversed { (sides.1, sides.0) } else { sides };
        Ok(StepDivergence {
            pairing,
            left,
            right,
            support: &divergence.support,
            mass: divergence.mass,
            temperature: divergence.temperature,
            clip_each: divergence.clip_each,
            of_spans: is_of_spans(divergence),
        })
    }

    /// As it is at this step: by a kernel, if there is one for what it is, maybe with the sides the other way
    /// round.
    fn summand(&self, summand: &plan::Summand) -> (StepSummand, bool) {
        let own = summand.at(self.batch.step, self.batch.steps).expect("the compiler has looked");
        let Some(Recognized { kernel, reversed }) = own.recognized() else {
            return (StepSummand::Compiled(Box::new(CompiledSummand::new(own))), false);
        };
        let summand = match kernel {
            Kernel::Kl => StepSummand::Kl,
            Kernel::Skew { lambda } => StepSummand::Skew { lambda },
            Kernel::Jsd { beta, normalized } => StepSummand::Jsd { beta, normalized },
        };
        (summand, reversed)
    }

    fn side(&self, distribution: &plan::Distribution) -> Result<DivergenceSide, EvaluationError> {
        Ok(match distribution {
            plan::Distribution::Role(role) => {
                DivergenceSide { parts: vec![(MixtureWeight::Number(1.0), *role)], live: true }
            }
            plan::Distribution::Blend(parts) => {
                let parts = parts.iter().map(|(weight, role)| Ok((self.weight(weight)?, *role)));
                DivergenceSide { parts: parts.collect::<Result<_, EvaluationError>>()?, live: true }
            }
            plan::Distribution::Detached(inner) => DivergenceSide { live: false, ..self.side(inner)? },
        })
    }

    /// One number for the whole step.
    fn number(&self, parameter: &DivergenceParameter) -> Result<f64, EvaluationError> {
        Ok(match parameter {
            DivergenceParameter::Number(value) => *value,
            DivergenceParameter::Formula(formula) => {
                interpret(&formula.graph, &[formula.value], self.batch)?.get(formula.value)[0]
            }
        })
    }

    /// As it is at this step; see [`plan::Composition::signals`].
    pub fn weight(&self, parameter: &DivergenceParameter) -> Result<MixtureWeight, EvaluationError> {
        let DivergenceParameter::Formula(formula) = parameter else {
            return Ok(MixtureWeight::Number(self.number(parameter)?));
        };
        let axis = formula.graph.axis(formula.value);
        if axis <= Axis::Batch {
            return Ok(MixtureWeight::Number(self.number(parameter)?));
        }
        let values = interpret(&formula.graph, &[formula.value], self.batch)?;
        let (values, layout) = (values.get(formula.value), &self.batch.layout);
        let per_token: Vec<f32> = (0..layout.tokens())
            .map(|token| values[layout.parent(Axis::Token, axis, token)] as f32)
            .collect();
        Ok(MixtureWeight::PerToken(upload(&per_token, self.device)))
    }
}
