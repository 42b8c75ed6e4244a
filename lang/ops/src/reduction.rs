//! Reductions of many numbers to one. To add one, add a variant, its entry in [`Reduction::definition`], and
//! its update for one more number.

use serde::{Deserialize, Serialize};

use crate::entry::{OperatorEntry, same};
use crate::statistic::{centred, quantile, variance};
use crate::{Deviation, Function, Unit, maximum, minimum};

/// A reduction of many numbers to one. For none, the result is [`Reduction::of_none`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    Sum,
    Mean,
    Minimum,
    Maximum,
    First,
    Last,
    /// True if some element is true.
    Any,
    /// True if every element is true.
    All,
    /// The number of true elements.
    Count,
    /// Interpolated linearly between the two elements around `q * (n - 1)`.
    Quantile {
        q: f64,
    },
    /// The standard deviation; 0 where all are equal.
    Stddev {
        deviation: Deviation,
    },
}

/// The unit of a mean: a fraction for bools.
fn averaged(of: Unit) -> Unit {
    if of == Unit::Bool { Unit::Fraction } else { of }
}

impl Reduction {
    /// One reduction of each kind, for tests. Their arguments are placeholders.
    pub const EACH: [Reduction; 11] = [
        Reduction::Mean,
        Reduction::Sum,
        Reduction::Minimum,
        Reduction::Maximum,
        Reduction::First,
        Reduction::Last,
        Reduction::Any,
        Reduction::All,
        Reduction::Count,
        Reduction::Quantile { q: 0.5 },
        Reduction::Stddev { deviation: Deviation::Sample },
    ];

    pub fn definition(self) -> OperatorEntry {
        /// For elements of any unit, which the result keeps.
        const USUAL: OperatorEntry = OperatorEntry { name: "", usage: "", doc: "", unit: same };
        match self {
            Reduction::Sum => OperatorEntry {
                name: "sum",
                usage: "sum(x, over: sequence), or sum([a, b], weights: [0.7, 0.3])",
                doc: "The sum along an axis; of teachers, the weighted sum of their losses.",
                unit: |of| if of == Unit::Bool { Unit::Count } else { of },
            },
            Reduction::Mean => OperatorEntry {
                name: "mean",
                usage: "mean(x, over: sequence)",
                doc: "The mean along an axis.",
                unit: averaged,
            },
            // Documented with the elementwise functions.
            Reduction::Minimum => OperatorEntry { name: Function::Minimum.name(), ..USUAL },
            Reduction::Maximum => OperatorEntry { name: Function::Maximum.name(), ..USUAL },
            Reduction::First => OperatorEntry {
                name: "first",
                usage: "first(x, over: sequence)",
                doc: "The first element along an axis.",
                ..USUAL
            },
            Reduction::Last => OperatorEntry {
                name: "last",
                usage: "last(x, over: sequence)",
                doc: "The last element along an axis.",
                ..USUAL
            },
            Reduction::Any => OperatorEntry {
                name: "any",
                usage: "any(condition, over: group)",
                doc: "Whether some element is true.",
                ..USUAL
            },
            Reduction::All => OperatorEntry {
                name: "all",
                usage: "all(condition, over: group)",
                doc: "Whether every element is true.",
                ..USUAL
            },
            Reduction::Count => OperatorEntry {
                name: "count",
                usage: "count(correct, over: group)",
                doc: "How many elements are true.",
                unit: |_| Unit::Count,
            },
            Reduction::Quantile { .. } => OperatorEntry {
                name: "quantile",
                usage: "quantile(x, 0.9, over: batch)",
                doc: "The `q` quantile along an axis, interpolated linearly.",
                unit: averaged,
            },
            Reduction::Stddev { .. } => OperatorEntry {
                name: "stddev",
                usage: "stddev(x, over: group, deviation: sample)",
                doc: "The standard deviation along an axis, divided by n (`population`) or n - 1 (`sample`); \
                      0 where all are equal.",
                unit: |of| if of == Unit::Bool { Unit::Fraction } else { centred(of) },
            },
        }
    }

    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// The same with another number as its fraction, if it has one: NaN, or the nearest one from 0 to 1.
    pub fn with_fraction(self, fraction: f64) -> Reduction {
        match self {
            Reduction::Quantile { .. } => Reduction::Quantile { q: fraction.clamp(0.0, 1.0) },
            other => other,
        }
    }

    /// Whether it accepts only bools.
    pub fn of_truths(self) -> bool {
        matches!(self, Reduction::Any | Reduction::All | Reduction::Count)
    }

    /// The result for no elements, in all implementations: true for `all`, as false for `any`. Where there is
    /// no value, as for a mean, it is 0, so that a completion without selected tokens adds nothing.
    pub fn of_none(self) -> f64 {
        if self == Reduction::All { 1.0 } else { 0.0 }
    }

    /// The accumulator after one more element; `first` marks the first one. Elements are accumulated in
    /// order, from [`Reduction::of_none`]. `None` for a reduction that needs all elements at once.
    #[inline]
    pub fn step(self, so_far: f64, first: bool, x: f64) -> Option<f64> {
        let truth = |holds: bool| f64::from(u8::from(holds));
        Some(match self {
            Reduction::Sum | Reduction::Mean => so_far + x,
            Reduction::Minimum | Reduction::Maximum | Reduction::First if first => x,
            Reduction::Minimum => minimum(so_far, x),
            Reduction::Maximum => maximum(so_far, x),
            Reduction::First => so_far,
            Reduction::Last => x,
            // Every number but 0 is true, also NaN.
            Reduction::Count => so_far + truth(x != 0.0),
            Reduction::Any => truth(so_far != 0.0 || x != 0.0),
            Reduction::All => truth(so_far != 0.0 && x != 0.0),
            Reduction::Quantile { .. } | Reduction::Stddev { .. } => return None,
        })
    }

    /// Whether it needs all elements at once: [`Reduction::step`] has no accumulator for it.
    pub fn needs_all(self) -> bool {
        matches!(self, Reduction::Quantile { .. } | Reduction::Stddev { .. })
    }

    /// The result from the accumulator of all elements.
    pub fn finish(self, so_far: f64, count: u32) -> f64 {
        if self == Reduction::Mean { so_far / f64::from(count.max(1)) } else { so_far }
    }

    /// The reduction of all elements.
    pub fn value(self, values: &[f64]) -> f64 {
        match self {
            Reduction::Quantile { q } if !values.is_empty() => quantile(values, q),
            Reduction::Stddev { deviation } if !values.is_empty() => variance(values, deviation).sqrt(),
            _ => {
                let mut so_far = self.of_none();
                for (index, x) in values.iter().enumerate() {
                    so_far = self.step(so_far, index == 0, *x).unwrap_or(so_far);
                }
                self.finish(so_far, values.len() as u32)
            }
        }
    }

    pub fn gradient(self) -> ReductionGradient {
        let to = |receivers, divided| ReductionGradient::To { receivers, divided };
        match self {
            Reduction::Sum => to(Receivers::All, false),
            Reduction::Mean => to(Receivers::All, true),
            Reduction::Minimum | Reduction::Maximum => to(Receivers::Attaining, true),
            Reduction::First => to(Receivers::First, false),
            Reduction::Last => to(Receivers::Last, false),
            Reduction::Any | Reduction::All | Reduction::Count => ReductionGradient::Zero,
            Reduction::Quantile { .. } | Reduction::Stddev { .. } => ReductionGradient::Refused,
        }
    }

    /// The derivative of the value by each element; `None` where no gradient passes.
    pub fn partials(self, values: &[f64]) -> Option<Vec<f64>> {
        let ReductionGradient::To { receivers, divided } = self.gradient() else { return None };
        let result = self.value(values);
        let receives = |(index, value): (usize, &f64)| match receivers {
            Receivers::All => true,
            Receivers::First => index == 0,
            Receivers::Last => index + 1 == values.len(),
            Receivers::Attaining => *value == result,
        };
        let receives: Vec<bool> = values.iter().enumerate().map(receives).collect();
        let count = receives.iter().filter(|receives| **receives).count();
        let share = if divided { 1.0 / count.max(1) as f64 } else { 1.0 };
        Some(receives.into_iter().map(|receives| if receives { share } else { 0.0 }).collect())
    }
}

/// How the gradient of a reduction is distributed, in all implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReductionGradient {
    /// The gradient is 0 almost everywhere.
    Zero,
    /// A gradient is not supported.
    Refused,
    /// To some elements: the whole gradient to each, or divided by their number.
    To { receivers: Receivers, divided: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivers {
    All,
    First,
    Last,
    /// The elements that equal the result.
    Attaining,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_agree_with_central_differences() {
        const STEP: f64 = 1e-6;
        let values = [0.5, -1.25, 2.0, 0.75];
        for reduction in Reduction::EACH {
            let Some(gradient) = reduction.partials(&values) else { continue };
            for (index, partial) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut values = values;
                    values[index] += by;
                    reduction.value(&values)
                };
                let derivative = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                assert!(
                    (derivative - partial).abs() < 1e-7,
                    "{reduction:?} by {index}: {derivative} {partial}"
                );
            }
        }
    }

    #[test]
    fn a_standard_deviation_matches_known_values() {
        let stddev = |deviation, values: &[f64]| Reduction::Stddev { deviation }.value(values);
        assert_eq!(stddev(Deviation::Sample, &[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(stddev(Deviation::Population, &[1.0, 3.0]), 1.0);
        assert_eq!([Deviation::Sample, Deviation::Population].map(|by| stddev(by, &[0.1; 3])), [0.0; 2]);
        assert_eq!(stddev(Deviation::Sample, &[7.0]), 0.0);
        assert!(stddev(Deviation::Population, &[1.0, f64::NAN]).is_nan());
        assert!(stddev(Deviation::Sample, &[f64::NAN]).is_nan());
    }

    #[test]
    fn reduction_over_no_elements_is_its_identity() {
        for reduction in Reduction::EACH {
            assert_eq!(reduction.value(&[]), reduction.of_none(), "{reduction:?}");
        }
    }
}
