//! The place of a run: the device of its tensors, the engine that computes on them, and the sizes of pieces
//! of work. A run has one place. It, never a tensor, decides between own loops and libtorch's operators.

use std::time::Instant;

use mopd_kernels::cuda::Gpu;
use mopd_kernels::{Cpu, accelerator, tensor};
use tch::{Device, Kind, Tensor, no_grad_guard};

/// The place of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub device: Device,
    engine: Engine,
    pub sizes: Sizes,
}

/// The engine that computes on tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// The CPU engine's loops where they exist, libtorch's operators elsewhere.
    Loops,
    /// libtorch's operators only.
    Operators,
}

/// Sizes of pieces of work. Small pieces fit in a CPU's cache; large ones keep a GPU busy, where every
/// operator costs a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Numbers of a chunk of `[tokens, vocabulary]`: an intermediate tensor of a divergence.
    pub chunk: i64,
    /// Numbers of a block of `[tokens, vocabulary]`: the logits of one matrix product.
    pub block: i64,
    /// Bytes of gradients by logits that are kept between the two passes over the vocabulary.
    pub kept: usize,
    /// Numbers of a piece of a gradient.
    pub piece: usize,
    /// Numbers of a large matrix whose gradient is computed at a time.
    pub matrix_rows: i64,
    /// Most parameters of frozen models that stay in memory at the same time.
    pub resident: usize,
    /// Tokens of prompts per prefill, unless a single prompt has more: enough for matrix products to run at
    /// full speed, few enough to keep activations small.
    pub read: usize,
}

impl Sizes {
    /// A chunk has 2 MiB: the few that are in use at a time fit in the CPU's cache. A block has 18 MiB, with
    /// enough rows for the product to run at nearly full speed. Blocks, and pieces of a gradient of 4 MiB,
    /// are small enough to fit in memory that a step has freed: larger ones would fragment the heap.
    const CPU: Sizes = Sizes {
        chunk: 1 << 19,
        block: 9 << 19,
        kept: 1 << 27,
        piece: 1 << 20,
        matrix_rows: 1 << 21,
        resident: 1 << 26,
        read: 2048,
    };

    /// Sizes so small that a tiny model has several pieces of each kind.
    const TINY: Sizes = Sizes {
        chunk: 900,
        block: 2100,
        kept: 1 << 14,
        piece: 4099,
        matrix_rows: 1500,
        resident: 1 << 16,
        read: 50,
    };

    /// Sizes for a GPU with `bytes` of memory. Frozen models may take a third of it in single precision, and
    /// half as much in half precision. Gradients by logits may take a sixteenth, rounded down to a power of
    /// two because it changes bits. The rest is for the student, its optimizer and activations.
    fn gpu(bytes: u64) -> Sizes {
        Sizes {
            chunk: 1 << 26,
            block: 1 << 26,
            kept: (bytes / 16).checked_ilog2().map_or(0, |bits| 1 << bits),
            piece: 1 << 26,
            matrix_rows: 1 << 26,
            resident: (bytes / 12) as usize,
            read: 1 << 14,
        }
    }
}

impl Place {
    /// The CPU, with the CPU engine's loops.
    pub const fn cpu() -> Place {
        Place { device: Device::Cpu, engine: Engine::Loops, sizes: Sizes::CPU }
    }

    /// The CPU with the GPU's path: operators only, and all work in many small pieces. Tests use it on
    /// machines without a GPU.
    pub const fn operators() -> Place {
        Place { device: Device::Cpu, engine: Engine::Operators, sizes: Sizes::TINY }
    }

    /// A GPU with `bytes` of memory.
    pub fn gpu(index: usize, bytes: u64) -> Place {
        Place { device: Device::Cuda(index), engine: Engine::Operators, sizes: Sizes::gpu(bytes) }
    }

    /// The places that tests compare: the CPU with its loops, libtorch's operators on the CPU, and a GPU
    /// where there is one.
    #[cfg(test)]
    pub fn tested() -> Vec<Place> {
        static CUDA: std::sync::LazyLock<super::device::Cuda> =
            std::sync::LazyLock::new(super::device::open_cuda);
        let gpu = (*CUDA == super::device::Cuda::Ready).then(|| Place { sizes: Sizes::TINY, ..CUDA.place() });
        [Place::cpu(), Place::operators()].into_iter().chain(gpu).collect()
    }

    /// The token that permits the CPU engine's loops, with as many threads as libtorch's operators have, or
    /// `None` where only libtorch's operators may run on tensors.
    pub fn loops(&self) -> Option<Cpu> {
        (self.engine == Engine::Loops).then(host)
    }

    /// The token that permits this program's CUDA kernels, or `None` where the place is not a GPU.
    pub fn kernels(&self) -> Option<Gpu> {
        match self.device {
            Device::Cuda(index) => Some(Gpu::new(index)),
            _ => None,
        }
    }

    /// Waits until all work launched on the device is done; needed before a clock is read.
    pub fn synchronize(&self) {
        if let Device::Cuda(index) = self.device {
            accelerator::synchronize(index);
        }
    }

    /// The time after all work launched on the device is done.
    pub fn now(&self) -> Instant {
        self.synchronize();
        Instant::now()
    }

    /// The name as users write it: `cpu`, `cuda:0`.
    pub fn name(&self) -> String {
        match (self.device, self.engine) {
            (Device::Cuda(index), _) => format!("cuda:{index}"),
            (_, Engine::Loops) => "cpu".to_owned(),
            (_, Engine::Operators) => "cpu, operators".to_owned(),
        }
    }

    /// `a b`, `[rows, inner]` times `[inner, columns]`: in f64 if a factor is f64, else in f32. Either may be
    /// a transposed view. In half precision, logits would keep only two or three digits.
    pub fn multiply(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let _guard = no_grad_guard();
        match self.loops() {
            _ if a.kind() == Kind::Double || b.kind() == Kind::Double => a.mm(b),
            Some(_) => tensor::multiply(a, b),
            // Tensor cores sum products of bf16 in f32; the operator exists for CUDA only.
            None if self.kernels().is_some() && a.kind() == Kind::BFloat16 => a.mm_dtype(b, Kind::Float),
            None => a.to_kind(Kind::Float).mm(&b.to_kind(Kind::Float)),
        }
    }

    /// Adds `a b` to `sum`, which is f32 and contiguous.
    pub fn add_product(&self, sum: &mut Tensor, a: &Tensor, b: &Tensor) {
        let _guard = no_grad_guard();
        match self.loops() {
            Some(_) => tensor::add_product(sum, a, b),
            None if a.kind() == Kind::BFloat16 && self.kernels().is_some() => {
                let _ = sum.addmm_dtype_out(sum, a, b, Kind::Float);
            }
            None if a.kind() == Kind::BFloat16 => *sum += self.multiply(a, b),
            None => drop(sum.addmm_(a, b)),
        }
    }
}

/// The token that permits the CPU engine's loops on host memory, for any place of tensors.
pub fn host() -> Cpu {
    Cpu::new(tch::get_num_threads() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of bf16 have the precision of f32 in every place, and `add_product` adds to the sum.
    #[test]
    fn products_of_bf16_have_f32_precision_in_every_place() {
        let numbers = |rows: i64, columns: i64, kind| {
            (Tensor::arange(rows * columns, (Kind::Double, Device::Cpu)) * 0.37)
                .sin()
                .view([rows, columns])
                .to_kind(kind)
        };
        for kind in [Kind::BFloat16, Kind::Float] {
            let (a, b) = (numbers(5, 33, kind), numbers(70, 33, kind).tr());
            let exact = a.to_kind(Kind::Double).mm(&b.to_kind(Kind::Double));
            for place in Place::tested() {
                let [a, b, exact] = [&a, &b, &exact].map(|tensor| tensor.to_device(place.device));
                let mut product = place.multiply(&a, &b);
                assert_eq!(product.kind(), Kind::Float);
                assert!((&product - &exact).abs().max().double_value(&[]) < 1e-5, "{kind:?} {place:?}");
                place.add_product(&mut product, &a, &b);
                assert!((product - &exact * 2.0).abs().max().double_value(&[]) < 2e-5, "{kind:?} {place:?}");
            }
        }
    }

    #[test]
    fn loops_are_for_the_cpu_alone() {
        assert!(Place::cpu().loops().is_some());
        assert!(Place::operators().loops().is_none() && Place::gpu(0, 80 << 30).loops().is_none());
        let names = [Place::cpu(), Place::operators(), Place::gpu(1, 0)].map(|place| place.name());
        assert_eq!(names, ["cpu", "cpu, operators", "cuda:1"]);
    }
}
