//! Measured gradients, and their identification with named ones.

use super::expectation::{AppliedParts, CompiledTerm};
use super::fit::{coefficients, cosine, norm, per_block};
use super::named::Named;
use super::refusal::AuditRefusal;
use super::toy_model::ToyModel;
use super::verdict::{GradientMultiple, NearestTask, Verdict};
use super::view::TermView;

/// A mean gradient below this share of the largest single outcome counts as 0.
const NOTHING: f64 = 1e-10;

/// The norm below which a gradient counts as 0. It may be far below rounding errors: sums that cancel are
/// exactly 0 already (`dual::cancelled`), and `exp(-length)` is a small weight, not 0.
pub(super) const LEAST: f64 = 1e-100;

/// A gradient in all toy models of a kind, concatenated, and the mean values.
pub(super) struct MeasuredGradient {
    pub gradient: Vec<f64>,
    pub values: Vec<f64>,
    pub largest: f64,
}

impl MeasuredGradient {
    /// Whether the gradient is 0, because outcomes cancel in the mean or have no gradient.
    pub fn is_zero(&self) -> bool {
        norm(&self.gradient) <= (NOTHING * self.largest).max(LEAST)
    }
}

pub(super) fn measure(
    view: &TermView,
    counting: AppliedParts,
    toys: &[ToyModel],
) -> Result<MeasuredGradient, AuditRefusal> {
    measured_by(&CompiledTerm::new(view, counting)?, counting, toys)
}

pub(super) fn measured_by(
    compiled: &CompiledTerm,
    counting: AppliedParts,
    toys: &[ToyModel],
) -> Result<MeasuredGradient, AuditRefusal> {
    let mut measured = MeasuredGradient { gradient: Vec::new(), values: Vec::new(), largest: 0.0 };
    for toy in toys {
        let expectation = compiled.expectation(toy, counting)?;
        measured.gradient.extend(expectation.gradient);
        measured.values.push(expectation.value);
        measured.largest = measured.largest.max(expectation.largest);
    }
    Ok(measured)
}

pub(super) fn gradients(named: &Named, toys: &[ToyModel]) -> Result<Vec<f64>, AuditRefusal> {
    let mut gradient = Vec::new();
    for toy in toys {
        gradient.extend(named.gradient(toy)?);
    }
    Ok(gradient)
}

/// The named gradients in the usual toy models.
pub(super) struct KnownGradients<'a> {
    pub named: Vec<&'a Named>,
    pub gradients: Vec<Vec<f64>>,
    /// The number of logits after one prefix.
    block: usize,
}

impl<'a> KnownGradients<'a> {
    pub fn new(
        named: &'a [Named],
        toys: &[ToyModel],
        block: usize,
    ) -> Result<KnownGradients<'a>, AuditRefusal> {
        let mut known = KnownGradients { named: Vec::new(), gradients: Vec::new(), block };
        for named in named {
            let own = gradients(named, toys)?;
            // A gradient of 0 matches nothing. A teacher equal to the student has one.
            if norm(&own) > LEAST {
                known.named.push(named);
                known.gradients.push(own);
            }
        }
        Ok(known)
    }

    /// The named gradient, the sum of named gradients, or the named gradient with a weight per prefix that
    /// equals this gradient. One is preferred to two, and better known names come first.
    pub fn identify(&self, gradient: &[f64]) -> Option<Verdict> {
        let count = self.named.len();
        let follows = |which: &[usize]| -> Option<Verdict> {
            let parts: Vec<&[f64]> = which.iter().map(|index| self.gradients[*index].as_slice()).collect();
            let times = coefficients(gradient, &parts)?;
            let part = |(index, times): (&usize, f64)| GradientMultiple {
                of: self.named[*index].name.clone(),
                times,
            };
            Some(Verdict::Follows { parts: which.iter().zip(times).map(part).collect() })
        };
        let single = (0..count).find_map(|a| follows(&[a]));
        let pair =
            || (0..count).flat_map(|a| (a + 1..count).map(move |b| [a, b])).find_map(|which| follows(&which));
        let weighted = || {
            self.named.iter().zip(&self.gradients).find_map(|(named, own)| {
                let (least, most) = per_block(gradient, own, self.block)?;
                Some(Verdict::Weighted { of: named.name.clone(), least, most })
            })
        };
        let few = count.min(8);
        let triple = || {
            (0..few)
                .flat_map(|a| (a + 1..few).flat_map(move |b| (b + 1..few).map(move |c| [a, b, c])))
                .find_map(|which| follows(&which))
        };
        single.or_else(pair).or_else(weighted).or_else(triple)
    }

    /// The only named gradient of which this gradient is a multiple.
    pub fn multiple_of(&self, gradient: &[f64]) -> Option<String> {
        let own = self
            .named
            .iter()
            .zip(&self.gradients)
            .find(|(_, own)| coefficients(gradient, &[own.as_slice()]).is_some());
        own.map(|(named, _)| named.name.clone())
    }

    pub fn nearest(&self, gradient: &[f64]) -> (String, f64) {
        self.nearest_of(gradient, |_| true)
    }

    pub fn nearest_of(&self, gradient: &[f64], which: impl Fn(&Named) -> bool) -> (String, f64) {
        let some = self.named.iter().zip(&self.gradients).filter(|(named, _)| which(named));
        let all = some.map(|(named, own)| (named.name.clone(), cosine(gradient, own)));
        all.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).unwrap_or_default()
    }

    /// The named gradient nearest to this one, among those that read no teacher.
    pub fn task(&self, gradient: &[f64]) -> NearestTask {
        let own = self.named.iter().zip(&self.gradients).filter(|(named, _)| !named.teaches);
        let near = own.map(|(named, own)| (named.name.clone(), cosine(gradient, own)));
        // Smaller cosines are no resemblance.
        let near = near.filter(|(_, cosine)| cosine.abs() > 0.5);
        let (nearest, cosine) = near.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs())).unwrap_or_default();
        NearestTask { reads_teacher: false, nearest, cosine }
    }
}
