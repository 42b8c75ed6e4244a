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
use tch::{Device, Kind, Tensor};

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
    /// `first` is the index of the first row among the tokens of the step.
    pub fn values(&self, l: &Tensor, r: &Tensor, generalized: bool, first: i64) -> Tensor {
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
            StepSummand::Compiled(own) => own.values(l, r, generalized, first),
        }
    }

    /// The gradient with respect to `l`, as a new tensor.
    pub fn grad_left(&self, l: &Tensor, r: &Tensor, generalized: bool, first: i64) -> Tensor {
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
            StepSummand::Compiled(own) => own.grad(0, l, r, generalized, first),
        }
    }

    /// The gradient with respect to `r`, as a new tensor.
    pub fn grad_right(&self, l: &Tensor, r: &Tensor, generalized: bool, first: i64) -> Tensor {
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
            StepSummand::Compiled(own) => own.grad(1, l, r, generalized, first),
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
    /// The parameters, in double precision: one number, or `[tokens]` for all tokens of the step.
    parameters: Vec<Tensor>,
    /// The probabilities at which equal sides are tried, `[1, 4]`.
    sides: Tensor,
    /// At equal sides, where the parameters are the same for all tokens.
    agreed: Option<Agreed>,
}

/// A summand and its gradients at equal sides.
struct Agreed {
    /// Whether they are the same at every entry, and the summand is 0. Otherwise it is no divergence, and no
    /// linear function makes it stationary there.
    holds: Tensor,
    /// The derivative by the left side, and the gradients by both; 0 where that does not hold.
    grad: [Tensor; 3],
}

impl CompiledSummand {
    pub fn new(own: SummandGraph, parameters: Vec<Tensor>, device: Device) -> CompiledSummand {
        let sides = Tensor::from_slice(&[1e-6, 0.02, 0.3, 0.7]).view([1, 4]).to_device(device);
        let mut made = CompiledSummand { own, parameters, sides, agreed: None };
        if made.parameters.iter().all(|numbers| numbers.numel() == 1) {
            made.agreed = Some(made.where_equal(&made.of_rows(0, 1)));
        }
        made
    }

    /// The parameters of some rows, `[rows, 1]`, or `[1, 1]` where all have one number.
    fn of_rows(&self, first: i64, rows: i64) -> Vec<Tensor> {
        let of_rows = |numbers: &Tensor| match numbers.numel() {
            1 => numbers.view([1, 1]),
            _ => numbers.narrow(0, first, rows).unsqueeze(1),
        };
        self.parameters.iter().map(of_rows).collect()
    }

    fn where_equal(&self, parameters: &[Tensor]) -> Agreed {
        let at = |node: NodeId| self.at(node, &self.sides, &self.sides, parameters);
        let same = |values: &Tensor| {
            let first = values.narrow(1, 0, 1);
            let bound = first.abs().clamp_min(1.0) * 1e-9;
            (values - &first).abs().le_tensor(&bound).all_dim(1, true)
        };
        let [p, q, constant, _] = self.own.gradients.map(at);
        let zero = at(self.own.value).abs().le(1e-9).all_dim(1, true);
        let grad = [p.shallow_clone() + constant, p, q];
        let holds = grad.iter().map(same).fold(zero, |holds, same| holds.logical_and(&same));
        let none = holds.logical_not();
        let grad = grad.map(|grad| grad.narrow(1, 0, 1).masked_fill(&none, 0.0));
        Agreed { holds, grad }
    }

    /// The values of a node of the graph at some entries, `[rows, entries]`.
    fn at(&self, node: NodeId, p: &Tensor, q: &Tensor, parameters: &[Tensor]) -> Tensor {
        let live: Vec<&Tensor> = [p, q, p, q].into_iter().chain(parameters).collect();
        let values = tensor_graph::elementwise(&self.own.graph, node, &live, (0, 1));
        let rows = parameters.iter().map(|numbers| numbers.size()[0]).chain([p.size()[0]]).max();
        values.expand([rows.unwrap_or(1), p.size()[1]], true)
    }

    fn sides(l: &Tensor, r: &Tensor) -> [Tensor; 2] {
        [l, r].map(|side| side.to_kind(Kind::Double).exp_().clamp_min_(LEAST_PROBABILITY))
    }

    fn values(&self, l: &Tensor, r: &Tensor, generalized: bool, first: i64) -> Tensor {
        let [p, q] = Self::sides(l, r);
        let parameters = self.of_rows(first, l.size()[0]);
        let values = self.at(self.own.value, &p, &q, &parameters);
        let values = match generalized {
            true => self
                .with_agreed(&parameters, |agreed| agreed.settled(values - (p - q) * &agreed.grad[0], l, r)),
            false => values,
        };
        values.to_kind(Kind::Float)
    }

    /// The gradient with respect to the left side (`side` 0) or the right (1).
    fn grad(&self, side: usize, l: &Tensor, r: &Tensor, generalized: bool, first: i64) -> Tensor {
        let sides = Self::sides(l, r);
        let parameters = self.of_rows(first, l.size()[0]);
        let grad = self.at(self.own.gradients[side], &sides[0], &sides[1], &parameters);
        let grad = match generalized {
            true => self.with_agreed(&parameters, |agreed| {
                agreed.settled((grad - &agreed.grad[1 + side]) * &sides[side], l, r)
            }),
            false => grad * &sides[side],
        };
        grad.to_kind(Kind::Float)
    }

    /// Applies what holds at equal sides, for the parameters of some rows.
    fn with_agreed(&self, parameters: &[Tensor], apply: impl FnOnce(&Agreed) -> Tensor) -> Tensor {
        match &self.agreed {
            Some(agreed) => apply(agreed),
            None => apply(&self.where_equal(parameters)),
        }
    }
}

impl Agreed {
    /// Sets values to exactly 0 where both sides are equal and the summand is a divergence: there they are a
    /// difference of two roundings.
    fn settled(&self, values: Tensor, l: &Tensor, r: &Tensor) -> Tensor {
        values.masked_fill(&l.eq_tensor(r).logical_and(&self.holds), 0.0)
    }
}
