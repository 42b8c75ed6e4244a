//! CUDA graphs: kernels that are captured once and replayed by one launch. Otherwise hundreds of small
//! operators cost as many launches.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::Gpu;
use crate::accelerator::ffi::{mopd_graph_begin, mopd_graph_end, mopd_graph_free, mopd_graph_replay};

/// Captured kernels with their memory. Tensors created during the capture are overwritten by every replay;
/// earlier tensors that the kernels use must stay alive.
pub struct CudaGraph(NonNull<c_void>);

impl CudaGraph {
    /// Captures the launches of `work` without running them. `None` where capture is not possible, for
    /// example if the work waits for the GPU, or other code in this process waits for the whole device:
    /// operators fail then, and the caller has to run the work without a graph.
    pub fn capture<T>(gpu: Gpu, work: impl FnOnce() -> T) -> Option<(CudaGraph, T)> {
        let graph = CudaGraph(NonNull::new(mopd_graph_begin(gpu.index as c_int))?);
        let made = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: a graph whose capture has begun.
        let ended = unsafe { mopd_graph_end(graph.0.as_ptr()) } != 0;
        Some((graph, made.ok().filter(|_| ended)?))
    }

    /// Launches the graph, after this thread's earlier launches.
    pub fn replay(&self) {
        // SAFETY: a graph whose capture has ended.
        let done = unsafe { mopd_graph_replay(self.0.as_ptr()) };
        assert_eq!(done, 1, "CUDA can't replay a graph");
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { mopd_graph_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Without a GPU, nothing is captured; on one, a replay runs all captured work again.
    #[test]
    fn cuda_graph_replay_repeats_captured_work() {
        let gpu = Gpu::new(0);
        if crate::accelerator::memory(0).is_none() {
            assert!(CudaGraph::capture(gpu, || panic!("nothing is done")).is_none());
            return;
        }
        let counter = Tensor::zeros([1], (Kind::Float, Device::Cuda(0)));
        let add = || {
            let _ = counter.shallow_clone().g_add_scalar_(1.0);
            &counter * 2.0
        };
        let (graph, double) = CudaGraph::capture(gpu, add).unwrap();
        assert_eq!(counter.double_value(&[0]), 0.0);
        for count in 1..=3 {
            graph.replay();
            assert_eq!(
                (counter.double_value(&[0]), double.double_value(&[0])),
                (f64::from(count), f64::from(2 * count))
            );
        }
        // Work that waits for the GPU can't be captured; later captures succeed all the same.
        assert!(CudaGraph::capture(gpu, || counter.double_value(&[0])).is_none());
        assert!(CudaGraph::capture(gpu, add).is_some());
    }
}
