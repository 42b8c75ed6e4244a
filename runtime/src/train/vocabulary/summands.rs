//! The summand of every divergence at a vocabulary entry, and its slopes.
//!
//! Everything is a function of two log-probabilities, `l` of the left side and `r` of the right side, as
//! tensors of one shape; slopes are with respect to these. Each form is written so that it and its slopes are
//! exactly 0 where `l = r`, if it is closed: rounding noise there would be blown up to full steps by an
//! optimiser that normalises gradients.
//!
//! *Closed* means that the linear function of `exp(l)` and `exp(r)` is added that makes `l = r` stationary
//! entry by entry, for KL `- exp(l) + exp(r)` (arXiv:2606.30406, eq. 5). For a generator `f` it is `- f'(1)
//! (exp(l) - exp(r))`. Where both sides are complete it sums to 0.

use mopd_compiler::plan::Generator;
use tch::{Kind, Tensor};

use crate::train::tensor_graph;

/// A divergence with its parameters as they are at this step.
pub enum Summand<'a> {
    Kl,
    Jsd {
        beta: f64,
        normalized: bool,
    },
    Skew {
        lambda: f64,
    },
    TotalVariation,
    ChiSquared,
    Hellinger,
    Alpha {
        alpha: f64,
    },
    Custom {
        generator: &'a Generator,
        /// For parameters of the generator that move.
        step: u32,
        steps: u32,
    },
}

/// Closer to 0 or 1 than this, the alpha divergence is its limit: its terms cancel there, and what is left in
/// single precision is noise.
const ALPHA_MARGIN: f64 = 1e-3;
/// Closer to 0 or 1 than this, the normalised Jensen-Shannon divergence is its limit.
const BETA_MARGIN: f64 = 1e-7;
/// Beyond this difference of log-probabilities a mixture is one of its sides, in single precision, and `exp`
/// is about to overflow.
const FAR: f64 = 80.0;
/// A side with a smaller share of the mixture than this can vanish in `1 + x`.
const SMALL_SHARE: f64 = 0.05;

impl Summand<'_> {
    pub fn values(&self, l: &Tensor, r: &Tensor, closed: bool) -> Tensor {
        match self.limit(closed) {
            Some(Direction::LeftToRight) => return Summand::Kl.values(l, r, true),
            Some(Direction::RightToLeft) => return Summand::Kl.values(r, l, true),
            None => {}
        }
        match *self {
            Summand::Kl => {
                let p = l.exp();
                let value = &p * (l - r);
                if closed { value - p + r.exp() } else { value }
            }
            Summand::Jsd { beta, normalized } => {
                let scale = if normalized { 1.0 / (beta * (1.0 - beta)) } else { 1.0 };
                let left = above_mixture(l, r, beta) * l.exp() * (beta * scale);
                left + above_mixture(r, l, 1.0 - beta) * r.exp() * ((1.0 - beta) * scale)
            }
            Summand::Skew { lambda } => {
                let (p, above) = (l.exp(), above_mixture(l, r, lambda));
                let value = &p * above;
                if closed { value + (r.exp() - p) * (1.0 - lambda) } else { value }
            }
            Summand::TotalVariation => (l.exp() - r.exp()).abs_() * 0.5,
            // (p - q)^2 / q, written so that q alone is never divided by.
            Summand::ChiSquared => (l * 2.0 - r).exp_() - l.exp() * 2.0 + r.exp(),
            Summand::Hellinger => (l.exp() + r.exp()) * 0.5 - ((l + r) * 0.5).exp_(),
            Summand::Alpha { alpha } => {
                let q = r.exp();
                let value = (geometric(l, r, alpha) - &q) / (alpha * (alpha - 1.0));
                if closed { value - (l.exp() - q) / (alpha - 1.0) } else { value }
            }
            Summand::Custom { generator, step, steps } => {
                let own = Own::new(l, r, generator, (step, steps));
                let value = &own.q * own.value();
                let value = if closed { value - (&own.p - &own.q) * own.slope_at_1() } else { value };
                value.to_kind(Kind::Float)
            }
        }
    }

    /// With respect to `l`. The tensor is nobody else's.
    pub fn left_slopes(&self, l: &Tensor, r: &Tensor, closed: bool) -> Tensor {
        match self.limit(closed) {
            Some(Direction::LeftToRight) => return Summand::Kl.left_slopes(l, r, true),
            Some(Direction::RightToLeft) => return Summand::Kl.right_slopes(r, l, true),
            None => {}
        }
        match *self {
            Summand::Kl => {
                let mut slopes = l - r;
                if !closed {
                    slopes += 1.0;
                }
                slopes *= l.exp();
                slopes
            }
            Summand::Jsd { beta, normalized } => {
                let scale = if normalized { 1.0 / (1.0 - beta) } else { beta };
                above_mixture(l, r, beta) * l.exp() * scale
            }
            Summand::Skew { lambda } => {
                let above = above_mixture(l, r, lambda);
                let slope = &above - above.expm1() * lambda;
                l.exp() * if closed { slope } else { slope + (1.0 - lambda) }
            }
            Summand::TotalVariation => sign_of_difference(l, r) * l.exp() * 0.5,
            Summand::ChiSquared => ((l * 2.0 - r).exp_() - l.exp()) * 2.0,
            Summand::Hellinger => (l.exp() - ((l + r) * 0.5).exp_()) * 0.5,
            Summand::Alpha { alpha } => {
                let mean = geometric(l, r, alpha);
                (if closed { mean - l.exp() } else { mean }) / (alpha - 1.0)
            }
            Summand::Custom { generator, step, steps } => {
                let own = Own::new(l, r, generator, (step, steps));
                let constant = if closed { own.slope_at_1() } else { 0.0 };
                ((own.derivative() - constant) * &own.p).to_kind(Kind::Float)
            }
        }
    }

    /// With respect to `r`. The tensor is nobody else's.
    pub fn right_slopes(&self, l: &Tensor, r: &Tensor, closed: bool) -> Tensor {
        match self.limit(closed) {
            Some(Direction::LeftToRight) => return Summand::Kl.right_slopes(l, r, true),
            Some(Direction::RightToLeft) => return Summand::Kl.left_slopes(r, l, true),
            None => {}
        }
        match *self {
            Summand::Kl => {
                let p = l.exp();
                if closed { r.exp() - p } else { p.neg() }
            }
            Summand::Jsd { beta, normalized } => {
                let scale = if normalized { 1.0 / beta } else { 1.0 - beta };
                above_mixture(r, l, 1.0 - beta) * r.exp() * scale
            }
            Summand::Skew { lambda } => {
                let above = above_mixture(l, r, lambda);
                (if closed { above.expm1() } else { above.exp() }) * r.exp() * (lambda - 1.0)
            }
            Summand::TotalVariation => sign_of_difference(l, r) * r.exp() * -0.5,
            Summand::ChiSquared => r.exp() - (l * 2.0 - r).exp_(),
            Summand::Hellinger => (r.exp() - ((l + r) * 0.5).exp_()) * 0.5,
            Summand::Alpha { alpha } => {
                let (mean, q) = (geometric(l, r, alpha), r.exp());
                if closed { (q - mean) / alpha } else { (mean * (1.0 - alpha) - q) / (alpha * (alpha - 1.0)) }
            }
            Summand::Custom { generator, step, steps } => {
                let own = Own::new(l, r, generator, (step, steps));
                let constant = if closed { own.slope_at_1() } else { 0.0 };
                ((own.value() + constant) * &own.q - own.derivative() * &own.p).to_kind(Kind::Float)
            }
        }
    }

    /// The KL divergence that it becomes at the ends of its parameter, closed. The bare alpha divergence has
    /// a limit at 0 alone; the bare limit there is KL without its linear terms, which is close to what
    /// the formula gives.
    fn limit(&self, closed: bool) -> Option<Direction> {
        match *self {
            Summand::Alpha { alpha } if closed && (alpha - 1.0).abs() < ALPHA_MARGIN => {
                Some(Direction::LeftToRight)
            }
            Summand::Alpha { alpha } if closed && alpha.abs() < ALPHA_MARGIN => Some(Direction::RightToLeft),
            Summand::Jsd { beta, normalized: true } if beta < BETA_MARGIN => Some(Direction::LeftToRight),
            Summand::Jsd { beta, normalized: true } if 1.0 - beta < BETA_MARGIN => {
                Some(Direction::RightToLeft)
            }
            _ => None,
        }
    }
}

enum Direction {
    LeftToRight,
    RightToLeft,
}

/// `l - log(share * exp(l) + (1 - share) * exp(r))`, exactly 0 where `l = r`.
fn above_mixture(l: &Tensor, r: &Tensor, share: f64) -> Tensor {
    if share == 0.0 {
        return l - r;
    }
    let difference = (r - l).clamp_max_(FAR);
    let near = (difference.expm1() * (1.0 - share)).log1p_();
    if share >= SMALL_SHARE {
        return near.neg();
    }
    let apart = (difference.exp() * (1.0 - share) + share).log();
    apart.where_self(&difference.lt(-1.0), &near).neg()
}

/// `exp(alpha * l + (1 - alpha) * r)`, exactly `exp(r)` where `l = r`.
fn geometric(l: &Tensor, r: &Tensor, alpha: f64) -> Tensor {
    ((l - r) * alpha + r).exp_()
}

/// The sign of `exp(l) - exp(r)`, 0 where they agree.
fn sign_of_difference(l: &Tensor, r: &Tensor) -> Tensor {
    (l.exp() - r.exp()).sign_()
}

/// The author's generator at some entries, in double precision: `exp(l - r)` has no room in single.
struct Own<'a> {
    generator: &'a Generator,
    /// The step and the number of steps.
    time: (u32, u32),
    /// exp(l), exp(r), and their ratio.
    p: Tensor,
    q: Tensor,
    u: Tensor,
}

impl<'a> Own<'a> {
    /// Larger differences of log-probabilities overflow even here.
    const FARTHEST: f64 = 700.0;

    fn new(l: &Tensor, r: &Tensor, generator: &'a Generator, time: (u32, u32)) -> Own<'a> {
        let (l, r) = (l.to_kind(Kind::Double), r.to_kind(Kind::Double));
        let u = (&l - &r).clamp_(-Self::FARTHEST, Self::FARTHEST).exp_();
        Own { generator, time, p: l.exp(), q: r.exp(), u }
    }

    fn value(&self) -> Tensor {
        tensor_graph::elementwise(&self.generator.graph, self.generator.value, &[&self.u], self.time)
    }

    fn derivative(&self) -> Tensor {
        tensor_graph::elementwise(&self.generator.graph, self.generator.derivative, &[&self.u], self.time)
    }

    fn slope_at_1(&self) -> f64 {
        let one = Tensor::ones([1], (Kind::Double, self.u.device()));
        tensor_graph::elementwise(&self.generator.graph, self.generator.derivative, &[&one], self.time)
            .double_value(&[0])
    }
}
