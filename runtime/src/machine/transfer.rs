//! Transfers between host memory and the device. All of them go through this module, which counts bytes. On a
//! GPU, each takes a round trip on the bus, and one that waits for a result also waits for all work launched
//! before it. On the CPU a transfer is a copy and is counted, too, so that transfers that would be slow on a
//! GPU are found on machines without one.

use std::cell::Cell;

use mopd_kernels::cuda::Pinned;
use tch::{Device, Kind, Tensor, kind::Element};

use super::place::Place;

/// Bytes transferred on this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    pub to_device: u64,
    pub to_host: u64,
}

impl std::ops::Sub for Transferred {
    type Output = Transferred;

    fn sub(self, before: Transferred) -> Transferred {
        Transferred { to_device: self.to_device - before.to_device, to_host: self.to_host - before.to_host }
    }
}

thread_local! {
    static TRANSFERRED: Cell<Transferred> = const { Cell::new(Transferred { to_device: 0, to_host: 0 }) };
}

/// Bytes transferred so far on this thread.
pub fn transferred() -> Transferred {
    TRANSFERRED.get()
}

/// Counts bytes that reach the device in another way, such as a model's weights from a file.
pub fn note_to_device(bytes: usize) {
    let now = TRANSFERRED.get();
    TRANSFERRED.set(Transferred { to_device: now.to_device + bytes as u64, ..now });
}

fn note_to_host(bytes: usize) {
    let now = TRANSFERRED.get();
    TRANSFERRED.set(Transferred { to_host: now.to_host + bytes as u64, ..now });
}

/// Copies host numbers to a tensor on a device, `[numbers]`.
pub fn upload<T: Element>(numbers: &[T], device: Device) -> Tensor {
    note_to_device(size_of_val(numbers));
    Tensor::from_slice(numbers).to_device(device)
}

/// Copies a tensor to the host, with its kind and shape.
pub fn to_host(tensor: &Tensor) -> Tensor {
    note_to_host(tensor.numel() * tensor.kind().elt_size_in_bytes());
    tensor.detach().to_device(Device::Cpu)
}

/// Copies the elements of a tensor to the host, in f32.
pub fn to_vec(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_kind(Kind::Float).to_device(Device::Cpu).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let length = values.len();
    tensor.copy_data(&mut values, length);
    note_to_host(length * size_of::<f32>());
    values
}

/// The same in f64.
pub fn to_vec_f64(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.detach().to_kind(Kind::Double).to_device(Device::Cpu).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let length = values.len();
    tensor.copy_data(&mut values, length);
    note_to_host(length * size_of::<f64>());
    values
}

/// Asynchronous copies of f64 numbers, one list at a time, in the order of the device's stream. Where tensors
/// are in host memory, copies are synchronous.
pub struct StagingBuffer {
    place: Place,
    pinned: Option<Pinned>,
    pending: Option<PendingDownload>,
}

/// A download that has not been taken.
enum PendingDownload {
    /// A copy of this many numbers to page-locked memory.
    Pinned(usize),
    /// A tensor, copied when it is taken.
    Tensor(Tensor),
}

impl StagingBuffer {
    pub fn new(place: Place) -> StagingBuffer {
        StagingBuffer { place, pinned: None, pending: None }
    }

    /// Starts to copy numbers to a tensor on the device, `[numbers]`.
    pub fn upload(&mut self, numbers: &[f64]) -> Tensor {
        let device = self.place.device;
        let Some(pinned) = self.room(numbers.len()) else { return upload(numbers, device) };
        let there = Tensor::empty([numbers.len() as i64], (Kind::Double, device));
        pinned.upload(numbers, &there);
        note_to_device(size_of_val(numbers));
        there
    }

    /// Starts to copy a tensor's numbers, after all work launched before; see [`StagingBuffer::take`].
    pub fn download(&mut self, tensor: &Tensor) {
        let count = tensor.numel();
        self.pending = Some(match self.room(count) {
            Some(pinned) => {
                pinned.download(tensor);
                PendingDownload::Pinned(count)
            }
            None => PendingDownload::Tensor(tensor.shallow_clone()),
        });
    }

    /// Waits for the last download and returns its numbers.
    pub fn take(&mut self) -> Vec<f64> {
        match self.pending.take().expect("there was a download") {
            PendingDownload::Tensor(tensor) => to_vec_f64(&tensor),
            PendingDownload::Pinned(count) => {
                note_to_host(count * size_of::<f64>());
                self.pinned.as_ref().expect("it is where they come to").read(count)
            }
        }
    }

    fn room(&mut self, count: usize) -> Option<&mut Pinned> {
        let bytes = (count * size_of::<f64>()).max(1);
        let gpu = self.place.kernels()?;
        if self.pinned.as_ref().is_none_or(|pinned| pinned.bytes() < bytes) {
            self.pinned = Pinned::new(gpu, bytes.next_power_of_two());
        }
        self.pinned.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transferred_bytes_are_counted_per_thread() {
        let before = transferred();
        let tensor = upload(&[1i64, 2, 3], Device::Cpu);
        assert_eq!(to_vec(&tensor), [1.0, 2.0, 3.0]);
        assert_eq!(to_vec_f64(&tensor.narrow(0, 1, 1)), [2.0]);
        assert_eq!(transferred() - before, Transferred { to_device: 24, to_host: 20 });
        std::thread::spawn(|| assert_eq!(transferred(), Transferred::default())).join().unwrap();
    }

    #[test]
    fn staged_numbers_are_those_that_were_sent_and_are_counted() {
        for place in Place::tested() {
            let mut staging = StagingBuffer::new(place);
            let before = transferred();
            for count in [3, 1, 40] {
                let numbers: Vec<f64> = (0..count).map(|at| f64::from(at) * 0.1).collect();
                let there = staging.upload(&numbers);
                staging.download(&(there + 1.0));
                assert_eq!(staging.take(), numbers.iter().map(|number| number + 1.0).collect::<Vec<f64>>());
            }
            assert_eq!(transferred() - before, Transferred { to_device: 44 * 8, to_host: 44 * 8 });
        }
    }
}
