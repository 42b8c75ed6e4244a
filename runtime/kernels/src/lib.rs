//! The CPU engine: hand-written loops where libtorch's operators leave most of a CPU idle, and all other
//! `unsafe` code of the runtime. All other crates forbid `unsafe`, except for the machine code of the
//! expression compiler.
//!
//! - The loops read and write slices. Their first argument is a [`Cpu`], the token that permits CPU loops;
//!   the runtime gets one from the place of its tensors, so that a GPU's memory can't get here by mistake.
//! - [`tensor`] (feature `tch`) borrows a tensor's memory as slices. Without the feature, the crate does not
//!   depend on libtorch.
//! - [`accelerator`] (feature `tch`) queries and controls a GPU through libtorch.
//! - [`cuda`] (feature `tch`) is the engine for GPUs: kernels compiled at run time, and graphs.
//! - [`symbols`] finds functions of libraries that are loaded already: libtorch's matrix products and
//!   threads.
//! - [`os`] has safe wrappers of system calls that the standard library lacks.
//!
//! | loops | module |
//! |---|---|
//! | threads that run phases in parallel, with barriers between them | [`thread_pool`] |
//! | a few rows times a matrix: decoding | [`gemv`] |
//! | other matrix products, f32 sums of bf16 factors | [`gemm`] |
//! | attention over packed sequences, forward and backward | [`causal_attention`], [`rope`] |
//! | attention of one new token over a paged cache | [`paged_attention`], [`pages`] |
//! | one step of a whole decoder: the next token of every row | [`decode`] |
//! | the training pass's loops for f32 and bf16, the interface for other crates | [`TrainingScalar`] |
//! | gated linear units and normalisation, forward and backward | [`gated_unit`] |
//! | sums over the vocabulary and their gradients | [`entries`] |
//! | AdamW and the gradient's norm | [`adamw`] |
//! | the sum of a long list, to measure memory bandwidth | [`sum`] |

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
pub mod matrix_view;
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

pub use features::{CpuFeatures, SimdKernel, with_cpu_features};
pub use scalar::{Scalar, round_to_bf16, round_to_bf16_in_place};
pub use thread_pool::Cpu;
pub use training::TrainingScalar;
