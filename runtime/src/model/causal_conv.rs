//! Convolutions of single channels over the last tokens, in layers that have another part in place of
//! attention.

use tch::{Kind, Tensor};

use super::decoder::gather;
use super::packed_batch::PackedBatch;

/// What a layer remembers of sequences, one row for each.
pub(super) struct RecurrentState {
    /// `[rows, channels, taps - 1]`: the last inputs of the convolution, 0 before the first token.
    pub window: Tensor,
    /// Of the gated delta rule: `[rows, value heads, key head width, value head width]`, in single precision.
    pub state: Option<Tensor>,
}

impl RecurrentState {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.window).chain(&self.state)
    }

    /// Only these rows, in this order; a row may be repeated.
    pub fn select(&self, rows: &Tensor) -> RecurrentState {
        let selected = |all: &Tensor| all.index_select(0, rows);
        RecurrentState { window: selected(&self.window), state: self.state.as_ref().map(selected) }
    }

    /// Overwrites the rows from `first` on.
    pub fn write(&self, first: i64, read: &RecurrentState) {
        for (own, read) in self.tensors().zip(read.tensors()) {
            own.narrow(0, first, read.size()[0]).copy_(read);
        }
    }

    /// Appends the inputs of one token, `[rows, channels]`: what the convolution reads, `[rows, channels,
    /// taps]`.
    pub fn append(&mut self, inputs: &Tensor) -> Tensor {
        let read = Tensor::cat(&[&self.window, &inputs.unsqueeze(-1)], -1);
        self.window = read.narrow(-1, 1, read.size()[2] - 1).contiguous();
        read
    }
}

/// The inputs of a convolution for whole sequences, `[sequences, channels, taps - 1 + longest]`, from those
/// of a batch's tokens, `[tokens, channels]`: with zeros before the first token.
pub(super) fn with_past(inputs: &Tensor, batch: &PackedBatch, taps: usize) -> Tensor {
    padded(inputs, batch).transpose(1, 2).constant_pad_nd([taps as i64 - 1, 0])
}

/// `[tokens, channels]` as `[sequences, longest, channels]`.
pub(super) fn padded(x: &Tensor, batch: &PackedBatch) -> Tensor {
    let [sequences, longest] = batch.shape;
    gather(x, &batch.unpack).view([sequences, longest, -1])
}

/// The inputs of the last tokens of each sequence, or the zeros before the first, from what [`with_past`]
/// returns: `[sequences, channels, taps - 1]`.
pub(super) fn last_inputs(inputs: &Tensor, batch: &PackedBatch, taps: usize) -> Tensor {
    let before = taps as i64 - 1;
    let places =
        batch.lengths(inputs.device()).unsqueeze(1) + Tensor::arange(before, (Kind::Int64, inputs.device()));
    let places = places.unsqueeze(1).expand([inputs.size()[0], inputs.size()[1], before], false);
    inputs.detach().gather(2, &places, false)
}

/// `[rows, channels, taps - 1 + tokens]` to `[rows, channels, tokens]`.
pub(super) fn convolve(inputs: &Tensor, kernels: &Tensor, bias: Option<&Tensor>) -> Tensor {
    inputs.conv1d(kernels, bias, [1], [0], [1], inputs.size()[1])
}
