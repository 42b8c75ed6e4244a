//! The kernels of `entries.cu` for tensors: [`crate::entries`] on a GPU.

use std::ffi::{CStr, c_int, c_longlong, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use tch::{Kind, Tensor};

use super::driver::{Function, compile, launch};
use super::nvrtc::KernelSource;
use super::{Gpu, argument};
use crate::entries::{KlGradient, Sum};

/// Threads per block.
const THREADS: u32 = 512;
/// Most blocks that share a row's gradients.
const BLOCKS: u32 = 32;

#[derive(Clone, Copy, Debug)]
pub struct EntryKernels {
    gpu: Gpu,
    /// In the order of [`EntryKernel::ALL`].
    functions: [Function; EntryKernel::ALL.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKernel {
    SumKl,
    SumEntropy,
    GradientKlByLeft,
    GradientKlByRight,
    Normalizers,
    KlByLeftLogits,
    KlByRightLogits,
    ZeroRows,
}

impl EntryKernel {
    const ALL: [EntryKernel; 8] = [
        EntryKernel::SumKl,
        EntryKernel::SumEntropy,
        EntryKernel::GradientKlByLeft,
        EntryKernel::GradientKlByRight,
        EntryKernel::Normalizers,
        EntryKernel::KlByLeftLogits,
        EntryKernel::KlByRightLogits,
        EntryKernel::ZeroRows,
    ];

    /// The kernel's name in `entries.cu`.
    fn name(self) -> &'static CStr {
        match self {
            EntryKernel::SumKl => c"sum_kl",
            EntryKernel::SumEntropy => c"sum_entropy",
            EntryKernel::GradientKlByLeft => c"gradient_kl_by_left",
            EntryKernel::GradientKlByRight => c"gradient_kl_by_right",
            EntryKernel::Normalizers => c"normalizers",
            EntryKernel::KlByLeftLogits => c"kl_by_left_logits",
            EntryKernel::KlByRightLogits => c"kl_by_right_logits",
            EntryKernel::ZeroRows => c"zero_rows",
        }
    }
}

/// Next-token distributions, `[rows, entries]` in f32.
#[derive(Clone, Copy)]
pub enum Distributions<'a> {
    LogProbabilities(&'a Tensor),
    /// Logits, and the logsumexp of each row, `[rows]`.
    Logits {
        logits: &'a Tensor,
        normalizers: &'a Tensor,
    },
}

/// The same struct as in `entries.cu`.
#[repr(C)]
struct Side {
    logits: *mut c_void,
    normalizers: *mut c_void,
}

fn source() -> KernelSource {
    KernelSource { text: include_str!("entries.cu"), defines: vec![("THREADS", THREADS.into())] }
}

impl EntryKernels {
    /// Compiles the kernels once per process.
    ///
    /// # Errors
    /// If CUDA's compiler is missing or fails.
    pub fn compile(gpu: Gpu) -> Result<EntryKernels, String> {
        static COMPILED: OnceLock<Result<EntryKernels, String>> = OnceLock::new();
        let compiled = COMPILED.get_or_init(|| {
            let names = EntryKernel::ALL.map(EntryKernel::name);
            let functions = compile(gpu, &source(), names)?;
            Ok(EntryKernels { gpu, functions })
        });
        compiled.clone()
    }

    /// Sums over each row: `[rows]`.
    pub fn sums(&self, sum: Sum, l: Distributions, r: Distributions) -> Tensor {
        let [rows, width] = l.shape();
        let to = Tensor::empty([rows], (Kind::Float, l.tensor().device()));
        let [mut l, mut r] = [l, r].map(|side| self.side(side, [rows, width]));
        let (mut width, mut to_at) = (width as c_longlong, to.data_ptr());
        let mut arguments = [argument(&mut l), argument(&mut r), argument(&mut width), argument(&mut to_at)];
        let kernel = match sum {
            Sum::Kl => EntryKernel::SumKl,
            Sum::Entropy => EntryKernel::SumEntropy,
        };
        // SAFETY: types and order are those of `entries.cu`, kinds and sizes were checked. libtorch does not
        // reuse memory before its stream has passed the kernel.
        unsafe { self.launch(kernel, [rows as u32, 1], &mut arguments) };
        to
    }

    /// Gradients of every entry, `[rows, entries]`, times its row's factor, `[rows, 1]`.
    pub fn gradients(&self, gradient: KlGradient, [l, r]: [Distributions; 2], factors: &Tensor) -> Tensor {
        let [rows, width] = l.shape();
        let to = Tensor::empty([rows, width], (Kind::Float, factors.device()));
        let [mut l, mut r] = [l, r].map(|side| self.side(side, [rows, width]));
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
        let kernel = match gradient {
            KlGradient::KlByLeft => EntryKernel::GradientKlByLeft,
            KlGradient::KlByRight => EntryKernel::GradientKlByRight,
        };
        // SAFETY: as above.
        unsafe { self.launch(kernel, [rows as u32, blocks], &mut arguments) };
        to
    }

    /// The logsumexp of each row, `[rows]`, of logits `[rows, entries]` in f32.
    pub fn normalizers(&self, logits: &Tensor) -> Tensor {
        let [rows, width] = logits.size()[..] else { panic!("distributions have rows and entries") };
        let to = Tensor::empty([rows], (Kind::Float, logits.device()));
        let mut logits = self.gpu.pointer(logits, Kind::Float, &[rows, width]);
        let (mut width, mut to_at) = (width as c_longlong, to.data_ptr());
        let mut arguments = [argument(&mut logits), argument(&mut width), argument(&mut to_at)];
        // SAFETY: as above.
        unsafe { self.launch(EntryKernel::Normalizers, [rows as u32, 1], &mut arguments) };
        to
    }

    /// Backpropagates [`Self::gradients`] to the logits of their side, into `to`, `[rows, entries]` in f32 or
    /// bf16, which may be the tensor of those logits.
    pub fn gradients_by_logits(
        &self,
        gradient: KlGradient,
        [l, r]: [Distributions; 2],
        factors: &Tensor,
        to: &Tensor,
    ) {
        let [rows, width] = l.shape();
        let [mut l, mut r] = [l, r].map(|side| self.side(side, [rows, width]));
        let mut factors = self.gpu.pointer(factors, Kind::Float, &[rows, 1]);
        let mut is_bf16 = c_int::from(to.kind() == Kind::BFloat16);
        let kind = if is_bf16 != 0 { Kind::BFloat16 } else { Kind::Float };
        let mut to_at = self.gpu.pointer(to, kind, &[rows, width]);
        let mut width = width as c_longlong;
        let mut arguments = [
            argument(&mut l),
            argument(&mut r),
            argument(&mut width),
            argument(&mut factors),
            argument(&mut to_at),
            argument(&mut is_bf16),
        ];
        let kernel = match gradient {
            KlGradient::KlByLeft => EntryKernel::KlByLeftLogits,
            KlGradient::KlByRight => EntryKernel::KlByRightLogits,
        };
        // SAFETY: as above.
        unsafe { self.launch(kernel, [rows as u32, 1], &mut arguments) };
    }

    /// Zeroes the rows of `of`, `[rows, entries]` of any kind, whose factor, `[rows, 1]`, is 0.
    pub fn zero_rows(&self, of: &Tensor, factors: &Tensor) {
        let [rows, width] = of.size()[..] else { panic!("gradients have rows and entries") };
        let mut at = self.gpu.pointer(of, of.kind(), &[rows, width]);
        let mut bytes = width * of.kind().elt_size_in_bytes() as c_longlong;
        let mut factors = self.gpu.pointer(factors, Kind::Float, &[rows, 1]);
        let mut arguments = [argument(&mut at), argument(&mut bytes), argument(&mut factors)];
        // SAFETY: as above.
        unsafe { self.launch(EntryKernel::ZeroRows, [rows as u32, 1], &mut arguments) };
    }

    /// # Safety
    /// As for [`launch`].
    unsafe fn launch(&self, kernel: EntryKernel, blocks: [u32; 2], arguments: &mut [*mut c_void]) {
        // SAFETY: by the caller's promise.
        unsafe {
            launch(self.functions[kernel as usize], blocks, THREADS, self.gpu.stream(), arguments);
        }
    }

    fn side(&self, of: Distributions, shape: [i64; 2]) -> Side {
        let normalizers = match of {
            Distributions::LogProbabilities(_) => null_mut(),
            Distributions::Logits { normalizers, .. } => {
                self.gpu.pointer(normalizers, Kind::Float, &shape[..1])
            }
        };
        Side { logits: self.gpu.pointer(of.tensor(), Kind::Float, &shape), normalizers }
    }
}

impl<'a> Distributions<'a> {
    fn tensor(self) -> &'a Tensor {
        match self {
            Distributions::LogProbabilities(tensor) | Distributions::Logits { logits: tensor, .. } => tensor,
        }
    }

    fn shape(self) -> [i64; 2] {
        self.tensor().size()[..].try_into().expect("distributions have rows and entries")
    }
}

#[cfg(test)]
mod tests {
    use super::super::nvrtc::tests::assert_compiles;
    use super::*;

    #[test]
    fn the_source_compiles() {
        assert_compiles("entries.cu", &source());
    }

    #[test]
    fn kernels_stand_in_their_order_and_in_the_source() {
        let source = include_str!("entries.cu");
        for (index, kernel) in EntryKernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel as usize, index);
            let name = kernel.name().to_str().unwrap();
            assert!(source.contains(&format!("__global__ void {name}(")), "{name}");
        }
    }
}
