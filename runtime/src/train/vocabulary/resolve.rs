//! Resolves the plan's signals and primitives to quantities of one step, with their parameters' values.

use mopd_expr::batch::Batch;
use mopd_expr::interpret::interpret;
use mopd_expr::summand::{Kernel, Recognized};
use mopd_expr::values::EvaluationError;
use mopd_plan::{self as plan, Axis, DivergenceKind, DivergenceParameter, Live, Role, Signal};
use tch::Device;

use super::divergence::{DivergenceSide, MixtureWeight, Pairing, StepDivergence};
use super::quantities::{Primitive, Quantity};
use super::rows::RowTemperature;
use super::summands::{CompiledSummand, StepSummand};
use crate::machine::transfer::upload;
use crate::zip::zip_equal;

/// The inputs of formulas inside divergences.
pub struct Parameters<'a> {
    /// The batch with the signals that they read; see [`plan::Divergence::signals`].
    pub batch: &'a Batch,
    pub device: Device,
}

impl Parameters<'_> {
    /// `None` for signals that are not computed from distributions.
    pub fn quantity<'p>(&self, signal: &'p Signal) -> Result<Option<Quantity<'p>>, EvaluationError> {
        Ok(match signal {
            Signal::Divergence(divergence) => {
                Some(Quantity::Primitive(Primitive::Divergence(self.divergence(divergence)?)))
            }
            _ => signal.is_from_distributions().then_some(Quantity::Signal(signal)),
        })
    }

    /// `None` for primitives that are not computed from distributions.
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
                let (summand, reversed) = self.summand(summand)?;
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
            temperature: self.temperature(&divergence.temperature)?,
            clip_each: divergence.clip_each,
            of_spans: divergence.is_of_spans(),
        })
    }

    /// The summand at this step: a kernel where it is recognized as one, else compiled; and whether the sides
    /// are reversed.
    fn summand(&self, summand: &plan::Summand) -> Result<(StepSummand, bool), EvaluationError> {
        let parameters = summand.parameters.iter().map(|parameter| self.bounded(parameter));
        let parameters = parameters.collect::<Result<Vec<StepNumbers>, EvaluationError>>()?;
        let of_step: Vec<Option<f64>> = parameters.iter().map(StepNumbers::one).collect();
        let own = summand.at((self.batch.step, self.batch.steps), &of_step).expect("the compiler has looked");
        let Some(Recognized { kernel, reversed }) = own.recognized() else {
            let parameters = parameters.iter().map(|numbers| match numbers {
                // The graph has it as a constant.
                StepNumbers::One(number) => upload(&[*number], self.device),
                StepNumbers::PerToken(numbers) => upload(numbers, self.device),
            });
            let summand = CompiledSummand::new(own, parameters.collect(), self.device);
            return Ok((StepSummand::Compiled(Box::new(summand)), false));
        };
        let summand = match kernel {
            Kernel::Kl => StepSummand::Kl,
            Kernel::Skew { lambda } => StepSummand::Skew { lambda },
            Kernel::Jsd { beta, normalized } => StepSummand::Jsd { beta, normalized },
        };
        Ok((summand, reversed))
    }

    /// The values of a summand's parameter, which must lie within its bounds.
    fn bounded(&self, parameter: &plan::SummandParameter) -> Result<StepNumbers, EvaluationError> {
        let mut numbers = self.numbers(&parameter.value)?;
        let Some((low, high)) = parameter.bounds else { return Ok(numbers) };
        let fits = |number: &f64| (low - ROUNDING..=high + ROUNDING).contains(number);
        if let Some(number) = numbers.all_mut().iter().find(|number| !fits(number)) {
            return Err(EvaluationError::Parameter {
                name: parameter.name.clone(),
                value: format!("{number}"),
                bounds: format!("from {low} to {high}"),
            });
        }
        numbers.all_mut().iter_mut().for_each(|number| *number = number.clamp(low, high));
        Ok(numbers)
    }

    /// A divisor of logits.
    fn temperature(&self, parameter: &DivergenceParameter) -> Result<RowTemperature, EvaluationError> {
        let mut numbers = self.numbers(parameter)?;
        if let Some(number) = numbers.all_mut().iter().find(|number| !(**number > 0.0 && number.is_finite()))
        {
            return Err(EvaluationError::Parameter {
                name: "temperature".to_owned(),
                value: format!("{number}"),
                bounds: "above 0".to_owned(),
            });
        }
        Ok(match self.uploaded(numbers) {
            MixtureWeight::Number(number) => RowTemperature::Number(number),
            MixtureWeight::PerToken(numbers) => RowTemperature::PerToken(numbers),
        })
    }

    fn side(&self, distribution: &plan::Distribution) -> Result<DivergenceSide, EvaluationError> {
        Ok(match distribution {
            plan::Distribution::Role(role) => {
                DivergenceSide { parts: vec![(MixtureWeight::Number(1.0), *role)], live: true }
            }
            plan::Distribution::Blend(parts) => {
                let shares = parts.iter().map(|(share, _)| self.numbers(share));
                let mut shares = shares.collect::<Result<Vec<StepNumbers>, EvaluationError>>()?;
                check_shares(&shares, parts.iter().map(|(_, role)| *role))?;
                // Shares that rounding moved outside [0, 1] would have no logarithm.
                shares
                    .iter_mut()
                    .flat_map(StepNumbers::all_mut)
                    .for_each(|share| *share = share.clamp(0.0, 1.0));
                let shares = shares.into_iter().map(|share| self.uploaded(share));
                let parts = zip_equal(shares, parts).map(|(share, (_, role))| (share, *role)).collect();
                DivergenceSide { parts, live: true }
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

    /// The weight at this step; see [`plan::Composition::signals`].
    pub fn weight(&self, parameter: &DivergenceParameter) -> Result<MixtureWeight, EvaluationError> {
        self.numbers(parameter).map(|numbers| self.uploaded(numbers))
    }

    fn uploaded(&self, numbers: StepNumbers) -> MixtureWeight {
        match numbers {
            StepNumbers::One(number) => MixtureWeight::Number(number),
            StepNumbers::PerToken(numbers) => {
                let numbers: Vec<f32> = numbers.into_iter().map(|number| number as f32).collect();
                MixtureWeight::PerToken(upload(&numbers, self.device))
            }
        }
    }

    fn numbers(&self, parameter: &DivergenceParameter) -> Result<StepNumbers, EvaluationError> {
        let DivergenceParameter::Formula(formula) = parameter else {
            return Ok(StepNumbers::One(self.number(parameter)?));
        };
        let axis = formula.graph.axis(formula.value);
        if axis <= Axis::Batch {
            return Ok(StepNumbers::One(self.number(parameter)?));
        }
        let values = interpret(&formula.graph, &[formula.value], self.batch)?;
        let (values, layout) = (values.get(formula.value), &self.batch.layout);
        let tokens = 0..layout.tokens();
        let per_token = tokens.map(|token| values[layout.parent(Axis::Token, axis, token)]).collect();
        Ok(StepNumbers::PerToken(per_token))
    }
}

/// How far rounding may take a number beyond its bounds: signals have single precision, and over large
/// vocabularies they are long sums.
const ROUNDING: f64 = 1e-5;

/// The value of a parameter at one step.
enum StepNumbers {
    One(f64),
    PerToken(Vec<f64>),
}

impl StepNumbers {
    fn one(&self) -> Option<f64> {
        match self {
            StepNumbers::One(number) => Some(*number),
            StepNumbers::PerToken(_) => None,
        }
    }

    fn all_mut(&mut self) -> &mut [f64] {
        match self {
            StepNumbers::One(number) => std::slice::from_mut(number),
            StepNumbers::PerToken(numbers) => numbers,
        }
    }

    fn at(&self, token: usize) -> f64 {
        match self {
            StepNumbers::One(number) => *number,
            StepNumbers::PerToken(numbers) => numbers[token],
        }
    }
}

/// Checks that shares are in [0, 1] and sum to 1 at every token. The checker did so for constants.
fn check_shares(shares: &[StepNumbers], roles: impl Iterator<Item = Role>) -> Result<(), EvaluationError> {
    let tokens = shares.iter().find_map(|share| match share {
        StepNumbers::One(_) => None,
        StepNumbers::PerToken(numbers) => Some(numbers.len()),
    });
    let fits = |token: &usize| {
        let of_token = || shares.iter().map(|share| share.at(*token));
        of_token().all(|share| (-ROUNDING..=1.0 + ROUNDING).contains(&share))
            && (of_token().sum::<f64>() - 1.0).abs() <= ROUNDING
    };
    let Some(token) = (0..tokens.unwrap_or(1)).find(|token| !fits(token)) else { return Ok(()) };
    let of_token: Vec<f64> = shares.iter().map(|share| share.at(token)).collect();
    let listed = |words: &[String]| match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => words.concat(),
    };
    let name = |role: Role| match role {
        Role::Scorer(_) if ![Role::TEACHER, Role::REFERENCE].contains(&role) => "a named teacher".to_owned(),
        _ => format!("`{}`", role.name()),
    };
    Err(EvaluationError::Shares {
        roles: listed(&roles.map(name).collect::<Vec<String>>()),
        shares: listed(&of_token.iter().map(|share| format!("{share:.6}")).collect::<Vec<String>>()),
        total: format!("{:.6}", of_token.iter().sum::<f64>()),
    })
}
