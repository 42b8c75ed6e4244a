//! The second and later updates from a batch. Since its tokens were drawn, the student has changed: a weight
//! has to correct for that, and a number of the old policy is no longer one of the student's.
//!
//! The gradient is compared with that of completions that the student would draw now, at the same student.

use mopd_experiment::formula::{FormulaKind, FormulaNode, Role};
use serde::Serialize;

use super::expectation::{ALL, AppliedParts};
use super::fit::{cosine, difference, distance, norm};
use super::judge::Query;
use super::known::{KnownGradients, LEAST, measure};
use super::refusal::AuditRefusal;
use super::toy_model::{Drift, Variation};
use super::verdict::{Verdict, distance_text};

/// Whether the node reads the student before the first update from the batch, which drew the tokens: `ratio`
/// and `sampler` do.
pub(super) fn reads_old(node: &FormulaNode) -> bool {
    match &node.kind {
        FormulaKind::Signal(signal) => {
            signal.roles().iter().any(|role| matches!(role, Role::Old | Role::Sampler))
        }
        _ => false,
    }
}

/// A relative distance below this is rounding error.
const EXACT: f64 = 1e-8;

/// A drift so small that no bound around 1 acts. The distance of the gradients is proportional to it.
const SMALL: f64 = 1e-5;

/// A term is stale if the weight of single tokens leaves the gradient further away than this, at a moderate
/// drift. Without any weight it is about 20%.
const STALE: f64 = 0.15;

/// The same for a ratio over completions.
const OF_COMPLETIONS: f64 = 0.4;

/// What the gradient follows in later updates from a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaterUpdates {
    /// The gradient of completions that the student would draw now.
    Same,
    /// Another one that has a name, or none at all.
    Follows(Box<Verdict>),
    /// The relative distance from the gradient of completions that the student would draw now, and the cosine
    /// of the angle between the two. `bounds`: only its bounds and conditions make the difference.
    Away { distance: f64, cosine: f64, bounds: bool },
}

/// How the gradient of later updates differs from that of completions that the student would draw now.
pub(super) enum Staleness {
    /// It is a named gradient that leads away from the policy that drew the tokens.
    AwayFromOld { follows: String },
    /// The weight of single tokens does not correct for the change of their probabilities. The relative
    /// distance at a moderate drift.
    Weight { distance: f64 },
}

impl LaterUpdates {
    /// Its text after a verdict on the first update.
    pub(super) fn text(&self, first: &Verdict) -> String {
        let what = match self {
            LaterUpdates::Same if first.one_gradient().is_some() || matches!(first, Verdict::Zero) => {
                first.text()
            }
            LaterUpdates::Same => "the same".to_owned(),
            LaterUpdates::Follows(verdict) => verdict.text(),
            LaterUpdates::Away { distance, cosine, bounds } => format!(
                "{}{} from the gradient of fresh completions (cosine {cosine:.3})",
                if *bounds { "its bounds act: " } else { "" },
                distance_text(*distance)
            ),
        };
        format!("in later updates: {what}")
    }
}

impl<'a> Query<'a> {
    /// The same term where the student has changed by `drift` since the tokens were drawn.
    fn after(&self, drift: Drift) -> Query<'a> {
        Query { view: self.view.with_value(self.view.value), spec: self.spec.clone() }.drifted(drift)
    }

    /// What the gradient follows in later updates. `None` if that can't be evaluated.
    pub fn in_later_updates(&self) -> Option<LaterUpdates> {
        self.later_updates().ok()
    }

    fn later_updates(&self) -> Result<LaterUpdates, AuditRefusal> {
        let (fresh, later) = (self.usual_gradient()?, self.after(Drift::MODERATE));
        let toys = later.toys();
        let stale = measure(&later.view, ALL, &toys)?;
        if fresh.is_zero() && stale.is_zero() {
            return Ok(LaterUpdates::Same);
        }
        if stale.is_zero() {
            return Ok(LaterUpdates::Follows(Box::new(Verdict::Zero)));
        }
        if !fresh.is_zero() && distance(&stale.gradient, &fresh.gradient) <= EXACT {
            return Ok(LaterUpdates::Same);
        }
        let named = later.candidates();
        let known = KnownGradients::new(&named, &toys, later.block())?;
        if let Some(verdict) = known.identify(&stale.gradient) {
            return Ok(LaterUpdates::Follows(Box::new(verdict)));
        }
        if fresh.is_zero() {
            let (nearest, cosine) = known.nearest(&stale.gradient);
            return Ok(LaterUpdates::Follows(Box::new(Verdict::Unnamed { nearest, cosine })));
        }
        Ok(LaterUpdates::Away {
            distance: distance(&stale.gradient, &fresh.gradient),
            cosine: cosine(&stale.gradient, &fresh.gradient),
            bounds: self.is_exact_without_bounds(&fresh.gradient)?,
        })
    }

    /// Whether only bounds and conditions make a difference: there is none at a small drift, or without them.
    fn is_exact_without_bounds(&self, fresh: &[f64]) -> Result<bool, AuditRefusal> {
        if !self.view.conditions() {
            return Ok(false);
        }
        let near = self.after(Drift::Everywhere(SMALL)).usual_gradient()?.gradient;
        if distance(&near, fresh) <= 1e-3 * SMALL {
            return Ok(true);
        }
        let masked = self.view.select.is_some() || self.view.when.is_some();
        for masks in [true, false].into_iter().filter(|masks| *masks || masked) {
            let plain = if masks { self.view.with_value(self.view.value) } else { self.view.without_masks() };
            let counting = AppliedParts { bounds: false, gates: true };
            let fresh = self.measure(&plain, counting, Variation::Usual)?;
            let stale = self.after(Drift::MODERATE).measure(&plain, counting, Variation::Usual)?;
            if !fresh.is_zero() && distance(&stale.gradient, &fresh.gradient) <= EXACT {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether later updates follow another gradient than completions that the student would draw now,
    /// because of the weight of single tokens. Bounds on this weight are no mistake, and neither is a pull
    /// towards the policy that drew the tokens.
    pub fn staleness(&self) -> Option<Staleness> {
        let fresh = self.usual_gradient().ok().filter(|fresh| !fresh.is_zero())?;
        let far = match self.in_later_updates()? {
            LaterUpdates::Same | LaterUpdates::Away { bounds: true, .. } => return None,
            LaterUpdates::Follows(verdict) => match verdict.leads_away_from(&Role::Old) {
                Some(true) => return Some(Staleness::AwayFromOld { follows: verdict.text() }),
                Some(false) => return None,
                None => None,
            },
            LaterUpdates::Away { distance, .. } => Some(distance),
        };
        // That an earlier student drew the tokens after it is no fault of a token's weight.
        let own = self.distance_of_own_tokens(&fresh.gradient).ok()?;
        (own > self.most_distance()).then_some(Staleness::Weight { distance: far.unwrap_or(own) })
    }

    /// The distance up to which a term is not stale. A ratio of whole completions, such as the geometric mean
    /// of their tokens' ratios, corrects the change of each token by a share.
    fn most_distance(&self) -> f64 {
        if self.view.any(reads_old) && self.spec.size.length > 1 { OF_COMPLETIONS } else { STALE }
    }

    /// The distance, at a moderate drift, that is due to the student's change after each token's own prefix:
    /// extrapolated from a small one.
    fn distance_of_own_tokens(&self, fresh: &[f64]) -> Result<f64, AuditRefusal> {
        let Drift::Everywhere(moderate) = Drift::MODERATE else { unreachable!("it is everywhere") };
        let block = self.block();
        let prefixes = self.spec.size.prefixes();
        let mut square = 0.0;
        for prefix in 0..prefixes {
            let near = self.after(Drift::After { prefix, size: SMALL }).usual_gradient()?.gradient;
            for (toy, (near, fresh)) in near.chunks(block).zip(fresh.chunks(block)).enumerate() {
                if toy % prefixes == prefix {
                    square += norm(&difference(near, fresh)).powi(2);
                }
            }
        }
        let whole = norm(fresh).max(LEAST);
        Ok(square.sqrt() / whole * moderate / SMALL)
    }
}
