//! Statistics over a group or a batch. Toy models have two or three peers, real batches many. What a number
//! of few peers does to the gradient may vanish with their number.

use mopd_experiment::formula::{Axis, FormulaKind, FormulaNode};

use super::expectation::{ALL, CompiledTerm};
use super::fit::per_prefix;
use super::judge::Query;
use super::known::KnownGradients;
use super::size::Size;
use super::toy_model::{ToyModelSpec, Variation};
use super::verdict::Verdict;

/// The most outcomes of the larger toy model, up to the order of completions.
const MOST_OUTCOMES: f64 = 3_500.0;

/// A distance below this is not reported.
const NOTICED: f64 = 0.01;

/// A cosine this far from 1 is not that of the named gradient itself.
const EXACT: f64 = 1e-6;

/// The named gradient that a verdict is compared with: of a mixture, the first one. `None` if it is exactly
/// one.
fn nearest(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Biased { of, .. } => of.one_gradient().or_else(|| nearest(of)),
        Verdict::Unnamed { nearest, .. } => Some(nearest),
        Verdict::Task(task) if task.cosine.abs() < 1.0 - EXACT => Some(&task.nearest),
        Verdict::Follows { parts } if parts.len() > 1 => Some(&parts[0].of),
        Verdict::ByLength { of_two, .. } => nearest(of_two),
        _ => None,
    }
}

impl Query<'_> {
    /// How far a biased gradient is from the named one with few and with twice as many peers, up to a weight
    /// per prefix.
    pub(super) fn with_more_peers(&self, verdict: &Verdict) -> Option<String> {
        let of = nearest(verdict)?;
        let (what, [few, many]) = self.peers()?;
        let (near, far) = (self.angle(few, of)?, self.angle(many, of)?);
        if near.max(far) < NOTICED {
            return None;
        }
        let more = many.sequences() as f64 / few.sequences() as f64;
        let trend = match far / near {
            // In proportion to 1 / n, up to what is due to so few peers.
            ratio if ratio < 2.0 / more.max(2.7) => format!("this vanishes with the size of the {what}"),
            ratio if ratio > 0.9 => format!("this does not vanish with the size of the {what}"),
            _ => format!("this becomes less with the size of the {what}"),
        };
        let each = |size: Size| size.sequences() / size.prompts;
        Some(format!(
            "it compares across a {what}; up to a weight per prefix it is {:.1}% away with {} completions of a \
             prompt, {:.1}% with {}: {trend}",
            100.0 * near,
            each(few),
            100.0 * far,
            each(many)
        ))
    }

    /// What is compared, and the sizes of two toy models: with few peers, and with many more.
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
        if !self.spec.supports.is_empty() {
            return None;
        }
        let own = self.spec.size;
        let size =
            Size { vocabulary: 3, prompts: if own.length == 1 { own.prompts.min(2) } else { 1 }, ..own };
        let batch = over(&[Axis::Batch, Axis::Domain, Axis::Run]);
        let sized = |count: usize| match batch {
            true => Size { repeats: count, ..size },
            false => Size { samples: count, ..size },
        };
        let what = match () {
            () if batch && size.samples == 1 && size.domains == 1 => "batch",
            () if !batch && over(&[Axis::Group]) => "group",
            () => return None,
        };
        let few = sized(if batch { 3 - size.prompts } else { size.samples.max(2) });
        let grown = [8, 6, 4, 3].into_iter().map(|factor| sized(factor * few.sequences() / few.prompts));
        let many = { grown }.find(|size| size.unordered_count() <= MOST_OUTCOMES)?;
        Some((what, [few, many]))
    }

    /// The distance from the nearest gradient that is the named one up to a weight per prefix.
    fn angle(&self, size: Size, of: &str) -> Option<f64> {
        let spec = ToyModelSpec { size, toys: 1, ..self.spec.clone() };
        let query = Query { view: self.view.with_value(self.view.value), spec };
        let toys = query.spec.toys(Variation::Usual);
        let term = CompiledTerm::new(&query.view, ALL).ok()?;
        let gradient = term.unordered_expectation(&toys[0]).ok()?.gradient;
        let named = query.candidates();
        let known = KnownGradients::new(&named, &toys, query.block()).ok()?;
        let place = known.named.iter().position(|named| named.name == of)?;
        Some(per_prefix(&gradient, &known.gradients[place], query.block()))
    }
}
