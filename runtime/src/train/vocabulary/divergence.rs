//! A divergence over some rows: its value per token, and its gradients with respect to the student's
//! log-probabilities. The gradients are written down rather than left to libtorch: nothing of the forward
//! computation has to be kept for them.

use mopd_compiler::plan::{Mass, Role, Support};
use tch::{Kind, Tensor};

use super::Spans;
use super::loops::zero_rows;
use super::rows::{LogitRows, LogpGrad};
use super::summands::StepSummand;
use super::support::{Entries, entries};
use crate::zip::zip_equal;
use mopd_kernels::entries::{KlGradient, Sum};

/// A divergence with all parameters as they are at this step.
pub struct StepDivergence<'a> {
    pub pairing: Pairing,
    pub left: DivergenceSide,
    pub right: DivergenceSide,
    pub support: &'a Support,
    pub mass: Mass,
    /// Logits of both sides are divided by it, and by the policy's where the sampler is on a side.
    pub temperature: f64,
    pub clip_each: Option<f64>,
    /// Where a role has another tokenizer, entries count with the probability of their whole span.
    pub of_spans: bool,
}

/// Which entry of the right side an entry of the left is compared with.
pub enum Pairing {
    /// That of the same token.
    Entrywise(StepSummand),
    /// The most probable with the most probable, and so on: half of the absolute difference.
    Sorted,
}

/// A distribution: a weighted sum of roles' distributions.
pub struct DivergenceSide {
    pub parts: Vec<(MixtureWeight, Role)>,
    /// Gradient flows through the student's part.
    pub live: bool,
}

pub enum MixtureWeight {
    Number(f64),
    /// `[tokens]`, of the whole step.
    PerToken(Tensor),
}

/// Log-probability of a tail that holds no entry: `exp` is 0, and differences of two are.
const NOTHING: f64 = -1e4;

/// A sum of weights times probabilities, relative to the largest, has lost its digits below this.
const VANISHING: f64 = 1e-30;

impl StepDivergence<'_> {
    /// In nats (total variation and sorted L1: probabilities), `[rows]`.
    ///
    /// The support is chosen on values: it is not differentiated through. Where it is the whole vocabulary,
    /// nothing is outside it and all kinds of mass agree.
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
        let mut summands = self.summands(&compared);
        if let Some(bound) = self.clip_each {
            let _ = summands.clamp_max_(bound);
        }
        // Those of ranks are of no entry: beyond the support both sides have nothing.
        if !matches!(self.pairing, Pairing::Sorted) {
            compared.blank(&mut summands);
        }
        let sums = summands.sum_dim_intlist([-1].as_slice(), false, Kind::Float);
        match self.spans(rows) {
            // One side has no distribution there.
            Some(spans) => sums.masked_fill(&rows.column(&spans.begins).squeeze_dim(1).logical_not(), 0.0),
            None => sums,
        }
    }

    /// Of the role beside the student that has another tokenizer, if one has.
    pub(super) fn spans<'r>(&self, rows: &LogitRows<'r>) -> Option<&'r Spans> {
        let parts = self.left.parts.iter().chain(&self.right.parts);
        parts.filter_map(|(_, role)| rows.spans(*role)).next()
    }

    /// d divergence / d log of what follows by the student, `[rows]`: all entries of the student count with
    /// it.
    pub fn by_rest(&self, rows: &LogitRows) -> Tensor {
        let one = Tensor::ones([rows.len(), 1], (Kind::Float, rows.targets.device()));
        let mut grad = LogpGrad::default();
        self.accumulate_grad(rows, &one, &mut grad);
        grad.total().unwrap_or_else(|| one.zeros_like().squeeze_dim(1))
    }

    /// Adds `adjoint`, `[rows, 1]`, times d divergence / d log-probability of the student, of all entries of
    /// the vocabulary.
    pub fn accumulate_grad(&self, rows: &LogitRows, adjoint: &Tensor, grad: &mut LogpGrad) {
        let compared = self.compared(rows);
        let of_spans = self.spans(rows).map(|spans| adjoint * rows.column(&spans.begins));
        let adjoint = of_spans.as_ref().unwrap_or(adjoint);
        let clipped = self.clip_each.map(|bound| self.summands(&compared).gt(bound));
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
                    summand.grad_left(&own.logps, &other.logps, compared.generalized)
                }
                Pairing::Entrywise(summand) => {
                    summand.grad_right(&other.logps, &own.logps, compared.generalized)
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
            // Of a token that is not selected an infinite gradient is nothing.
            zero_rows(rows.loops(), &mut on_side, adjoint);
            self.through_mass(rows, &compared, own, on_side, grad);
        }
    }

    /// What a role's logits are divided by. The sampler's were divided when it drew: what it is compared with
    /// is the policy that is trained, not a model at temperature 1.
    pub(super) fn temperature_of(&self, role: Role, rows: &LogitRows) -> f64 {
        let with_sampler = || {
            [&self.left, &self.right].iter().any(|side| side.parts.iter().any(|(_, of)| *of == Role::Sampler))
        };
        if role != Role::Sampler && with_sampler() {
            self.temperature * rows.temperature()
        } else {
            self.temperature
        }
    }

    /// Whether it is the KL divergence over the whole vocabulary and nothing else.
    fn is_plain(&self, compared: &Compared) -> bool {
        matches!(self.pairing, Pairing::Entrywise(StepSummand::Kl))
            && matches!(compared.entries, Entries::All)
            && compared.generalized
            && self.clip_each.is_none()
    }

    /// From gradients by what is compared to gradients by the student's log-probabilities.
    fn through_mass(
        &self,
        rows: &LogitRows,
        compared: &Compared,
        own: &OnSupport,
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
            // What a tail loses or gains, its entries do in proportion.
            let spread = compared.tail.then(|| {
                let (inside, tail) =
                    (rows.logps(Role::Student, temperature), own.parts[index].narrow(1, count, 1));
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
            // Columns behind the vocabulary are nothing that the student has.
            let columns = |of: Tensor| of.narrow(1, 0, of.size()[1].min(rows.vocabulary()));
            let on_entries = columns(part.narrow(1, 0, count));
            match &compared.entries {
                Entries::Chosen(indices) => {
                    sum.add_at(rows, temperature, indices, &on_entries);
                    spread.into_iter().for_each(|spread| sum.add(temperature, spread));
                }
                Entries::All | Entries::Masked(_) => match spread {
                    Some(spread) => sum.add(temperature, spread + on_entries),
                    None if part.size()[1] > rows.vocabulary() => sum.add(temperature, on_entries.copy()),
                    None => sum.add(temperature, part),
                },
            }
        }
    }

    fn summands(&self, compared: &Compared) -> Tensor {
        let (left, right) = (&compared.left.logps, &compared.right.logps);
        match &self.pairing {
            Pairing::Entrywise(summand) => summand.values(left, right, compared.generalized),
            Pairing::Sorted => {
                let [left, right] = [left, right].map(|side| sorted(side, compared.tail).0);
                (left - right).abs_() * 0.5
            }
        }
    }

    fn compared(&self, rows: &LogitRows) -> Compared<'_> {
        let entries = entries(self.support, rows);
        let whole = matches!(entries, Entries::All);
        let tail = self.mass == Mass::Tail && !whole;
        let renormalized = self.mass == Mass::Renormalized && !whole;
        // A bound on summands is one on the summands as they are written, without terms that only vanish in
        // the sum.
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
        let side = |side| self.on_support(side, rows, &entries, (tail, renormalized), outside.as_ref());
        let (left, right) = (side(&self.left), side(&self.right));
        Compared { entries, outside, tail, renormalized, generalized, left, right }
    }

    /// How many columns both sides are compared in: the vocabulary, and behind it what only a role with
    /// another has, where that can take part.
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
        (tail, renormalized): (bool, bool),
        outside: Option<&Tensor>,
    ) -> OnSupport<'s> {
        let spans = self.spans(rows).filter(|_| self.of_spans);
        let columns = self.columns(rows, entries);
        let part = |role: Role| {
            let full = in_columns(&rows.logps(role, self.temperature_of(role, rows)), columns);
            let full = match spans {
                Some(spans) if spans.role == role => full + rows.column(&spans.rest),
                Some(spans) if role == Role::Student => full + rows.column(&spans.student_rest),
                _ => full,
            };
            let on_entries = match entries {
                Entries::Chosen(indices) => full.gather(-1, indices, false),
                Entries::All | Entries::Masked(_) => full.shallow_clone(),
            };
            if tail { Tensor::cat(&[on_entries, self::tail(&full, entries)], -1) } else { on_entries }
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
            // Any number that both sides have does; sorting wants them last.
            let filler = if matches!(self.pairing, Pairing::Sorted) { f64::NEG_INFINITY } else { 0.0 };
            logps = logps.masked_fill(outside, filler);
        }
        OnSupport { side, parts, blended, logps }
    }
}

/// Both sides on the support.
struct Compared<'a> {
    entries: Entries,
    /// Entries of a masked support that take no part, `[rows, entries]`, bool.
    outside: Option<Tensor>,
    /// The last entry is the tail.
    tail: bool,
    renormalized: bool,
    /// See [`super::summands`].
    generalized: bool,
    left: OnSupport<'a>,
    right: OnSupport<'a>,
}

impl Compared<'_> {
    fn blank(&self, of_entries: &mut Tensor) {
        if let Some(outside) = &self.outside {
            let _ = of_entries.masked_fill_(outside, 0.0);
        }
    }
}

/// A side, `[rows, entries]` everything.
struct OnSupport<'a> {
    side: &'a DivergenceSide,
    /// Log-probabilities of each role.
    parts: Vec<Tensor>,
    /// Those of the weighted sum, where there are several roles.
    blended: Option<Tensor>,
    /// After what `mass` says.
    logps: Tensor,
}

/// Log of a role's share of a blend.
fn weighted(part: &Tensor, weight: &MixtureWeight, rows: &LogitRows) -> Tensor {
    match weight {
        MixtureWeight::Number(weight) => part + weight.ln(),
        MixtureWeight::PerToken(weights) => part + rows.column(weights).log(),
    }
}

/// Log-probabilities of a weighted sum: exactly those of its parts where these are equal and weights add up
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
    // The highest may have no weight, and the others vanish beside it.
    let logs = zip_equal(&side.parts, parts).map(|((weight, _), part)| weighted(part, weight, rows));
    let in_logs = logs.reduce(|sum, part| sum.logaddexp(&part)).expect("a side has at least one part");
    in_logs.where_self(&sum.lt(VANISHING), &(highest + sum.log()))
}

/// With no probability in columns that it does not have; without those that are not compared.
fn in_columns(logps: &Tensor, columns: i64) -> Tensor {
    match columns - logps.size()[1] {
        0 => logps.shallow_clone(),
        missing if missing > 0 => logps.pad([0, missing], "constant", f64::NEG_INFINITY),
        _ => logps.narrow(1, 0, columns),
    }
}

/// Log of the probability outside the support, `[rows, 1]`. Summed over the complement rather than taken from
/// 1, where all digits would cancel.
fn tail(full: &Tensor, entries: &Entries) -> Tensor {
    let outside = match entries {
        Entries::All => full.full_like(f64::NEG_INFINITY),
        Entries::Chosen(indices) => full.scatter_value(-1, indices, f64::NEG_INFINITY),
        Entries::Masked(inside) => full.masked_fill(inside, f64::NEG_INFINITY),
    };
    outside.logsumexp([-1].as_slice(), true).clamp_min_(NOTHING)
}

/// Probabilities from the largest to the smallest, of equals the first first, and where each was; a tail
/// stays behind.
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

/// What is said of ranks, said of entries.
fn unsorted(of_ranks: &Tensor, own: &OnSupport, tail: bool) -> Tensor {
    of_ranks.zeros_like().scatter_(-1, &sorted(&own.logps, tail).1, of_ranks)
}
