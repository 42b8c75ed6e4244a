//! How the memory of this machine is divided: the one place that decides what generation may take, and what
//! may run side by side.

use crate::machine::memory;
use crate::machine::place::Place;
use crate::rollout::MemoryBudget;

/// What generation may take where the system does not tell what is free.
const UNKNOWN: usize = 1 << 30;

/// The part of the memory that tasks may take together, as predicted: predictions miss by some per cent, and
/// files want room too.
const TAKEN: f64 = 0.9;

/// The memory that this process may hold where its models are.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// None where the system does not tell.
    bytes: Option<u64>,
    /// Tasks that may run side by side.
    workers: usize,
    /// Processes that do what one task asks for.
    processes: u32,
}

impl Room {
    /// What is free now, and what the process holds already.
    pub fn here(workers: usize, place: Place) -> Room {
        Room { bytes: memory::capacity_of(place), workers: workers.max(1), processes: 1 }
    }

    /// The same divided among processes that train together.
    pub fn among(self, processes: u32) -> Room {
        Room { processes: processes.max(1), ..self }
    }

    /// What all tasks together may hold; none where that is not known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// For the rows that a task generates at a time. Half of the memory is for all of them: the rest is for
    /// weights, activations and what other programs will want. `exclusive`: nothing runs beside the task. No
    /// result depends on it.
    pub fn generation(&self, exclusive: bool) -> MemoryBudget {
        let Some(bytes) = self.bytes else { return MemoryBudget(UNKNOWN) };
        let tasks = self.side_by_side(exclusive);
        MemoryBudget(usize::try_from(bytes / 2).unwrap_or(usize::MAX) / tasks / self.processes as usize)
    }

    /// Tasks that may run at once where this one does.
    pub fn side_by_side(&self, exclusive: bool) -> usize {
        if exclusive { 1 } else { self.workers }
    }

    /// Whether tasks that are predicted to take so much together may run side by side. What is not known is
    /// let through.
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
        let room = Room { bytes: Some(1000), workers: 4, processes: 1 };
        assert_eq!((room.generation(true), room.generation(false)), (MemoryBudget(500), MemoryBudget(125)));
        assert_eq!(room.among(2).generation(true), MemoryBudget(250));
        assert!(room.admits(Some(900)) && !room.admits(Some(901)) && room.admits(None));
        let unknown = Room { bytes: None, workers: 4, processes: 1 };
        assert!(unknown.admits(Some(u64::MAX)));
        assert_eq!(unknown.generation(false), MemoryBudget(UNKNOWN));
        let here = Room::here(2, Place::cpu());
        assert!(here.bytes.is_none_or(|bytes| (1 << 20..1 << 50).contains(&bytes)), "{here:?}");
        // A GPU that is not there.
        assert_eq!(Room::here(2, Place::gpu(0, 0)).bytes, None);
    }
}
