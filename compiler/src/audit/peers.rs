//! Statistics over a group or a batch. Toy models have two or three peers, real batches many. What a number of
//! few peers does to the gradient may vanish with their number.

use mopd_lang::formula::{Axis, FormulaKind, FormulaNode};

use super::expectation::ALL;
use super::fit::per_prefix;
use super::judge::Query;
use super::known::{KnownGradients, measure};
use super::size::Size;
use super::toy_model::{ToyModelSpec, Variation};
use super::verdict::Verdict;

/// The most outcomes of the larger toy model.
const MOST_OUTCOMES: usize = 7_000;

/// A distance below this is rounding error.
const NOTICED: f64 = 1e-6;

impl Query<'_> {
    /// How far a biased gradient is from the named one with few and with twice as many peers, up to a weight
    /// per prefix.
    pub(super) fn with_more_peers(&self, verdict: &Verdict) -> Option<String> {
        let of = match verdict {
            Verdict::Biased { of, .. } => of.one_gradient()?,
            Verdict::Unnamed { nearest, .. } => nearest,
            Verdict::Task(task) if task.cosine.abs() < 1.0 - NOTICED => &task.nearest,
            _ => return None,
        };
        let (what, [few, many]) = self.peers()?;
        let (near, far) = (self.angle(few, of)?, self.angle(many, of)?);
        if near < NOTICED {
            return None;
        }
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let counts = [few, many].map(|size| if what == "group" { size.samples } else { size.sequences() });
        let seen =
            format!("{} away with {} of them, {} with {}", percent(near), counts[0], percent(far), counts[1]);
        let trend = match far / near {
            ratio if ratio < 0.75 => format!("this vanishes with the size of the {what}"),
            ratio if ratio > 0.9 => format!("this does not vanish with the size of the {what}"),
            _ => format!("this becomes less with the size of the {what}"),
        };
        Some(format!("it compares across a {what}; up to a weight per prefix it is {seen}: {trend}"))
    }

    /// What is compared, and the sizes of two toy models with peers: usual ones, and twice as many.
    fn peers(&self) -> Option<(&'static str, [Size; 2])> {
        let over = |wanted: &[Axis]| {
            self.view.any(|node: &FormulaNode| match &node.kind {
                FormulaKind::Reduce { operand, .. } => {
                    wanted.contains(&node.axis) && operand.axis() > node.axis
                }
                FormulaKind::Statistic { over, .. } => wanted.contains(over),
                _ => false,
            })
        };
        let size = Size { vocabulary: self.spec.size.vocabulary.min(3), ..self.spec.size };
        let (what, many) = match () {
            () if over(&[Axis::Batch, Axis::Domain, Axis::Run]) => ("batch", Size { repeats: 2, ..size }),
            () if over(&[Axis::Group]) => ("group", Size { samples: 2 * size.samples, ..size }),
            () => return None,
        };
        let fits = self.spec.supports.is_empty() && many.outcome_count() <= MOST_OUTCOMES;
        fits.then_some((what, [size, many]))
    }

    /// The distance from the nearest gradient that is the named one up to a weight per prefix.
    fn angle(&self, size: Size, of: &str) -> Option<f64> {
        let spec = ToyModelSpec { size, toys: 1, ..self.spec.clone() };
        let query = Query { view: self.view.with_value(self.view.value), spec };
        let toys = query.spec.toys(Variation::Usual);
        let gradient = measure(&query.view, ALL, &toys).ok()?.gradient;
        let named = query.candidates();
        let known = KnownGradients::new(&named, &toys, query.block()).ok()?;
        let place = known.named.iter().position(|named| named.name == of)?;
        Some(per_prefix(&gradient, &known.gradients[place], query.block()))
    }
}
