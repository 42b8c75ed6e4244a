//! A matrix with an optional bias.

use tch::Tensor;

/// `x * weight' + bias`
pub(super) struct Linear {
    /// `[outputs, inputs]`
    pub weight: Tensor,
    /// `[outputs]`
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `[.., inputs]` to `[.., outputs]`.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}
