//! Page-locked memory, which a GPU reads and writes when it comes to it: nobody waits for what was launched
//! before.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use tch::Tensor;
use tch::kind::Element;

use super::Gpu;
use super::driver::{available, copy};
use crate::accelerator::ffi::{mopd_pinned_free, mopd_pinned_new, mopd_pinned_record, mopd_pinned_wait};

/// Memory of the host, with one copy to or from the GPU that is on its way at a time.
pub struct Pinned {
    gpu: Gpu,
    handle: NonNull<c_void>,
    memory: NonNull<c_void>,
    bytes: usize,
}

impl Pinned {
    /// None where there is no GPU.
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

    /// Copies numbers to a tensor of as many, after everything that this thread has launched.
    pub fn upload<T: Element + Copy>(&mut self, numbers: &[T], to: &Tensor) {
        let (to, bytes) = self.checked::<T>(to, numbers.len());
        self.wait();
        // SAFETY: it has so many bytes, and nothing crosses any more.
        unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr().cast(), self.memory.as_ptr(), bytes) };
        self.cross(to, self.memory.as_ptr(), bytes);
    }

    /// Copies a tensor's numbers here, after everything that this thread has launched.
    pub fn download<T: Element + Copy>(&mut self, from: &Tensor) {
        let (from, bytes) = self.checked::<T>(from, from.numel());
        self.wait();
        self.cross(self.memory.as_ptr(), from, bytes);
    }

    /// So many numbers of those that came last, once they are here.
    pub fn read<T: Element + Copy>(&self, count: usize) -> Vec<T> {
        assert!(count * size_of::<T>() <= self.bytes, "there is room for them");
        self.wait();
        let mut numbers = Vec::with_capacity(count);
        // SAFETY: so many were written, of a type that every pattern of bits is a number of.
        unsafe {
            std::ptr::copy_nonoverlapping(self.memory.as_ptr().cast(), numbers.as_mut_ptr(), count);
            numbers.set_len(count);
        }
        numbers
    }

    fn checked<T: Element>(&self, tensor: &Tensor, count: usize) -> (*mut c_void, usize) {
        let bytes = count * size_of::<T>();
        assert!(bytes <= self.bytes, "{bytes} bytes where there is room for {}", self.bytes);
        assert_eq!(tensor.numel(), count);
        (self.gpu.pointer(tensor, T::KIND, &tensor.size()), bytes)
    }

    fn cross(&mut self, to: *mut c_void, from: *mut c_void, bytes: usize) {
        // SAFETY: both have so many bytes, one of them is this page-locked memory, which is not touched
        // before
        // `wait`; libtorch gives the tensor's memory to nobody else before its stream has come past the copy.
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
        // SAFETY: it is freed once, when nothing crosses any more. A GPU that failed has said so elsewhere.
        unsafe {
            mopd_pinned_wait(self.handle.as_ptr());
            mopd_pinned_free(self.handle.as_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// Where there is no GPU there is none; on one, numbers cross as they are, one after the other.
    #[test]
    fn numbers_cross_as_they_are() {
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
            pinned.download::<f64>(&double);
            assert_eq!(pinned.read::<f64>(4), numbers.map(|number| number * 2.0));
        }
    }
}
