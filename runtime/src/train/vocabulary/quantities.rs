//! All numbers per token that are computed from whole next-token distributions.

use mopd_kernels::entries::Sum;
use mopd_plan::{ModelSignal, Role, Signal};
use tch::{Kind, Tensor};

use super::divergence::StepDivergence;
use super::loops::Loops;
use super::rows::{LogitRows, LogpGrad};
use super::support::{Entries, entries, in_nucleus, mask, top};

/// A number per token, computed from distributions.
pub enum Quantity<'a> {
    /// A signal with nothing to resolve at a step, of those that are [`Signal::is_from_distributions`].
    Signal(&'a Signal),
    Primitive(Primitive<'a>),
    /// d divergence / d log of the student's probability of the rest of a span: [`StepDivergence::by_rest`].
    ByRest(StepDivergence<'a>),
}

/// A number per token through which gradient can flow.
pub enum Primitive<'a> {
    /// The student's log-probability of the completion's token.
    Logp,
    /// The same with logits divided by a temperature of its own, in place of the policy's.
    LogpAt {
        temperature: f64,
    },
    /// The student's log-probability of ending: of any token that ends a completion.
    EndLogp,
    Divergence(StepDivergence<'a>),
    /// Minus the student's log-probability of the role's most probable token.
    Likelihood {
        of: Role,
    },
    /// Minus the Plackett-Luce log-likelihood of the role's `k` most probable entries, in its order, drawn
    /// from the whole vocabulary.
    Ranking {
        role: Role,
        k: u32,
    },
}

impl Quantity<'_> {
    /// `[rows]`, in single precision.
    pub fn values(&self, rows: &LogitRows) -> Tensor {
        match self {
            Quantity::Primitive(primitive) => primitive.values(rows),
            Quantity::ByRest(divergence) => divergence.by_rest(rows),
            Quantity::Signal(signal) => signal_values(signal, rows),
        }
    }
}

fn signal_values(signal: &Signal, rows: &LogitRows) -> Tensor {
    match signal {
        Signal::Of { role, part } => part_values(*part, *role, rows),
        Signal::Overlap { left, right, k } => {
            let left = mask(&Entries::Chosen(top(rows, *left, *k)), rows);
            let shared = left.gather(-1, &top(rows, *right, *k), false);
            shared.mean_dim([-1].as_slice(), false, Kind::Float)
        }
        Signal::Mass { role, support } => {
            let probabilities = rows.logps(*role, 1.0).exp();
            let held = match entries(support, rows) {
                Entries::All => probabilities,
                Entries::Chosen(indices) => probabilities.gather(-1, &indices, false),
                Entries::Masked(inside) => {
                    // Only columns that both have: another vocabulary may have more.
                    let columns = probabilities.size()[1].min(inside.size()[1]);
                    let inside = inside.narrow(1, 0, columns);
                    probabilities.narrow(1, 0, columns).masked_fill(&inside.logical_not(), 0.0)
                }
            };
            held.sum_dim_intlist([-1].as_slice(), false, Kind::Float)
        }
        Signal::InNucleus { role, p } => in_nucleus(&rows.logps(*role, 1.0), &rows.targets, *p),
        Signal::SupportSize { support } => {
            mask(&entries(support, rows), rows).sum_dim_intlist([-1].as_slice(), false, Kind::Float)
        }
        _ => unreachable!("{signal:?} is not resolved to this"),
    }
}

/// A number of one role, `[rows]`.
fn part_values(part: ModelSignal, role: Role, rows: &LogitRows) -> Tensor {
    match part {
        ModelSignal::Logp => rows.scored_at(role, &rows.targets).squeeze_dim(1),
        ModelSignal::EndLogp => rows.scored_at(role, &rows.ends).logsumexp([-1].as_slice(), false),
        ModelSignal::Entropy => match rows.unnormalized(role, 1.0) {
            Some(unnormalized) => unnormalized.entropy(),
            None => entropy(rows.loops(), &rows.logps(role, 1.0)),
        },
        ModelSignal::Top1 => rows.logps(role, 1.0).amax([-1].as_slice(), false).exp(),
        ModelSignal::Rank => {
            let logps = rows.logps(role, 1.0);
            let better = logps.gt_tensor(&logps.gather(-1, &rows.targets, false));
            better.sum_dim_intlist([-1].as_slice(), false, Kind::Float) + 1.0
        }
        ModelSignal::Mean
        | ModelSignal::Deviation
        | ModelSignal::Value
        | ModelSignal::Correct
        | ModelSignal::Score
        | ModelSignal::Confidence
        | ModelSignal::StatedConfidence => unreachable!("{part:?} is not computed from distributions"),
    }
}

impl Primitive<'_> {
    /// `[rows]`, in single precision.
    pub fn values(&self, rows: &LogitRows) -> Tensor {
        match self {
            Primitive::Logp => part_values(ModelSignal::Logp, Role::Student, rows),
            Primitive::LogpAt { temperature } => {
                rows.logps(Role::Student, *temperature).gather(-1, &rows.targets, false).squeeze_dim(1)
            }
            Primitive::EndLogp => part_values(ModelSignal::EndLogp, Role::Student, rows),
            Primitive::Divergence(divergence) => divergence.values(rows),
            Primitive::Likelihood { of } => {
                let likeliest = rows.logps(*of, 1.0).argmax(-1, true);
                -rows.logps(Role::Student, 1.0).gather(-1, &likeliest, false).squeeze_dim(1)
            }
            Primitive::Ranking { role, k } => {
                let (logps, _, remaining) = ranking(rows, *role, *k);
                (remaining - logps).sum_dim_intlist([-1].as_slice(), false, Kind::Float)
            }
        }
    }

    /// Adds `adjoint`, `[rows, 1]`, times d primitive / d log-probability of the student, for all entries of
    /// the vocabulary.
    pub fn accumulate_grad(&self, rows: &LogitRows, adjoint: &Tensor, grad: &mut LogpGrad) {
        match self {
            Primitive::Logp => grad.add_at(rows, rows.temperature(), &rows.targets, adjoint),
            Primitive::LogpAt { temperature } => grad.add_at(rows, *temperature, &rows.targets, adjoint),
            Primitive::EndLogp => {
                let logps = rows.scored_at(Role::Student, &rows.ends);
                grad.add_at(
                    rows,
                    rows.temperature(),
                    &rows.ends,
                    &(logps.softmax(-1, Kind::Float) * adjoint),
                );
            }
            Primitive::Divergence(divergence) => divergence.accumulate_grad(rows, adjoint, grad),
            Primitive::Likelihood { of } => {
                grad.add_at(rows, 1.0, &rows.logps(*of, 1.0).argmax(-1, true), &adjoint.neg());
            }
            Primitive::Ranking { role, k } => {
                let (logps, order, remaining) = ranking(rows, *role, *k);
                // The i-th entry is a candidate in the first i choices, an entry outside in all of them.
                let drawn = remaining.neg().logcumsumexp(-1);
                let all = drawn.narrow(-1, drawn.size()[1] - 1, 1);
                let outside = (rows.logps(Role::Student, 1.0) + all).exp_();
                let candidate = (logps + drawn).exp_();
                grad.add(1.0, outside.scatter(-1, &order, &(candidate - 1.0)) * adjoint);
            }
        }
    }
}

/// Entropy of each row of log-probabilities, `[rows]`, in nats.
fn entropy(loops: Option<Loops>, logps: &Tensor) -> Tensor {
    let here = loops.and_then(|loops| loops.sums(Sum::Entropy, logps, logps));
    here.unwrap_or_else(|| -(logps.exp() * logps).sum_dim_intlist([-1].as_slice(), false, Kind::Float))
}

/// For the role's `k` most probable entries, in the role's order, `[rows, k]` each: the student's
/// log-probabilities; the entries; and the log of the probability that remains when each is drawn (its own,
/// that of later ones, and that of all entries outside).
fn ranking(rows: &LogitRows, role: Role, k: u32) -> (Tensor, Tensor, Tensor) {
    let order = top(rows, role, k);
    let full = rows.logps(Role::Student, 1.0);
    let logps = full.gather(-1, &order, false);
    let behind = logps.flip([-1].as_slice()).logcumsumexp(-1).flip([-1].as_slice());
    // Summed over the entries outside, because 1 minus the others would cancel all digits.
    let outside = full.scatter_value(-1, &order, f64::NEG_INFINITY).logsumexp([-1].as_slice(), true);
    (logps, order, behind.logaddexp(&outside))
}
