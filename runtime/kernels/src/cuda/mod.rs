//! GPU features that libtorch's operators lack: own kernels, CUDA graphs, which make a whole decoding step
//! one launch, and asynchronous copies.

mod adamw;
mod decode;
mod draw;
mod driver;
mod entries;
mod flash;
mod functions;
mod graph;
mod nvrtc;
mod pinned;

pub use adamw::{AdamWKernels, AdamWTensors};
pub use decode::{Cache, DecodeAttention, DecodeKernels, DecodeShape};
pub use draw::DrawKernel;
pub use entries::{Distributions, EntryKernels};
pub use flash::FlashAttention;
pub use graph::CudaGraph;
pub use pinned::Pinned;

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::accelerator::ffi::mopd_stream;

/// The token that permits CUDA kernels on tensors of this GPU. Only the place of a run creates it.
///
/// A process works on one GPU: compiled kernels, and what the driver says of the GPU, are kept once per
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    index: usize,
}

impl Gpu {
    /// # Panics
    /// If this process works on another GPU already.
    pub fn new(index: usize) -> Gpu {
        static OF_PROCESS: OnceLock<usize> = OnceLock::new();
        let first = *OF_PROCESS.get_or_init(|| index);
        assert_eq!(first, index, "a process works on one GPU");
        Gpu { index }
    }

    /// The stream on which this thread's operators run.
    fn stream(self) -> *mut c_void {
        let mut stream = null_mut();
        // SAFETY: one pointer is written, or none.
        let known = unsafe { mopd_stream(self.index as c_int, &raw mut stream) };
        assert_eq!(known, 1, "libtorch knows the stream of a GPU that it works on");
        stream
    }

    /// The address of a contiguous tensor on this GPU.
    fn pointer(self, tensor: &Tensor, kind: Kind, shape: &[i64]) -> *mut c_void {
        assert_eq!((tensor.device(), tensor.kind()), (Device::Cuda(self.index), kind));
        assert_eq!(tensor.size(), shape);
        assert!(tensor.is_contiguous(), "kernels read tensors without gaps");
        tensor.data_ptr()
    }
}

/// An argument as the driver takes it: the address of the value.
fn argument<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

#[cfg(test)]
mod tests {
    use super::Gpu;

    #[test]
    fn a_process_works_on_one_gpu() {
        assert_eq!(Gpu::new(0), Gpu::new(0));
        assert!(std::panic::catch_unwind(|| Gpu::new(1)).is_err());
    }
}
