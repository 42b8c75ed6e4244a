//! The kernels of `entries.cu`, over tensors: [`crate::entries`] on a GPU.

use std::ffi::c_longlong;
use std::sync::OnceLock;

use tch::{Kind, Tensor};

use super::driver::{Function, compile, launch};
use super::{Gpu, argument};
use crate::entries::{KlGradient, Sum};

/// Threads of a block.
const THREADS: u32 = 512;
/// Blocks that share a row's gradients, at most.
const BLOCKS: u32 = 32;

#[derive(Clone, Copy, Debug)]
pub struct EntryKernels {
    gpu: Gpu,
    sum_kl: Function,
    sum_entropy: Function,
    kl_by_left: Function,
    kl_by_right: Function,
}

impl EntryKernels {
    /// Compiled once in a process.
    ///
    /// # Errors
    /// If CUDA's compiler is missing or refuses.
    pub fn of(gpu: Gpu) -> Result<EntryKernels, String> {
        static COMPILED: OnceLock<Result<EntryKernels, String>> = OnceLock::new();
        let compiled = COMPILED.get_or_init(|| {
            let names = [c"sum_kl", c"sum_entropy", c"gradient_kl_by_left", c"gradient_kl_by_right"];
            let [sum_kl, sum_entropy, kl_by_left, kl_by_right] =
                compile(gpu, include_str!("entries.cu"), &[("THREADS", THREADS.into())], names)?;
            Ok(EntryKernels { gpu, sum_kl, sum_entropy, kl_by_left, kl_by_right })
        });
        let kernels = compiled.clone()?;
        assert_eq!(kernels.gpu, gpu, "a process has one GPU");
        Ok(kernels)
    }

    /// A sum of each row of log-probabilities, `[rows, entries]` in f32: `[rows]`.
    pub fn sums(&self, sum: Sum, l: &Tensor, r: &Tensor) -> Tensor {
        let [rows, width] = l.size()[..] else { panic!("distributions have rows and entries") };
        let to = Tensor::empty([rows], (Kind::Float, l.device()));
        let [mut l, mut r] = [l, r].map(|side| self.gpu.pointer(side, Kind::Float, &[rows, width]));
        let (mut width, mut to_at) = (width as c_longlong, to.data_ptr());
        let mut arguments = [argument(&mut l), argument(&mut r), argument(&mut width), argument(&mut to_at)];
        let function = match sum {
            Sum::Kl => self.sum_kl,
            Sum::Entropy => self.sum_entropy,
        };
        // SAFETY: types and order are those of `entries.cu`, kinds and sizes were checked. Libtorch gives
        // memory to nobody else before its stream has come past the kernel.
        unsafe { launch(function, [rows as u32, 1], THREADS, self.gpu.stream(), &mut arguments) };
        to
    }

    /// Gradients of every entry, `[rows, entries]`, times a factor of its row, `[rows, 1]`.
    pub fn gradients(&self, gradient: KlGradient, [l, r]: [&Tensor; 2], factors: &Tensor) -> Tensor {
        let [rows, width] = l.size()[..] else { panic!("distributions have rows and entries") };
        let to = Tensor::empty([rows, width], (Kind::Float, l.device()));
        let [mut l, mut r] = [l, r].map(|side| self.gpu.pointer(side, Kind::Float, &[rows, width]));
        let mut factors = self.gpu.pointer(factors, Kind::Float, &[rows, 1]);
        let blocks = (width as u32).div_ceil(THREADS).clamp(1, BLOCKS);
        let (mut width, mut to_at) = (width as c_longlong, to.data_ptr());
        let mut arguments = [
            argument(&mut l),
            argument(&mut r),
            argument(&mut width),
            argument(&mut factors),
            argument(&mut to_at),
        ];
        let function = match gradient {
            KlGradient::KlByLeft => self.kl_by_left,
            KlGradient::KlByRight => self.kl_by_right,
        };
        // SAFETY: as above.
        unsafe { launch(function, [rows as u32, blocks], THREADS, self.gpu.stream(), &mut arguments) };
        to
    }
}
