//! The weights that a step reads: matrices in the model's own memory, the rest as copies.

use half::bf16;

use crate::gemv::{Matrix, Prefetch};
use crate::thread_pool::PoolWorker;

/// Cosines and sines of rotary positions: x becomes x * cosine + (x with its halves swapped) * sine.
pub struct Tables {
    pub cosine: Vec<f32>,
    pub sine: Vec<f32>,
}

pub struct LayerWeights {
    pub norm_attention: Vec<f32>,
    pub query: LinearWeights,
    pub key: LinearWeights,
    pub value: LinearWeights,
    pub query_norm: Option<Vec<f32>>,
    pub key_norm: Option<Vec<f32>>,
    pub output: LinearWeights,
    pub after_attention: Option<Vec<f32>>,
    pub norm_mlp: Vec<f32>,
    pub mlp: Mlp,
    pub after_mlp: Option<Vec<f32>>,
    pub window: usize,
    /// Index of the rotary tables; `None` where the layer has no positions.
    pub tables: Option<usize>,
}

pub enum Mlp {
    Plain(Gated),
    /// `router` has one output per expert.
    Experts {
        router: LinearWeights,
        experts: Vec<Gated>,
        per_token: usize,
        normalised: bool,
    },
}

pub struct Gated {
    pub gate: LinearWeights,
    pub up: LinearWeights,
    pub down: LinearWeights,
}

pub struct LinearWeights {
    pub weight: WeightMatrix,
    pub bias: Option<Vec<f32>>,
    pub outputs: usize,
}

impl LinearWeights {
    /// The address of an output's first weight, if there is such an output.
    pub(crate) fn prefetch(&self, output: usize) -> Option<Prefetch> {
        let inputs = self.weight.len() / self.outputs.max(1);
        (output < self.outputs).then(|| self.weight.matrix().prefetch(output, inputs))
    }

    /// The address that a worker reads first.
    pub(crate) fn first_of(&self, worker: &PoolWorker, piece: usize) -> Option<Prefetch> {
        self.prefetch(worker.index * piece)
    }
}

/// A matrix in the model's own memory, behind an owner that keeps the memory alive.
pub enum WeightMatrix {
    F32(Box<dyn AsRef<[f32]> + Send + Sync>),
    Bf16(Box<dyn AsRef<[bf16]> + Send + Sync>),
}

impl WeightMatrix {
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        match self {
            WeightMatrix::F32(numbers) => Matrix::F32((**numbers).as_ref()),
            WeightMatrix::Bf16(numbers) => Matrix::Bf16((**numbers).as_ref()),
        }
    }

    pub fn len(&self) -> usize {
        match self.matrix() {
            Matrix::F32(numbers) => numbers.len(),
            Matrix::Bf16(numbers) => numbers.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
