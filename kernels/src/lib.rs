//! The CPU engine: loops of our own where libtorch's operators leave most of a processor idle, and whatever
//! else of the runtime needs `unsafe` code. All other crates forbid it, but for the expression compiler's
//! machine code.
//!
//! - The loops take slices and write slices. Each takes a [`Cpu`] first, the leave to run here; the runtime
//!   gets one from the place of its tensors, so that numbers of a GPU can't come here by mistake.
//! - [`tensor`] (feature `tch`) lends a tensor's memory as slices. Without the feature nothing here knows
//!   libtorch.
//! - [`accelerator`] (feature `tch`) asks libtorch about a GPU.
//! - [`cuda`] (feature `tch`) is the same for a GPU: kernels that are compiled while running, and graphs.
//! - [`symbols`] finds functions of libraries that are loaded already: matrix products and threads of
//!   libtorch.
//! - [`os`] asks the operating system for what the standard library has no function for.
//!
//! | loops | module |
//! |---|---|
//! | threads that go through phases together | [`thread_pool`] |
//! | a few rows times a matrix: decoding | [`gemv`] |
//! | small matrix products, f32 sums of bf16 factors | [`gemm`] |
//! | attention over packed sequences, forward and backward | [`causal_attention`], [`rope`] |
//! | attention of one new token over a paged cache | [`paged_attention`], [`pages`] |
//! | one more token for every row: a whole decoder | [`decode`] |
//! | the training pass's loops for f32 and bf16, as other crates call them | [`TrainingScalar`] |
//! | gated linear units and normalisation, forward and backward | [`gated_unit`] |
//! | sums over the vocabulary and their gradients | [`entries`] |
//! | AdamW and the gradient's norm | [`adamw`] |
//! | the sum of a long list: reading memory | [`sum`] |

#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "tch")]
pub mod accelerator;
pub mod adamw;
pub mod causal_attention;
#[cfg(feature = "tch")]
pub mod cuda;
pub mod decode;
pub mod entries;
mod features;
pub mod functions;
pub mod gated_unit;
pub mod gemm;
pub mod gemv;
mod lanes;
mod lines;
pub mod os;
pub mod paged_attention;
pub mod pages;
#[cfg(target_arch = "x86_64")]
mod registers;
pub mod rope;
mod scalar;
pub mod sum;
pub mod symbols;
#[cfg(feature = "tch")]
pub mod tensor;
pub mod thread_pool;
mod training;

pub use features::{CpuFeatures, Loop, with_cpu_features};
pub use scalar::{Scalar, round_to_bf16, round_to_bf16_in_place};
pub use thread_pool::Cpu;
pub use training::TrainingScalar;
