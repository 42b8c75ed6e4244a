//! The summand of every divergence at a vocabulary entry, and its gradients.
//!
//! Everything is a function of two log-probabilities, `l` of the left side and `r` of the right side, as
//! tensors of one shape; gradients are with respect to these. If generalized, each form and its gradients are
//! exactly 0 where `l = r`: an optimizer that normalises gradients would otherwise scale rounding noise there
//! to full steps.
//!
//! *Generalized* means that a linear function of `exp(l)` and `exp(r)` is added, which makes `l = r`
//! stationary for each entry: for KL `- exp(l) + exp(r)` (arXiv:2606.30406, eq. 5); for a generator `f`,
//! `- f'(1) (exp(l) - exp(r))`. Over two complete distributions it sums to 0.
//!
//! Frequent divergences have their own form in single precision. Every other divergence is the compiler's
//! graph of one entry and its derivatives, in double precision.

use mopd_expr::graph::NodeId;
use mopd_expr::summand::{LEAST_PROBABILITY, SummandGraph};
use tch::{Kind, Tensor};

use crate::train::tensor_graph;

/// The summand of a divergence, with the values of its parameters at this step.
pub enum StepSummand {
    Kl,
    Jsd { beta: f64, normalized: bool },
    Skew { lambda: f64 },
    Compiled(Box<CompiledSummand>),
}

/// Beyond this difference of log-probabilities, a mixture equals one of its sides in single precision, and
/// `exp` is about to overflow.
const FAR: f64 = 80.0;
/// A side whose share of the mixture is smaller than this can vanish in `1 + x`.
const SMALL_SHARE: f64 = 0.05;

impl StepSummand {
    pub fn values(&self, l: &Tensor, r: &Tensor, generalized: bool) -> Tensor {
        match self {
            StepSummand::Kl => {
                let p = l.exp();
                let value = &p * (l - r);
                if generalized { value - p + r.exp() } else { value }
            }
            StepSummand::Jsd { beta, normalized } => {
                let beta = *beta;
                let scale = if *normalized { 1.0 / (beta * (1.0 - beta)) } else { 1.0 };
                let left = above_mixture(l, r, beta) * l.exp() * (beta * scale);
                left + above_mixture(r, l, 1.0 - beta) * r.exp() * ((1.0 - beta) * scale)
            }
            StepSummand::Skew { lambda } => {
                let lambda = *lambda;
                let (p, above) = (l.exp(), above_mixture(l, r, lambda));
                let value = &p * above;
                if generalized { value + (r.exp() - p) * (1.0 - lambda) } else { value }
            }
            StepSummand::Compiled(own) => own.values(l, r, generalized),
        }
    }

    /// The gradient with respect to `l`, as a new tensor.
    pub fn grad_left(&self, l: &Tensor, r: &Tensor, generalized: bool) -> Tensor {
        match self {
            StepSummand::Kl => {
                let mut grad = l - r;
                if !generalized {
                    grad += 1.0;
                }
                grad *= l.exp();
                grad
            }
            StepSummand::Jsd { beta, normalized } => {
                let beta = *beta;
                let scale = if *normalized { 1.0 / (1.0 - beta) } else { beta };
                above_mixture(l, r, beta) * l.exp() * scale
            }
            StepSummand::Skew { lambda } => {
                let lambda = *lambda;
                let above = above_mixture(l, r, lambda);
                let grad = &above - above.expm1() * lambda;
                l.exp() * if generalized { grad } else { grad + (1.0 - lambda) }
            }
            StepSummand::Compiled(own) => own.grad(0, l, r, generalized),
        }
    }

    /// The gradient with respect to `r`, as a new tensor.
    pub fn grad_right(&self, l: &Tensor, r: &Tensor, generalized: bool) -> Tensor {
        match self {
            StepSummand::Kl => {
                let p = l.exp();
                if generalized { r.exp() - p } else { p.neg() }
            }
            StepSummand::Jsd { beta, normalized } => {
                let beta = *beta;
                let scale = if *normalized { 1.0 / beta } else { 1.0 - beta };
                above_mixture(r, l, 1.0 - beta) * r.exp() * scale
            }
            StepSummand::Skew { lambda } => {
                let lambda = *lambda;
                let above = above_mixture(l, r, lambda);
                (if generalized { above.expm1() } else { above.exp() }) * r.exp() * (lambda - 1.0)
            }
            StepSummand::Compiled(own) => own.grad(1, l, r, generalized),
        }
    }
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

/// A summand as a compiled graph, in double precision: the ratio of two probabilities may overflow in single.
pub struct CompiledSummand {
    own: SummandGraph,
    /// At equal sides: the derivative by the left one, and the gradients by both. `None` where they differ
    /// between entries: it is no divergence, and no linear function makes it stationary there.
    agreed: Option<[f64; 3]>,
}

impl CompiledSummand {
    pub fn new(own: SummandGraph) -> CompiledSummand {
        let mut made = CompiledSummand { own, agreed: None };
        made.agreed = made.where_equal();
        made
    }

    fn where_equal(&self) -> Option<[f64; 3]> {
        let sides = Tensor::from_slice(&[1e-6, 0.02, 0.3, 0.7]);
        let at = |node: NodeId| -> Vec<f64> {
            let values = self.at(node, &sides, &sides);
            (0..4).map(|place| values.double_value(&[place])).collect()
        };
        let same = |values: &[f64]| {
            let near = |value: &&f64| (**value - values[0]).abs() <= 1e-9 * values[0].abs().max(1.0);
            values.iter().filter(near).count() == values.len()
        };
        let [p, q, constant, _] = self.own.gradients.map(at);
        let whole: Vec<f64> = p.iter().zip(&constant).map(|(live, constant)| live + constant).collect();
        let none = at(self.own.value).iter().all(|value| value.abs() <= 1e-9);
        let grad = [whole, p, q];
        (none && grad.iter().all(|grad| same(grad))).then(|| grad.map(|grad| grad[0]))
    }

    /// The values of a node of the graph at some entries.
    fn at(&self, node: NodeId, p: &Tensor, q: &Tensor) -> Tensor {
        tensor_graph::elementwise(&self.own.graph, node, &[p, q, p, q], (0, 1)).expand_as(p)
    }

    fn sides(l: &Tensor, r: &Tensor) -> [Tensor; 2] {
        [l, r].map(|side| side.to_kind(Kind::Double).exp_().clamp_min_(LEAST_PROBABILITY))
    }

    /// Sets values to exactly 0 where both sides are equal: there they are a difference of two roundings.
    fn settled(values: Tensor, l: &Tensor, r: &Tensor) -> Tensor {
        values.masked_fill(&l.eq_tensor(r), 0.0)
    }

    fn values(&self, l: &Tensor, r: &Tensor, generalized: bool) -> Tensor {
        let [p, q] = Self::sides(l, r);
        let values = self.at(self.own.value, &p, &q);
        match self.agreed.filter(|_| generalized) {
            Some([grad, ..]) => Self::settled(values - (p - q) * grad, l, r),
            None => values,
        }
        .to_kind(Kind::Float)
    }

    /// The gradient with respect to the left side (`side` 0) or the right (1).
    fn grad(&self, side: usize, l: &Tensor, r: &Tensor, generalized: bool) -> Tensor {
        let sides = Self::sides(l, r);
        let grad = self.at(self.own.gradients[side], &sides[0], &sides[1]);
        match self.agreed.filter(|_| generalized) {
            Some(agreed) => Self::settled((grad - agreed[1 + side]) * &sides[side], l, r),
            None => grad * &sides[side],
        }
        .to_kind(Kind::Float)
    }
}
