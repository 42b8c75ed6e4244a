//! A discrete-event simulator: tasks of given lengths on resources that run one task at a time, in the order
//! in which the tasks become ready.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Index into the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceId(pub usize);

/// Index into the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(pub usize);

#[derive(Clone, Debug)]
struct Task {
    resource: ResourceId,
    /// The task's kind, for people: lengths of one kind are summed.
    kind: &'static str,
    seconds: f64,
    /// The tasks that must end before this one begins.
    after: Vec<TaskId>,
}

#[derive(Clone, Debug, Default)]
pub struct Simulation {
    resources: usize,
    tasks: Vec<Task>,
}

/// The result of a simulation. Times are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulationOutcome {
    pub makespan: f64,
    /// By resource.
    pub busy: Vec<f64>,
    /// The critical path, which ends with the last task: seconds by resource and kind, the longest first.
    /// They sum to the makespan.
    pub critical: Vec<CriticalPart>,
}

/// The tasks of one kind on one resource, as far as they are on the critical path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CriticalPart {
    pub resource: ResourceId,
    pub kind: &'static str,
    pub seconds: f64,
}

/// A time in seconds with a total order. It is never NaN.
#[derive(Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Time) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Time) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Simulation {
    pub fn resource(&mut self) -> ResourceId {
        self.resources += 1;
        ResourceId(self.resources - 1)
    }

    /// # Panics
    /// If `after` names a task that does not exist yet (which rules out cycles), or `seconds` is no length.
    pub fn task(
        &mut self,
        resource: ResourceId,
        kind: &'static str,
        seconds: f64,
        after: Vec<TaskId>,
    ) -> TaskId {
        assert!(after.iter().all(|before| before.0 < self.tasks.len()), "a task comes after earlier ones");
        assert!(seconds.is_finite() && seconds >= 0.0, "a task takes a time");
        self.tasks.push(Task { resource, kind, seconds, after });
        TaskId(self.tasks.len() - 1)
    }

    /// Runs all tasks. Where several wait for one resource, the one that became ready first begins; of
    /// equals, the one that was added first.
    pub fn run(&self) -> SimulationOutcome {
        let mut waiting: Vec<usize> = self.tasks.iter().map(|task| task.after.len()).collect();
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); self.tasks.len()];
        for (at, task) in self.tasks.iter().enumerate() {
            task.after.iter().for_each(|before| users[before.0].push(at));
        }
        // The task whose end let each task begin: a predecessor, or the task before it on its resource.
        let mut cause: Vec<Option<usize>> = vec![None; self.tasks.len()];
        let mut ready_at = vec![0.0f64; self.tasks.len()];
        let mut queues: Vec<BinaryHeap<Reverse<(Time, usize)>>> = vec![BinaryHeap::new(); self.resources];
        let mut running: Vec<Option<usize>> = vec![None; self.resources];
        let mut events: BinaryHeap<Reverse<(Time, usize)>> = BinaryHeap::new();
        let mut busy = vec![0.0; self.resources];
        for at in (0..self.tasks.len()).filter(|at| waiting[*at] == 0) {
            queues[self.tasks[at].resource.0].push(Reverse((Time(0.0), at)));
        }
        let mut last: Option<usize> = None;
        let mut now = 0.0;
        let start = |resource: usize,
                     now: f64,
                     queues: &mut [BinaryHeap<Reverse<(Time, usize)>>],
                     running: &mut [Option<usize>],
                     events: &mut BinaryHeap<Reverse<(Time, usize)>>|
         -> Option<usize> {
            if running[resource].is_some() {
                return None;
            }
            let Reverse((_, at)) = queues[resource].pop()?;
            running[resource] = Some(at);
            events.push(Reverse((Time(now + self.tasks[at].seconds), at)));
            Some(at)
        };
        for resource in 0..self.resources {
            start(resource, 0.0, &mut queues, &mut running, &mut events);
        }
        while let Some(Reverse((Time(time), ended))) = events.pop() {
            now = time;
            last = Some(ended);
            let own = self.tasks[ended].resource.0;
            busy[own] += self.tasks[ended].seconds;
            running[own] = None;
            let mut touched = vec![own];
            for &user in &users[ended] {
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    cause[user] = Some(ended);
                    ready_at[user] = now;
                    let resource = self.tasks[user].resource.0;
                    queues[resource].push(Reverse((Time(now), user)));
                    touched.push(resource);
                }
            }
            for resource in touched {
                if let Some(begun) = start(resource, now, &mut queues, &mut running, &mut events)
                    && ready_at[begun] < now
                {
                    // It was ready earlier, and waited for its resource.
                    cause[begun] = Some(ended);
                }
            }
        }
        SimulationOutcome { makespan: now, busy, critical: self.critical_path(last, &cause) }
    }

    /// The parts of the critical path, from its last task and what let each task begin.
    fn critical_path(&self, last: Option<usize>, cause: &[Option<usize>]) -> Vec<CriticalPart> {
        let mut parts: Vec<CriticalPart> = Vec::new();
        let mut at = last;
        while let Some(task) = at {
            let Task { resource, kind, seconds, .. } = self.tasks[task];
            match parts.iter_mut().find(|known| known.resource == resource && known.kind == kind) {
                Some(known) => known.seconds += seconds,
                None => parts.push(CriticalPart { resource, kind, seconds }),
            }
            at = cause[task];
        }
        parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_wait_for_each_other_and_for_their_resource() {
        let mut simulation = Simulation::default();
        let (student, teacher) = (simulation.resource(), simulation.resource());
        let first = simulation.task(student, "rollout", 2.0, vec![]);
        let one = simulation.task(teacher, "score", 1.0, vec![first]);
        let two = simulation.task(teacher, "score", 1.5, vec![first]);
        let update = simulation.task(student, "update", 1.0, vec![one]);
        simulation.task(student, "update", 1.0, vec![two, update]);
        let outcome = simulation.run();
        // 2 + 1 + 1.5 + 1: the first update is done while the second score is.
        assert_eq!(outcome.makespan, 5.5);
        assert_eq!(outcome.busy, [4.0, 2.5]);
        let critical = [(teacher, "score", 2.5), (student, "rollout", 2.0), (student, "update", 1.0)]
            .map(|(resource, kind, seconds)| CriticalPart { resource, kind, seconds });
        assert_eq!(outcome.critical, critical);
    }

    #[test]
    fn simulation_starts_the_earliest_possible_task_first() {
        let mut simulation = Simulation::default();
        let (a, b) = (simulation.resource(), simulation.resource());
        let slow = simulation.task(a, "slow", 3.0, vec![]);
        let late = simulation.task(b, "late", 1.0, vec![slow]);
        let early = simulation.task(b, "early", 4.0, vec![]);
        let outcome = simulation.run();
        // `late` was added first, and `early` could begin at once.
        assert_eq!(outcome.makespan, 5.0);
        let _ = (late, early);
        let sum: f64 = outcome.critical.iter().map(|part| part.seconds).sum();
        assert_eq!(sum, outcome.makespan);
    }

    #[test]
    fn the_critical_path_is_as_long_as_all() {
        let mut state = 5u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % limit
        };
        for _ in 0..50 {
            let mut simulation = Simulation::default();
            let resources: Vec<ResourceId> = (0..3).map(|_| simulation.resource()).collect();
            let mut tasks: Vec<TaskId> = Vec::new();
            for _ in 0..30 {
                let before = |_| tasks.get(below(40) as usize).copied();
                let after: Vec<TaskId> = (0..2).filter_map(before).collect();
                let (resource, seconds) = (resources[below(3) as usize], 1.0 + below(8) as f64);
                tasks.push(simulation.task(resource, "task", seconds, after));
            }
            let outcome = simulation.run();
            let sum: f64 = outcome.critical.iter().map(|part| part.seconds).sum();
            assert!((sum - outcome.makespan).abs() < 1e-9, "{sum} and {}", outcome.makespan);
            assert!(outcome.busy.iter().all(|busy| *busy <= outcome.makespan + 1e-9));
        }
    }
}
