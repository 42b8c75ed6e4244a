//! What a step reads of a model: its matrices where the decoder has them, the rest as numbers of its own.

use tch::{Kind, Tensor};

use mopd_kernels::crew::Member;
use mopd_kernels::thin::{Matrix, Place};

pub(super) struct Tables {
    pub cosine: Vec<f32>,
    pub sine: Vec<f32>,
}

pub(super) struct Layer {
    pub norm_attention: Vec<f32>,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub query_norm: Option<Vec<f32>>,
    pub key_norm: Option<Vec<f32>>,
    pub output: Linear,
    pub after_attention: Option<Vec<f32>>,
    pub norm_feed_forward: Vec<f32>,
    pub feed_forward: FeedForward,
    pub after_feed_forward: Option<Vec<f32>>,
    pub window: usize,
    /// Which rotary tables; none where the layer has no positions.
    pub tables: Option<usize>,
}

pub(super) enum FeedForward {
    Plain(Gated),
    /// `router` has one output per expert.
    Experts {
        router: Linear,
        experts: Vec<Gated>,
        per_token: usize,
        normalised: bool,
    },
}

pub(super) struct Gated {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

pub(super) struct Linear {
    pub weight: Weight,
    pub bias: Option<Vec<f32>>,
    pub outputs: usize,
}

impl Linear {
    /// Where the weights of an output begin, if there is such a one.
    pub fn place(&self, output: usize) -> Option<Place> {
        let inputs = self.weight.length / self.outputs.max(1);
        (output < self.outputs).then(|| self.weight.matrix().place(output, inputs))
    }

    /// What a member reads of it first.
    pub fn first_of(&self, member: &Member, piece: usize) -> Option<Place> {
        self.place(member.index * piece)
    }
}

/// A matrix where the decoder has it; nobody writes to it while the stepper lives.
pub(super) struct Weight {
    pub tensor: Tensor,
    /// What the tensor would tell, each time by a call into another library.
    start: *const std::ffi::c_void,
    pub length: usize,
    half: bool,
}

// SAFETY: libtorch's tensors are reference-counted atomically; threads here only read the numbers.
unsafe impl Sync for Weight {}

impl Weight {
    /// In single precision or in half, on the processor.
    pub fn new(tensor: Tensor) -> Weight {
        let tensor = tensor.contiguous();
        Weight {
            start: tensor.data_ptr(),
            length: tensor.numel(),
            half: tensor.kind() == Kind::BFloat16,
            tensor,
        }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        // SAFETY: a contiguous tensor on the processor, of the kind that was looked at, alive as long as
        // `self`.
        unsafe {
            if self.half {
                Matrix::Half(std::slice::from_raw_parts(self.start.cast(), self.length))
            } else {
                Matrix::Single(std::slice::from_raw_parts(self.start.cast(), self.length))
            }
        }
    }
}
