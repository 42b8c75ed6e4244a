//! Page-locked memory for asynchronous copies: the GPU reads and writes it in the order of the stream, and
//! the host waits only when it needs the numbers.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use tch::{Kind, Tensor};

use super::Gpu;
use super::driver::{available, copy};
use crate::accelerator::ffi::{mopd_pinned_free, mopd_pinned_new, mopd_pinned_record, mopd_pinned_wait};

/// Page-locked host memory for f64 numbers, with one copy to or from the GPU at a time.
pub struct Pinned {
    gpu: Gpu,
    handle: NonNull<c_void>,
    memory: NonNull<c_void>,
    bytes: usize,
}

impl Pinned {
    /// `None` where there is no GPU.
    pub fn new(gpu: Gpu, bytes: usize) -> Option<Pinned> {
        available().ok()?;
        let mut memory = null_mut();
        // SAFETY: one pointer is written, or none.
        let handle = NonNull::new(unsafe { mopd_pinned_new(bytes, &raw mut memory) })?;
        let memory = NonNull::new(memory);
        let memory = memory.expect("memory of no size is not asked for");
        Some(Pinned { gpu, handle, memory, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Launches a copy of numbers to a tensor of the same length, after this thread's earlier launches.
    pub fn upload(&mut self, numbers: &[f64], to: &Tensor) {
        let (to, bytes) = self.checked(to, numbers.len());
        self.wait();
        // SAFETY: it has so many bytes, and the last copy is done.
        unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr().cast(), self.memory.as_ptr(), bytes) };
        self.copy(to, self.memory.as_ptr(), bytes);
    }

    /// Launches a copy of a tensor's numbers to this memory, after this thread's earlier launches.
    pub fn download(&mut self, from: &Tensor) {
        let (from, bytes) = self.checked(from, from.numel());
        self.wait();
        self.copy(self.memory.as_ptr(), from, bytes);
    }

    /// Waits for the last download and returns its first `count` numbers.
    pub fn read(&self, count: usize) -> Vec<f64> {
        assert!(count * size_of::<f64>() <= self.bytes, "there is room for them");
        self.wait();
        let mut numbers = Vec::with_capacity(count);
        // SAFETY: there is room for so many, and any bits are a number.
        unsafe {
            std::ptr::copy_nonoverlapping(self.memory.as_ptr().cast(), numbers.as_mut_ptr(), count);
            numbers.set_len(count);
        }
        numbers
    }

    fn checked(&self, tensor: &Tensor, count: usize) -> (*mut c_void, usize) {
        let bytes = count * size_of::<f64>();
        assert!(bytes <= self.bytes, "{bytes} bytes where there is room for {}", self.bytes);
        assert_eq!(tensor.numel(), count);
        (self.gpu.pointer(tensor, Kind::Double, &tensor.size()), bytes)
    }

    fn copy(&mut self, to: *mut c_void, from: *mut c_void, bytes: usize) {
        // SAFETY: both have so many bytes. One is this page-locked memory, which is not accessed before
        // `wait`; libtorch does not reuse the tensor's memory before its stream has passed the copy.
        let recorded = unsafe {
            copy(to, from, bytes, self.gpu.stream());
            mopd_pinned_record(self.handle.as_ptr(), self.gpu.index as c_int)
        };
        assert_eq!(recorded, 1, "CUDA can't record an event");
    }

    fn wait(&self) {
        // SAFETY: it was made by `mopd_pinned_new`.
        let waited = unsafe { mopd_pinned_wait(self.handle.as_ptr()) };
        assert_eq!(waited, 1, "CUDA can't wait for an event");
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it is freed once, after the last copy. Errors of the GPU are reported elsewhere.
        unsafe {
            mopd_pinned_wait(self.handle.as_ptr());
            mopd_pinned_free(self.handle.as_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Without a GPU, there is no such memory; on one, lists of numbers are copied unchanged one by one.
    #[test]
    fn numbers_are_copied_as_they_are() {
        let gpu = Gpu::new(0);
        if crate::accelerator::memory(0).is_none() {
            assert!(Pinned::new(gpu, 8).is_none());
            return;
        }
        let mut pinned = Pinned::new(gpu, 64).unwrap();
        let there = Tensor::zeros([4], (Kind::Double, Device::Cuda(0)));
        for round in 0..100 {
            let numbers = [0.5, -1.0, f64::from(round), f64::INFINITY];
            pinned.upload(&numbers, &there);
            let double = &there * 2.0;
            pinned.download(&double);
            assert_eq!(pinned.read(4), numbers.map(|number| number * 2.0));
        }
    }
}
