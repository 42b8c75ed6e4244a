//! Predictions of time and memory of a run's tasks: of training stages by trial steps, of evaluations by the
//! memory that they need per token.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, Predict, Prediction, RunJob, TimeRange};
use mopd_plan::{ModelId, Objective, Plan, Stage, Train};
use tch::Kind;

use super::fits::{self, ModelSizes};
use super::memory_budget::DeviceMemoryBudget;
use super::prepared::PreparedPlan;
use super::{Keys, Task, Work};
use crate::control::Control;
use crate::evaluate;
use crate::failure::{Error, Result, caught};
use crate::machine::device::kind;
use crate::machine::memory;
use crate::machine::place::Place;
use crate::predict::{MachineSpeed, Shapes, TrialContext};
use crate::prepare::DomainData;
use crate::rollout::MemoryBudget;

/// Time after which [`Predict::Quick`] tries no further stage.
const QUICK: Duration = Duration::from_secs(30);

/// What is left to do of a run's tasks, by the index of the task.
pub struct TasksToDo<'a> {
    pub keys: &'a Keys,
    /// Whether a task has no stored result.
    pub waiting: &'a dyn Fn(usize) -> bool,
    /// Steps of a stage that are done already: it resumes from a checkpoint.
    pub done: &'a dyn Fn(usize) -> u32,
}

/// Predictions for the tasks of a run; empty where none were requested.
#[derive(Default)]
pub struct Predicted {
    stages: HashMap<ModelId, Prediction>,
    /// Least bytes that a stage holds, whether it was tried or not.
    least: HashMap<ModelId, u64>,
    /// Bytes, by task.
    evaluations: HashMap<usize, u64>,
    /// Bytes that the worker holds before it runs any task, used where no stage was tried.
    resting: Option<u64>,
}

impl Predicted {
    /// Predicts the tasks without a stored result. Each stage is tried once for all its seeds, as far as
    /// `job.predict` allows. Emits each prediction of what is left of a stage as soon as it is known; tasks
    /// with the same key are computed once.
    pub fn new(
        job: &RunJob,
        prepared: &PreparedPlan,
        store: &Path,
        place: Place,
        device_memory: &DeviceMemoryBudget,
        control: &Control,
        to_do: TasksToDo,
    ) -> Result<Predicted> {
        let PreparedPlan { tasks, specs, widths, domains, .. } = prepared;
        let plan = &job.plan;
        let mut trials = StageTrials::new(plan, prepared, job.predict, place, store);
        let sizes = ModelSizes::of_specs(specs);
        let Predicted { mut stages, mut least, mut evaluations, .. } = Predicted::default();
        // The first stage with a key, whose prediction the others share.
        let mut known: HashMap<&str, ModelId> = HashMap::new();
        for (index, task) in tasks.iter().enumerate().filter(|(index, _)| (to_do.waiting)(*index)) {
            control.check()?;
            let budget = device_memory.generation(widths[index] > 1);
            let id = match &task.work {
                Work::Stage(id) => *id,
                Work::Evaluate { model, domain, evaluation, comparisons: _ } => {
                    let (spec, domain) = (&specs[model.0 as usize], &domains[domain.0 as usize]);
                    let bytes = evaluate::memory(spec, domain, evaluation, trials.kind, budget);
                    // Errors in its tests are ignored here: the evaluation reports them.
                    evaluations.extend(bytes.ok().map(|bytes| (index, bytes)));
                    continue;
                }
            };
            least.entry(id).or_insert_with(|| fits::least(job, &sizes, id));
            if let Some(first) = known.get(to_do.keys.of(index)) {
                if let Some(prediction) = stages.get(first).copied() {
                    stages.insert(id, prediction);
                }
                continue;
            }
            known.insert(to_do.keys.of(index), id);
            let name = &plan.experiment.model(id).name;
            match trials.measure(id, widths[index], budget) {
                Ok(Some(prediction)) => {
                    let parallel = device_memory.parallel_tasks(widths[index] > 1);
                    stages.insert(id, widened_for_parallel(prediction, parallel));
                }
                Ok(None) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                // If the stage fails for the same reason, it reports the error with its step.
                Err(Error::Failed(failure)) => {
                    control.warn(format!("the trial of `{name}` failed: {}", failure.message));
                }
            }
            if let Some(prediction) = stages.get(&id) {
                let (stage, seed) = (name.clone(), task.seed);
                let steps = super::steps(&plan.experiment.model(id).stage, domains);
                let prediction = remaining(*prediction, (to_do.done)(index), steps);
                control.emit(&Event::Predicted { stage, seed, prediction });
            }
        }
        if !trials.tried.is_empty() {
            let StageTrials { began, short, late, .. } = trials;
            control.emit(&Event::PredictionEnded { seconds: began.elapsed().as_secs_f64(), short, late });
        }
        Ok(Predicted { stages, least, evaluations, resting: memory::resident() })
    }

    /// The prediction of a single stage.
    pub fn stage(&self, id: ModelId) -> Option<Prediction> {
        self.stages.get(&id).copied()
    }

    /// Least bytes that some tasks take in parallel; the worker's own memory counts once. `None` where that
    /// is unknown.
    pub fn memory(&self, tasks: &[Task], running: &[usize]) -> Option<u64> {
        let resting = self.stages.values().map(|stage| stage.resting).min().or(self.resting)?;
        let added = running.iter().map(|task| match tasks[*task].work {
            Work::Stage(id) => match self.stage(id) {
                Some(stage) => stage.memory.saturating_sub(stage.resting),
                None => self.least.get(&id).copied().unwrap_or(0),
            },
            Work::Evaluate { .. } => self.evaluations.get(task).copied().unwrap_or(0),
        });
        Some(resting + added.sum::<u64>())
    }
}

/// Trials of a run's training stages, each stage once for all its seeds.
struct StageTrials<'a> {
    plan: &'a Plan,
    domains: &'a [DomainData],
    shapes: Shapes,
    mode: Predict,
    place: Place,
    kind: Kind,
    /// Folder that stages are stored in.
    store: &'a Path,
    /// Measured before the first trial.
    machine: Option<MachineSpeed>,
    began: Instant,
    tried: HashSet<ModelId>,
    /// Stages that are too short to be worth a trial.
    short: u32,
    /// Stages that there was no time to try.
    late: u32,
}

impl<'a> StageTrials<'a> {
    fn new(
        plan: &'a Plan,
        prepared: &'a PreparedPlan,
        mode: Predict,
        place: Place,
        store: &'a Path,
    ) -> StageTrials<'a> {
        StageTrials {
            plan,
            domains: &prepared.domains,
            shapes: Shapes::new(plan, &prepared.specs),
            mode,
            place,
            kind: kind(plan.experiment.dtype),
            store,
            machine: None,
            began: Instant::now(),
            tried: HashSet::new(),
            short: 0,
            late: 0,
        }
    }

    /// Time and memory of a stage that runs alone on `cores` cores; `None` where it is not tried.
    fn measure(&mut self, id: ModelId, cores: usize, budget: MemoryBudget) -> Result<Option<Prediction>> {
        let stage = &self.plan.experiment.model(id).stage;
        if self.mode == Predict::Never || !can_be_tried(stage) || !self.tried.insert(id) {
            return Ok(None);
        }
        if self.mode == Predict::Quick && self.began.elapsed() >= QUICK {
            self.late += 1;
            return Ok(None);
        }
        let StageTrials { plan, domains, ref shapes, mode, place, kind, store, ref mut machine, .. } = *self;
        let steps = super::steps(stage, domains);
        let measure = || {
            tch::set_num_threads(cores as i32);
            let machine = machine.get_or_insert_with(|| MachineSpeed::measure(place, kind, store));
            let context = TrialContext { plan, domains, shapes, machine, place, budget };
            context.predict(id, steps, mode == Predict::Full)
        };
        // On a thread of its own, like the stage itself, because the system's allocator has memory per
        // thread.
        let measured = std::thread::scope(|scope| {
            let thread = scope.spawn(|| caught(measure).flatten());
            thread.join().expect("panics are caught in the thread")
        })?;
        self.short += u32::from(measured.is_none());
        Ok(measured)
    }
}

/// Whether a stage trains, without a server: a trial can't predict the time that servers take.
fn can_be_tried(stage: &Stage<Objective>) -> bool {
    let serves =
        |train: &&Train<Objective>| train.served().next().is_some() || train.sampled_by().next().is_some();
    let trains = stage.trains();
    !trains.is_empty() && !trains.iter().any(serves)
}

/// What is left of a stage of `steps` steps, of which `done` are done. What is not part of a step is not
/// shorter for that.
fn remaining(whole: Prediction, done: u32, steps: u32) -> Prediction {
    if done == 0 || steps == 0 {
        return whole;
    }
    let part = f64::from(steps.saturating_sub(done)) / f64::from(steps);
    let Prediction { seconds, rollout, scoring, update, .. } = whole;
    let saved = (rollout + scoring + update) * (1.0 - part);
    let TimeRange { least, most } = whole.range();
    let less = |seconds: f64| (seconds - saved * seconds / whole.seconds.max(f64::MIN_POSITIVE)).max(0.0);
    Prediction {
        seconds: seconds - saved,
        rollout: rollout * part,
        scoring: scoring * part,
        update: update * part,
        range: whole.range.map(|_| TimeRange { least: less(least), most: less(most) }),
        ..whole
    }
}

/// A wider range of time, for tasks that run in parallel and share caches and memory bandwidth.
fn widened_for_parallel(alone: Prediction, tasks: usize) -> Prediction {
    let TimeRange { least, most } = alone.range();
    Prediction { range: Some(TimeRange { least, most: most * tasks as f64 }), ..alone }
}

#[cfg(test)]
mod tests {
    use mopd_plan::{DomainId, Evaluation, Sampling};

    use super::*;

    fn ten_seconds() -> Prediction {
        let range = Some(TimeRange { least: 8.0, most: 12.0 });
        let (rollout, scoring, update) = (2.0, 1.0, 5.0);
        Prediction { seconds: 10.0, rollout, scoring, update, memory: 1, resting: 1, range }
    }

    #[test]
    fn a_resumed_stage_has_only_its_last_steps_left() {
        assert_eq!(remaining(ten_seconds(), 0, 100), ten_seconds());
        let last = remaining(ten_seconds(), 75, 100);
        // Two seconds are around the steps.
        assert_eq!((last.seconds, last.rollout, last.update, last.memory), (4.0, 0.5, 1.25, 1));
        let TimeRange { least, most } = last.range();
        assert!((least - 3.2).abs() < 1e-9 && (most - 4.8).abs() < 1e-9, "{least} {most}");
    }

    #[test]
    fn resting_memory_is_counted_once() {
        let stage = |memory, resting| Prediction {
            seconds: 1.0,
            rollout: 0.0,
            scoring: 0.0,
            update: 0.0,
            memory,
            resting,
            range: None,
        };
        let evaluation = Work::Evaluate {
            model: ModelId(0),
            domain: DomainId(0),
            evaluation: Evaluation { sampling: Sampling::new(1, 1.0, 1), prompts: None },
            comparisons: vec![0],
        };
        let works = [Work::Stage(ModelId(0)), Work::Stage(ModelId(1)), Work::Stage(ModelId(2)), evaluation];
        let tasks: Vec<Task> = works
            .into_iter()
            .map(|work| Task { work, seed: 1, needs: Vec::new(), critical_path: 0.0 })
            .collect();
        let predicted = Predicted {
            stages: [(ModelId(0), stage(150, 100)), (ModelId(1), stage(180, 110))].into(),
            least: [(ModelId(1), 40), (ModelId(2), 0)].into(),
            evaluations: [(3, 30)].into(),
            resting: None,
        };
        let memory = |running: &[usize]| predicted.memory(&tasks, running);
        assert_eq!(memory(&[0]), Some(150));
        assert_eq!(memory(&[0, 1]), Some(100 + 50 + 70));
        assert_eq!(memory(&[1, 3]), Some(100 + 70 + 30));
        assert_eq!(memory(&[2]), Some(100), "a merge, or a model that begins at random");
        assert_eq!(Predicted::default().memory(&tasks, &[0, 3]), None);
        let no_trials = Predicted { resting: Some(100), stages: HashMap::new(), ..predicted };
        assert_eq!(no_trials.memory(&tasks, &[0, 3]), Some(130), "evaluations of stages that are kept");
        assert_eq!(no_trials.memory(&tasks, &[1, 3]), Some(170), "what it takes at least");
    }
}
