//! The kernels of `adamw.cu` for tensors: [`crate::adamw`] on a GPU.

use std::ffi::{c_int, c_longlong};
use std::ptr::null_mut;
use std::sync::OnceLock;

use tch::{Kind, Tensor};

use super::driver::{Function, compile, launch};
use super::nvrtc::KernelSource;
use super::{Gpu, argument};
use crate::adamw::AdamWUpdate;

/// Threads per block, and most blocks: enough to occupy every current GPU, and the same on all of them,
/// because sums are taken block by block.
const THREADS: u32 = 256;
const BLOCKS: u32 = 2048;

#[derive(Clone, Copy, Debug)]
pub struct AdamWKernels {
    gpu: Gpu,
    step: Function,
    sum_of_squares: Function,
}

/// The parameters to update, `[numbers]`; see [`crate::adamw::AdamWParameters`].
#[derive(Clone, Copy)]
pub enum AdamWTensors<'a> {
    F32(&'a Tensor),
    Split { high: &'a Tensor, low: &'a Tensor },
}

fn source() -> KernelSource {
    KernelSource { text: include_str!("adamw.cu"), defines: vec![("THREADS", THREADS.into())] }
}

impl AdamWKernels {
    /// Compiles the kernels once per process.
    ///
    /// # Errors
    /// If CUDA's compiler is missing or fails.
    pub fn compile(gpu: Gpu) -> Result<AdamWKernels, String> {
        static COMPILED: OnceLock<Result<AdamWKernels, String>> = OnceLock::new();
        let compiled = COMPILED.get_or_init(|| {
            let names = [c"step", c"sum_of_squares"];
            let [step, sum_of_squares] = compile(gpu, &source(), names)?;
            Ok(AdamWKernels { gpu, step, sum_of_squares })
        });
        compiled.clone()
    }

    /// One step. Moments are f32, the gradient f32 or bf16, all `[numbers]`.
    pub fn step(
        &self,
        parameters: AdamWTensors,
        [mean, square]: [&Tensor; 2],
        gradient: &Tensor,
        mut update: AdamWUpdate,
    ) {
        let shape = [gradient.numel() as i64];
        let (mut values, mut low) = match parameters {
            AdamWTensors::F32(values) => (self.gpu.pointer(values, Kind::Float, &shape), null_mut()),
            AdamWTensors::Split { high, low } => {
                (self.gpu.pointer(high, Kind::BFloat16, &shape), self.gpu.pointer(low, Kind::Int16, &shape))
            }
        };
        let [mut mean, mut square] = [mean, square].map(|of| self.gpu.pointer(of, Kind::Float, &shape));
        let (mut gradient, mut is_bf16, mut count) = self.gradient(gradient);
        let mut arguments = [
            argument(&mut values),
            argument(&mut low),
            argument(&mut mean),
            argument(&mut square),
            argument(&mut gradient),
            argument(&mut is_bf16),
            argument(&mut count),
            argument(&mut update),
        ];
        // SAFETY: types and order are those of `adamw.cu`, kinds and sizes were checked. libtorch does not
        // reuse memory before its stream has passed the kernel.
        unsafe { launch(self.step, [blocks(count), 1], THREADS, self.gpu.stream(), &mut arguments) };
    }

    /// The sum of squares of a gradient, `[numbers]` in f32 or bf16, in f64.
    pub fn sum_of_squares(&self, gradient: &Tensor) -> f64 {
        let device = gradient.device();
        let (mut gradient, mut is_bf16, mut count) = self.gradient(gradient);
        let sums = Tensor::empty([i64::from(blocks(count))], (Kind::Double, device));
        let mut sums_at = sums.data_ptr();
        let mut arguments =
            [argument(&mut gradient), argument(&mut is_bf16), argument(&mut count), argument(&mut sums_at)];
        // SAFETY: as above.
        unsafe {
            launch(self.sum_of_squares, [blocks(count), 1], THREADS, self.gpu.stream(), &mut arguments)
        };
        sums.sum(Kind::Double).double_value(&[])
    }

    /// Its address, whether it is in bf16, and the number of its elements.
    fn gradient(&self, gradient: &Tensor) -> (*mut std::ffi::c_void, c_int, c_longlong) {
        let count = gradient.numel() as i64;
        let is_bf16 = gradient.kind() == Kind::BFloat16;
        let kind = if is_bf16 { Kind::BFloat16 } else { Kind::Float };
        (self.gpu.pointer(gradient, kind, &[count]), is_bf16.into(), count)
    }
}

fn blocks(count: i64) -> u32 {
    let blocks = (count as u64).div_ceil(THREADS.into()).clamp(1, BLOCKS.into());
    blocks as u32
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::tests::assert_compiles;
    use super::*;

    #[test]
    fn the_source_compiles() {
        assert_compiles("adamw.cu", &source());
    }
}
