//! Division of this machine's memory: the memory budget of generation, and which tasks may run in
//! parallel.

use crate::machine::memory;
use crate::machine::place::Place;
use crate::rollout::MemoryBudget;

/// Budget of generation where the system does not report free memory.
const UNKNOWN: usize = 1 << 30;

/// The part of the memory that parallel tasks may be predicted to take: predictions are off by some per cent,
/// and cached files need room, too.
const TAKEN: f64 = 0.9;

/// The memory that this process may hold on its models' device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemoryBudget {
    /// `None` where the system does not report it.
    bytes: Option<u64>,
    /// Number of tasks that may run in parallel.
    workers: usize,
}

impl DeviceMemoryBudget {
    /// The memory that is free now, plus what the process holds already.
    pub fn detect(workers: usize, place: Place) -> DeviceMemoryBudget {
        DeviceMemoryBudget { bytes: memory::capacity_of(place), workers: workers.max(1) }
    }

    /// Bytes that all tasks together may hold; `None` where that is unknown.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The budget for the rows that a task generates at a time. Half of the memory is for the rows of all
    /// tasks; the rest is for weights, activations and other programs. `exclusive` says that no other task
    /// runs. [`MemoryBudget`] says which results depend on it.
    pub fn generation(&self, exclusive: bool) -> MemoryBudget {
        let Some(bytes) = self.bytes else { return MemoryBudget(UNKNOWN) };
        let tasks = self.parallel_tasks(exclusive);
        MemoryBudget(usize::try_from(bytes / 2).unwrap_or(usize::MAX) / tasks)
    }

    /// Number of tasks that may run in parallel with this one, itself included.
    pub fn parallel_tasks(&self, exclusive: bool) -> usize {
        if exclusive { 1 } else { self.workers }
    }

    /// Whether tasks that are predicted to take this much together may run in parallel; true if it is
    /// unknown.
    pub fn admits(&self, predicted: Option<u64>) -> bool {
        let (Some(bytes), Some(predicted)) = (self.bytes, predicted) else { return true };
        predicted as f64 <= TAKEN * bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_gets_its_share_and_tasks_come_while_there_is_room() {
        let device_memory = DeviceMemoryBudget { bytes: Some(1000), workers: 4 };
        assert_eq!(
            (device_memory.generation(true), device_memory.generation(false)),
            (MemoryBudget(500), MemoryBudget(125))
        );
        assert!(
            device_memory.admits(Some(900)) && !device_memory.admits(Some(901)) && device_memory.admits(None)
        );
        let unknown = DeviceMemoryBudget { bytes: None, workers: 4 };
        assert!(unknown.admits(Some(u64::MAX)));
        assert_eq!(unknown.generation(false), MemoryBudget(UNKNOWN));
        let here = DeviceMemoryBudget::detect(2, Place::cpu());
        assert!(here.bytes.is_none_or(|bytes| (1 << 20..1 << 50).contains(&bytes)), "{here:?}");
        // A GPU that is not there.
        assert_eq!(DeviceMemoryBudget::detect(2, Place::gpu(0, 0)).bytes, None);
    }
}
