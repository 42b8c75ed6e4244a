//! A divergence over some rows: its value per token, and its gradients with respect to the student's
//! log-probabilities. The gradients are explicit formulas instead of autograd's, so that nothing of the
//! forward computation has to be saved.

use mopd_kernels::entries::{KlGradient, Sum};
use mopd_plan::{Mass, Role, Support};
use tch::{Kind, Tensor};

use super::Spans;
use super::loops::zero_rows;
use super::rows::{LogitRows, LogpGrad, RowTemperature};
use super::summands::StepSummand;
use super::support::{Entries, entries};
use crate::zip::zip_equal;

/// A divergence with the values of its parameters at this step.
pub struct StepDivergence<'a> {
    pub pairing: Pairing,
    pub left: DivergenceSide,
    pub right: DivergenceSide,
    pub support: &'a Support,
    pub mass: Mass,
    /// Divides the logits of both sides. If one side is the sampler, the policy's temperature does too.
    pub temperature: RowTemperature,
    pub clip_each: Option<f64>,
    /// Where a role has another tokenizer, entries count with the probability of their whole span.
    pub of_spans: bool,
}

/// Which entry of the right side is compared with an entry of the left.
pub enum Pairing {
    /// The entry of the same token.
    Entrywise(StepSummand),
    /// The entry of the same rank by probability; the summand is half of the absolute difference.
    Sorted,
}

/// A distribution: a weighted sum of roles' distributions.
pub struct DivergenceSide {
    pub parts: Vec<(MixtureWeight, Role)>,
    /// Whether gradient flows through the student's part.
    pub live: bool,
}

pub enum MixtureWeight {
    Number(f64),
    /// `[tokens]`, for all tokens of the step.
    PerToken(Tensor),
}

/// Log-probability of a tail without entries: its `exp` is 0, and so is the difference of two.
const NOTHING: f64 = -1e4;

/// Below this, a sum of weights times probabilities relative to the largest one has lost its digits.
const VANISHING: f64 = 1e-30;

impl StepDivergence<'_> {
    /// The values in nats (total variation and sorted L1: probabilities), `[rows]`.
    ///
    /// The choice of the support is not differentiated. Where it is the full vocabulary, nothing is outside
    /// it and all kinds of mass agree.
    pub fn values(&self, rows: &LogitRows) -> Tensor {
        if let Some(values) = self.value_of_logits(rows) {
            return values;
        }
        let compared = self.compared(rows);
        if self.is_plain(&compared)
            && let Some(loops) = rows.loops()
            && let Some(sums) = loops.sums(Sum::Kl, &compared.left.logps, &compared.right.logps)
        {
            return sums;
        }
        let mut summands = self.summands(&compared, rows.first);
        if let Some(bound) = self.clip_each {
            let _ = summands.clamp_max_(bound);
        }
        // Summands by rank need no mask: beyond the support both sides are 0.
        if !matches!(self.pairing, Pairing::Sorted) {
            compared.blank(&mut summands);
        }
        let sums = summands.sum_dim_intlist([-1].as_slice(), false, Kind::Float);
        match self.spans(rows) {
            // The role has a distribution only where a span begins.
            Some(spans) => sums.masked_fill(&rows.column(&spans.begins).squeeze_dim(1).logical_not(), 0.0),
            None => sums,
        }
    }

    /// The spans of the role with another tokenizer, if there is one.
    pub(super) fn spans<'r>(&self, rows: &LogitRows<'r>) -> Option<&'r Spans> {
        let parts = self.left.parts.iter().chain(&self.right.parts);
        parts.filter_map(|(_, role)| rows.spans(*role)).next()
    }

    /// d divergence / d log of the student's probability of the rest of the span, `[rows]`: it is a factor of
    /// all entries of the student.
    pub fn by_rest(&self, rows: &LogitRows) -> Tensor {
        let one = Tensor::ones([rows.len(), 1], (Kind::Float, rows.targets.device()));
        let mut grad = LogpGrad::default();
        self.accumulate_grad(rows, &one, &mut grad);
        grad.total().unwrap_or_else(|| one.zeros_like().squeeze_dim(1))
    }

    /// Adds `adjoint`, `[rows, 1]`, times d divergence / d log-probability of the student, for all entries of
    /// the vocabulary.
    pub fn accumulate_grad(&self, rows: &LogitRows, adjoint: &Tensor, grad: &mut LogpGrad) {
        let compared = self.compared(rows);
        let of_spans = self.spans(rows).map(|spans| adjoint * rows.column(&spans.begins));
        let adjoint = of_spans.as_ref().unwrap_or(adjoint);
        let clipped = self.clip_each.map(|bound| self.summands(&compared, rows.first).gt(bound));
        for (own, other) in [(&compared.left, &compared.right), (&compared.right, &compared.left)] {
            if !own.side.live || own.side.parts.iter().all(|(_, role)| *role != Role::Student) {
                continue;
            }
            let is_left = std::ptr::eq(own, &compared.left);
            if self.is_plain(&compared) {
                let side = if is_left { KlGradient::KlByLeft } else { KlGradient::KlByRight };
                let logps = [&compared.left.logps, &compared.right.logps];
                let own_loops = rows.loops().and_then(|loops| loops.gradients(side, logps, adjoint));
                if let Some(on_side) = own_loops {
                    self.through_mass(rows, &compared, own, on_side, grad);
                    continue;
                }
            }
            let mut on_side = match &self.pairing {
                Pairing::Entrywise(summand) if is_left => {
                    summand.grad_left(&own.logps, &other.logps, compared.generalized, rows.first)
                }
                Pairing::Entrywise(summand) => {
                    summand.grad_right(&other.logps, &own.logps, compared.generalized, rows.first)
                }
                Pairing::Sorted => grad_sorted(&own.logps, &other.logps, compared.tail),
            };
            if let Some(clipped) = &clipped {
                let clipped = if matches!(self.pairing, Pairing::Sorted) {
                    &unsorted(clipped, own, compared.tail)
                } else {
                    clipped
                };
                let _ = on_side.masked_fill_(clipped, 0.0);
            }
            compared.blank(&mut on_side);
            on_side *= adjoint;
            // Tokens that are not selected have gradient 0, even if it is infinite here.
            zero_rows(rows.loops(), &mut on_side, adjoint);
            self.through_mass(rows, &compared, own, on_side, grad);
        }
    }

    /// The temperature that divides a role's logits. The sampler's logits were already divided when it drew,
    /// so they are compared with the trained policy at its temperature, not with a model at temperature 1.
    pub(super) fn temperature_of(&self, role: Role, rows: &LogitRows) -> RowTemperature {
        let with_sampler = || {
            [&self.left, &self.right].iter().any(|side| side.parts.iter().any(|(_, of)| *of == Role::Sampler))
        };
        if role != Role::Sampler && with_sampler() {
            self.temperature.times(rows.temperature())
        } else {
            self.temperature.share()
        }
    }

    /// Whether it is the plain KL divergence over the full vocabulary.
    fn is_plain(&self, compared: &ComparedSides) -> bool {
        matches!(self.pairing, Pairing::Entrywise(StepSummand::Kl))
            && matches!(compared.entries, Entries::All)
            && compared.generalized
            && self.clip_each.is_none()
    }

    /// Converts gradients by the compared values to gradients by the student's log-probabilities.
    fn through_mass(
        &self,
        rows: &LogitRows,
        compared: &ComparedSides,
        own: &SideOnSupport,
        mut grad: Tensor,
        sum: &mut LogpGrad,
    ) {
        if compared.renormalized {
            grad -= own.logps.exp() * grad.sum_dim_intlist([-1].as_slice(), true, Kind::Float);
            compared.blank(&mut grad);
        }
        let count = grad.size()[1] - i64::from(compared.tail);
        let temperature = self.temperature_of(Role::Student, rows);
        for (index, (weight, role)) in own.side.parts.iter().enumerate() {
            if *role != Role::Student {
                continue;
            }
            let part = match &own.blended {
                Some(blended) => &grad * (weighted(&own.parts[index], weight, rows) - blended).exp_(),
                None => grad.shallow_clone(),
            };
            // The gradient of the tail goes to its entries in proportion to their probabilities.
            let spread = compared.tail.then(|| {
                let (inside, tail) =
                    (rows.logps(Role::Student, &temperature), own.parts[index].narrow(1, count, 1));
                let mut spread = (inside - tail).exp_() * part.narrow(1, count, 1);
                let _ = match &compared.entries {
                    Entries::All => spread.zero_(),
                    Entries::Chosen(indices) => spread.scatter_value_(-1, indices, 0.0),
                    Entries::Masked(inside) => {
                        spread.masked_fill_(&inside.narrow(1, 0, rows.vocabulary()), 0.0)
                    }
                };
                spread
            });
            // The student has no entries in columns beyond its vocabulary.
            let columns = |of: Tensor| of.narrow(1, 0, of.size()[1].min(rows.vocabulary()));
            let on_entries = columns(part.narrow(1, 0, count));
            match &compared.entries {
                Entries::Chosen(indices) => {
                    sum.add_at(rows, &temperature, indices, &on_entries);
                    spread.into_iter().for_each(|spread| sum.add(&temperature, spread));
                }
                Entries::All | Entries::Masked(_) => match spread {
                    Some(spread) => sum.add(&temperature, spread + on_entries),
                    None if part.size()[1] > rows.vocabulary() => sum.add(&temperature, on_entries.copy()),
                    None => sum.add(&temperature, part),
                },
            }
        }
    }

    fn summands(&self, compared: &ComparedSides, first: i64) -> Tensor {
        let (left, right) = (&compared.left.logps, &compared.right.logps);
        match &self.pairing {
            Pairing::Entrywise(summand) => summand.values(left, right, compared.generalized, first),
            Pairing::Sorted => {
                let [left, right] = [left, right].map(|side| sorted(side, compared.tail).0);
                (left - right).abs_() * 0.5
            }
        }
    }

    fn compared(&self, rows: &LogitRows) -> ComparedSides<'_> {
        let entries = entries(self.support, rows);
        let whole = matches!(entries, Entries::All);
        let tail = self.mass == Mass::Tail && !whole;
        let renormalized = self.mass == Mass::Renormalized && !whole;
        // `clip_each` bounds the plain summands, without the terms that vanish only in the sum.
        let generalized = match self.mass {
            Mass::Generalized => true,
            Mass::Raw if !whole => false,
            _ => self.clip_each.is_none(),
        };
        let outside = match &entries {
            Entries::Masked(inside) => {
                let outside = inside.logical_not();
                let none = tail.then(|| outside.narrow(1, 0, 1).zeros_like());
                Some(match none {
                    Some(none) => Tensor::cat(&[outside, none], -1),
                    None => outside,
                })
            }
            Entries::All | Entries::Chosen(_) => None,
        };
        let side = |side| self.on_support(side, rows, &entries, tail, renormalized, outside.as_ref());
        let (left, right) = (side(&self.left), side(&self.right));
        ComparedSides { entries, outside, tail, renormalized, generalized, left, right }
    }

    /// The number of columns that are compared: the vocabulary, then the entries that only a role with
    /// another vocabulary has, where these can take part.
    fn columns(&self, rows: &LogitRows, entries: &Entries) -> i64 {
        match entries {
            Entries::Masked(inside) => inside.size()[1],
            Entries::Chosen(_) => rows.vocabulary(),
            Entries::All => {
                let parts = self.left.parts.iter().chain(&self.right.parts);
                let columns =
                    parts.map(|(_, role)| rows.logps(*role, self.temperature_of(*role, rows)).size()[1]);
                columns.max().unwrap_or(rows.vocabulary())
            }
        }
    }

    fn on_support<'s>(
        &self,
        side: &'s DivergenceSide,
        rows: &LogitRows,
        entries: &Entries,
        tail: bool,
        renormalized: bool,
        outside: Option<&Tensor>,
    ) -> SideOnSupport<'s> {
        let spans = self.spans(rows).filter(|_| self.of_spans);
        let columns = self.columns(rows, entries);
        let part = |role: Role| {
            let own = rows.logps(role, self.temperature_of(role, rows));
            let full = in_columns(&own, columns);
            let full = match spans {
                Some(spans) if spans.role == role => full + rows.column(&spans.rest),
                Some(spans) if role == Role::Student => full + rows.column(&spans.student_rest),
                _ => full,
            };
            let on_entries = match entries {
                Entries::Chosen(indices) => full.gather(-1, indices, false),
                Entries::All | Entries::Masked(_) => full.shallow_clone(),
            };
            // A role with another vocabulary may have columns beyond those that are compared.
            let whole = || in_columns(&own, columns.max(own.size()[1]));
            if tail { Tensor::cat(&[on_entries, self::tail(&whole(), entries)], -1) } else { on_entries }
        };
        let parts: Vec<Tensor> = side.parts.iter().map(|(_, role)| part(*role)).collect();
        let blended = (parts.len() > 1).then(|| blend(side, &parts, rows));
        let whole = blended.as_ref().unwrap_or(&parts[0]);
        let mut logps = match (renormalized, outside) {
            (false, _) => whole.shallow_clone(),
            (true, None) => whole - whole.logsumexp([-1].as_slice(), true),
            (true, Some(outside)) => {
                whole - whole.masked_fill(outside, f64::NEG_INFINITY).logsumexp([-1].as_slice(), true)
            }
        };
        if let Some(outside) = outside {
            // Any value does if both sides have it; for sorting, these entries must come last.
            let filler = if matches!(self.pairing, Pairing::Sorted) { f64::NEG_INFINITY } else { 0.0 };
            logps = logps.masked_fill(outside, filler);
        }
        SideOnSupport { side, parts, blended, logps }
    }
}

/// Both sides on the support.
struct ComparedSides<'a> {
    entries: Entries,
    /// Entries of a masked support that take no part, `[rows, entries]`, bool.
    outside: Option<Tensor>,
    /// Whether the last entry is the tail.
    tail: bool,
    renormalized: bool,
    /// See [`super::summands`].
    generalized: bool,
    left: SideOnSupport<'a>,
    right: SideOnSupport<'a>,
}

impl ComparedSides<'_> {
    fn blank(&self, of_entries: &mut Tensor) {
        if let Some(outside) = &self.outside {
            let _ = of_entries.masked_fill_(outside, 0.0);
        }
    }
}

/// A side; all tensors are `[rows, entries]`.
struct SideOnSupport<'a> {
    side: &'a DivergenceSide,
    /// Log-probabilities of each role.
    parts: Vec<Tensor>,
    /// Log-probabilities of the weighted sum, where there are several roles.
    blended: Option<Tensor>,
    /// Log-probabilities after `mass` was applied.
    logps: Tensor,
}

/// The log of weight times probability, for one role of a blend.
fn weighted(part: &Tensor, weight: &MixtureWeight, rows: &LogitRows) -> Tensor {
    match weight {
        MixtureWeight::Number(weight) => part + weight.ln(),
        MixtureWeight::PerToken(weights) => part + rows.column(weights).log(),
    }
}

/// Log-probabilities of a weighted sum; exactly those of its parts where these are equal and the weights sum
/// to 1.
fn blend(side: &DivergenceSide, parts: &[Tensor], rows: &LogitRows) -> Tensor {
    let highest = parts[1..].iter().fold(parts[0].shallow_clone(), |highest, part| highest.maximum(part));
    let shares = zip_equal(&side.parts, parts).map(|((weight, _), part)| {
        let relative = (part - &highest).exp_();
        match weight {
            MixtureWeight::Number(weight) => relative * *weight,
            MixtureWeight::PerToken(weights) => relative * rows.column(weights),
        }
    });
    let sum = shares.reduce(|sum, share| sum + share).expect("a side has at least one part");
    // The highest part may have weight 0, and then the others vanish relative to it.
    let logs = zip_equal(&side.parts, parts).map(|((weight, _), part)| weighted(part, weight, rows));
    let in_logs = logs.reduce(|sum, part| sum.logaddexp(&part)).expect("a side has at least one part");
    in_logs.where_self(&sum.lt(VANISHING), &(highest + sum.log()))
}

/// Log-probabilities in exactly `columns` columns: missing ones have probability 0, others are cut off.
fn in_columns(logps: &Tensor, columns: i64) -> Tensor {
    match columns - logps.size()[1] {
        0 => logps.shallow_clone(),
        missing if missing > 0 => logps.pad([0, missing], "constant", f64::NEG_INFINITY),
        _ => logps.narrow(1, 0, columns),
    }
}

/// Log of the probability outside the support, `[rows, 1]`. It is summed over the complement, because 1 minus
/// the inside would cancel all digits.
fn tail(full: &Tensor, entries: &Entries) -> Tensor {
    let outside = match entries {
        Entries::All => full.full_like(f64::NEG_INFINITY),
        Entries::Chosen(indices) => full.scatter_value(-1, indices, f64::NEG_INFINITY),
        Entries::Masked(inside) => {
            let behind = full.size()[1] - inside.size()[1];
            full.masked_fill(&inside.constant_pad_nd([0, behind]), f64::NEG_INFINITY)
        }
    };
    outside.logsumexp([-1].as_slice(), true).clamp_min_(NOTHING)
}

/// Probabilities in descending order (stable), and the index that each had. A tail stays last.
fn sorted(logps: &Tensor, tail: bool) -> (Tensor, Tensor) {
    let count = logps.size()[1] - i64::from(tail);
    let values = logps.narrow(1, 0, count);
    let mut places = values.argsort_stable(true, -1, true);
    let values = values.gather(-1, &places, false);
    if !tail {
        return (values.exp(), places);
    }
    let last = Tensor::full([places.size()[0], 1], count, (Kind::Int64, places.device()));
    places = Tensor::cat(&[places, last], -1);
    (Tensor::cat(&[values, logps.narrow(1, count, 1)], -1).exp(), places)
}

fn grad_sorted(own: &Tensor, other: &Tensor, tail: bool) -> Tensor {
    let ((own, places), (other, _)) = (sorted(own, tail), sorted(other, tail));
    let grad = (&own - other).sign_() * own * 0.5;
    grad.zeros_like().scatter_(-1, &places, &grad)
}

/// Values by rank, moved to the entries that have these ranks.
fn unsorted(of_ranks: &Tensor, own: &SideOnSupport, tail: bool) -> Tensor {
    of_ranks.zeros_like().scatter_(-1, &sorted(&own.logps, tail).1, of_ranks)
}
