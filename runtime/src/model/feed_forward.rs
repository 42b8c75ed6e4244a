//! The part of a layer after attention: a gated linear unit (arXiv:2002.05202), or experts, of which each
//! token uses a few (arXiv:1701.06538).

use tch::{Kind, Tensor};

use super::attention::wide_softmax;
use super::linear::Linear;
use super::{Activation, ClampedUnit, Experts};

pub(super) enum FeedForward {
    /// Training multiplies by gate and up separately, because the backward pass of a split costs more than it
    /// saves. `gate_up` is both as one matrix that shares their memory, for inference.
    Gated {
        gate: Linear,
        up: Linear,
        gate_up: Linear,
        down: Linear,
    },
    Experts(ExpertWeights),
}

/// All experts of a layer, stacked.
pub(super) struct ExpertWeights {
    /// `[experts, width]`
    pub router: Linear,
    /// `[experts, 2 * inner, width]`: for each expert, gate then up. Of clamped units `[experts, width,
    /// 2 * inner]`, with outputs of gate and up in turn.
    pub gate_up: Tensor,
    /// `[experts, width, inner]`. Of clamped units `[experts, inner, width]`.
    pub down: Tensor,
    /// Of clamped units: `[experts, 2 * inner]` and `[experts, width]`.
    pub biases: Option<[Tensor; 2]>,
}

impl FeedForward {
    /// The gate, up and down matrices; `None` where there are experts.
    pub fn matrices(&self) -> Option<[&Tensor; 3]> {
        match self {
            FeedForward::Gated { gate, up, down, .. } => Some([&gate.weight, &up.weight, &down.weight]),
            FeedForward::Experts(_) => None,
        }
    }

    /// The output for `x`, `[tokens, width]`; with experts, also the number of tokens of each, `[experts]`.
    pub fn train(
        &self,
        x: &Tensor,
        activation: Activation,
        experts: Option<&Experts>,
    ) -> (Tensor, Option<Tensor>) {
        match (self, experts) {
            (FeedForward::Gated { gate, up, down, .. }, _) => {
                (down.apply(&(activate(&gate.apply(x), activation) * up.apply(x))), None)
            }
            (FeedForward::Experts(weights), Some(experts)) => {
                let (output, counts) = weights.apply(x, activation, experts);
                (output, Some(counts))
            }
            (FeedForward::Experts(_), None) => {
                unreachable!("a layer with experts belongs to a configuration with experts")
            }
        }
    }

    /// The same without a gradient.
    pub fn infer(&self, x: &Tensor, activation: Activation, experts: Option<&Experts>) -> Tensor {
        match self {
            FeedForward::Gated { gate_up, down, .. } => down.apply(&gated(&gate_up.apply(x), activation)),
            FeedForward::Experts(_) => self.train(x, activation, experts).0,
        }
    }
}

impl ExpertWeights {
    fn apply(&self, x: &Tensor, activation: Activation, experts: &Experts) -> (Tensor, Tensor) {
        let (count, used) = (experts.count as i64, experts.per_token as i64);
        let (tokens, width) = (x.size()[0], x.size()[1]);
        // The first of equal weights, as in generation.
        let weights = wide_softmax(&self.router.apply(x));
        let chosen = weights.argsort_stable(true, -1, true).narrow(-1, 0, used).contiguous();
        let mut weights = weights.gather(-1, &chosen, false);
        if experts.normalised {
            weights = &weights / weights.sum_dim_intlist(-1, true, weights.kind());
        }
        let weights = weights.to_kind(x.kind());
        // Tokens sorted by expert, so that each expert is one matrix product, however the tokens are
        // distributed.
        let chosen = chosen.view([-1]);
        let counts = chosen.bincount::<&Tensor>(None, count);
        let order = chosen.argsort_stable(true, 0, false);
        let inputs = x.index_select(0, &order.divide_scalar_mode(used, "floor"));
        let sizes = Vec::<i64>::try_from(&counts).expect("counts are integers in one row");
        let biases = self.biases.as_ref().map(|both| both.each_ref().map(|all| all.unbind(0)));
        let outputs: Vec<Tensor> = inputs
            .split_with_sizes(sizes.as_slice(), 0)
            .iter()
            .zip(self.gate_up.unbind(0))
            .zip(self.down.unbind(0))
            .enumerate()
            .filter(|(_, ((inputs, _), _))| inputs.size()[0] > 0)
            .map(|(expert, ((inputs, gate_up), down))| match (&experts.clamped, &biases) {
                (Some(unit), Some([of_gate_up, of_down])) => {
                    let inner = unit.apply(&(inputs.matmul(&gate_up) + &of_gate_up[expert]));
                    inner.matmul(&down) + &of_down[expert]
                }
                _ => {
                    let inner = gated(&inputs.linear::<&Tensor>(&gate_up, None), activation);
                    inner.linear::<&Tensor>(&down, None)
                }
            })
            .collect();
        // Back to the order of the tokens. Each token's parts are summed in the order of their weights, so
        // the result does not depend on other tokens.
        let parts =
            Tensor::cat(&outputs, 0).index_select(0, &order.argsort(0, false)).view([tokens, used, width]);
        let output = (parts * weights.unsqueeze(-1)).sum_dim_intlist(1i64, false, None::<Kind>);
        (output, counts)
    }
}

impl ClampedUnit {
    /// From `[.., 2 * inner]`, with gate and up in turn.
    fn apply(&self, gate_up: &Tensor) -> Tensor {
        let parts = gate_up.unflatten(-1, [-1, 2]).unbind(-1);
        let (gate, up) = (parts[0].clamp_max(self.limit), parts[1].clamp(-self.limit, self.limit));
        (up + 1.0) * (&gate * (&gate * self.alpha).sigmoid())
    }
}

/// activation(gate) * up, from `[.., 2 * inner]`, gate before up.
fn gated(gate_up: &Tensor, activation: Activation) -> Tensor {
    let inner = gate_up.size()[gate_up.dim() - 1] / 2;
    activate(&gate_up.narrow(-1, 0, inner), activation) * gate_up.narrow(-1, inner, inner)
}

fn activate(x: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu("tanh"),
    }
}

/// How tokens were distributed over experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertLoad {
    /// For each layer with experts, the number of tokens of each expert. A token counts once for every expert
    /// that it uses.
    pub counts: Vec<Vec<i64>>,
}

impl ExpertLoad {
    /// Each expert's share of its layer's tokens; a layer's shares add up to 1.
    pub fn shares(&self) -> Vec<Vec<f64>> {
        let share = |counts: &Vec<i64>| {
            let total = counts.iter().sum::<i64>().max(1) as f64;
            counts.iter().map(|count| *count as f64 / total).collect()
        };
        self.counts.iter().map(share).collect()
    }

    /// The largest share of any expert: 1 / experts where the load is even, 1 / experts used per token where
    /// one expert is used by every token.
    pub fn largest_share(&self) -> f64 {
        self.shares().into_iter().flatten().fold(0.0, f64::max)
    }

    /// The entropy of the shares divided by its maximum, averaged over layers: 1 where the load is even, 0
    /// where one expert takes all.
    pub fn entropy(&self) -> f64 {
        let of_layer = |shares: &Vec<f64>| {
            let entropy: f64 =
                shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
            if shares.len() > 1 { entropy / (shares.len() as f64).ln() } else { 1.0 }
        };
        let layers = self.shares();
        layers.iter().map(of_layer).sum::<f64>() / layers.len().max(1) as f64
    }
}
