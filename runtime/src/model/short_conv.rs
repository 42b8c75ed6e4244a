//! The gated convolution of LFM2 (arXiv:2511.23404), which some layers have in place of attention: a token's
//! inputs are multiplied by a gate, convolved with those of the tokens before, and multiplied by another
//! gate.

use tch::{Device, Kind, Tensor};

use super::attention::LayerRead;
use super::causal_conv::{RecurrentState, convolve, last_inputs, with_past};
use super::decoder::{Decoder, gather};
use super::linear::Linear;
use super::packed_batch::PackedBatch;
use super::{Config, ShortConv};

/// Parameters of a layer's convolution. Its output projection is that of the layer.
pub(super) struct ShortConvWeights {
    /// Rows for the gate before, for the gate behind, and for the inputs.
    pub inputs: Linear,
    /// `[width, 1, taps]`
    pub convolution: Tensor,
    pub bias: Option<Tensor>,
}

impl ShortConv {
    /// What a layer remembers before the first token.
    pub(super) fn empty(&self, config: &Config, rows: i64, kind: Kind, device: Device) -> RecurrentState {
        let shape = [rows, config.width as i64, self.taps as i64 - 1];
        RecurrentState { window: Tensor::zeros(shape, (kind, device)), state: None }
    }
}

impl ShortConvWeights {
    /// The inputs of the convolution, and the gate behind it, `[tokens, width]` each.
    fn project(&self, normed: &Tensor) -> [Tensor; 2] {
        let parts = self.inputs.apply(normed).chunk(3, -1);
        [&parts[0] * &parts[2], parts[1].shallow_clone()]
    }

    fn taps(&self) -> usize {
        self.convolution.size()[2] as usize
    }
}

/// Decoders with such layers.
impl Decoder {
    /// The output before the output projection, `[tokens, width]`, in the `last` layer only where a
    /// completion token is predicted; and what the layer remembers of each sequence.
    pub(super) fn short_conv(
        &self,
        weights: &ShortConvWeights,
        normed: &Tensor,
        batch: &PackedBatch,
        last: bool,
    ) -> (Tensor, LayerRead) {
        let [inputs, gate] = weights.project(normed);
        let inputs = with_past(&inputs, batch, weights.taps());
        let window = last_inputs(&inputs, batch, weights.taps());
        let output = convolve(&inputs, &weights.convolution, weights.bias.as_ref());
        let output = output.transpose(1, 2).flatten(0, 1);
        let output = gather(&output, if last { &batch.predictors_padded } else { &batch.pack });
        let gate = if last { gather(&gate, &batch.predictors) } else { gate };
        (gate * output, LayerRead::Recurrent(RecurrentState { window, state: None }))
    }

    /// The same for one more token of every row, `[rows, width]`; changes what the layer remembers.
    pub(super) fn short_conv_step(
        &self,
        weights: &ShortConvWeights,
        normed: &Tensor,
        remembered: &mut RecurrentState,
    ) -> Tensor {
        let [inputs, gate] = weights.project(normed);
        let inputs = remembered.append(&inputs);
        gate * convolve(&inputs, &weights.convolution, weights.bias.as_ref()).squeeze_dim(-1)
    }
}
