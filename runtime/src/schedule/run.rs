//! Runs the tasks of a plan: tasks of small models in parallel, each on one core; tasks of large models one
//! at a time, on all cores. Results do not depend on the schedule: random numbers are keyed, and weights are
//! passed between threads as plain data.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, Fork, RunJob, Versions};
use mopd_plan::results::{GuardActed, StageRecord};
use mopd_plan::{EngineJob, Plan, Stage};
use mopd_store::Lock;
use mopd_store::results_folder::ResultsFolder;
use tch::Kind;

use super::exclusive::Tasks;
use super::locking::{self, Access, EmittedMessages};
use super::memory_budget::DeviceMemoryBudget;
use super::predicted::{Predicted, TasksToDo};
use super::prepared::{PreparedPlan, keys_of, prepared, workers};
use super::results::results_key;
use super::{Keys, Task, Work, disk_space, elsewhere, fits, fork_of, preflight, rerun_reasons};
use crate::control::Control;
use crate::evaluate::score;
use crate::failure::{Error, Result, caught};
use crate::machine::arithmetic::Arithmetic;
use crate::machine::memory::peak_memory;
use crate::machine::{device::kind, place::Place};
use crate::model::Weights;
use crate::prepare::{DomainData, ModelSpec, ProgramFiles, cache::DataCache};
use crate::remote::Servers;
use crate::report::{Record, write_records};
use crate::report::{answers::PromptAnswers, results::RunCost};
use crate::store::Store;
use crate::train::Pace;

/// The progress of a job, for its last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobProgress {
    pub finished: u32,
    pub tasks: u32,
}

/// The immutable state that the threads share.
pub(super) struct Scheduler<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tasks: &'a [Task],
    /// Number of cores of each task.
    pub(super) widths: &'a [usize],
    pub(super) keys: Keys,
    pub(super) specs: &'a [ModelSpec],
    pub(super) domains: &'a [DomainData],
    /// For each model's stage, the programs that its rollouts start.
    pub(super) environments: &'a [Vec<ProgramFiles>],
    pub(super) store: Store,
    pub(super) out: PathBuf,
    /// Folder that programs run in.
    pub(super) base: PathBuf,
    /// Tasks that are computed even if the store has their results.
    pub(super) forced: Vec<bool>,
    pub(super) forks: &'a [Fork],
    pub(super) servers: &'a Servers,
    pub(super) pace: Pace,
    pub(super) predicted: Predicted,
    pub(super) device_memory: DeviceMemoryBudget,
    running: Tasks,
    /// The engine that trains some stages.
    pub(super) engine: Option<&'a EngineJob>,
    /// Time and memory of the stages that this run computed.
    pub(super) records: Mutex<Vec<StageRecord>>,
    /// The actions of guards.
    pub(super) guards: Mutex<Vec<GuardActed>>,
    /// Keys of results that this run computed: even forced tasks are computed only once.
    pub(super) made: Mutex<HashSet<String>>,
    pub(super) emitted: EmittedMessages,
    pub(super) place: Place,
    pub(super) control: &'a Control,
}

/// The mutable state, behind one lock.
struct RunState {
    /// Tasks that have not been started.
    waiting: Vec<usize>,
    done: Vec<bool>,
    /// Tasks that run, or that a thread is about to begin.
    running: Vec<usize>,
    /// How many tasks have ended.
    changes: usize,
    /// Weights that some task still needs, by the task that produced them.
    weights: HashMap<usize, Arc<Weights>>,
    /// How many unfinished tasks need each task's weights.
    users: Vec<usize>,
    /// Records of training that failed, by task; those of finished stages are in the store.
    stopped: HashMap<usize, Record>,
    /// Answers of evaluations, by task.
    answers: HashMap<usize, Vec<PromptAnswers>>,
    failure: Option<Error>,
    finished_stages: u32,
    /// Largest predicted memory of tasks running in parallel, in bytes.
    predicted_memory: Option<u64>,
    /// Whether a stage without a prediction was trained.
    unpredicted: bool,
}

/// A task, the weights that it needs, and the lock to compute it if its result is not stored.
type ReadyTask = (usize, HashMap<usize, Arc<Weights>>, Option<Lock>);

/// The output of a task.
pub(super) enum TaskOutput {
    Weights(Arc<Weights>),
    Answers(Vec<PromptAnswers>),
}

/// The error of a failed task, with the record of its steps.
pub(super) struct TaskStopped {
    pub(super) error: Error,
    pub(super) record: Record,
}

impl From<Error> for TaskStopped {
    fn from(error: Error) -> TaskStopped {
        TaskStopped { error, record: Record::default() }
    }
}

/// Runs a plan to its end. `progress` is kept up to date, for a job that ends early; finished stages and the
/// metrics so far are always on disk.
pub fn run(
    job: &RunJob,
    versions: &Versions,
    place: Place,
    cache: Option<&DataCache>,
    control: &Control,
    progress: &mut JobProgress,
) -> Result<()> {
    let started = Instant::now();
    let plan = &job.plan;
    let out = PathBuf::from(&job.out);
    // First, so that an unusable store is found before reading data and models, which may take minutes.
    let store = Store::open(Path::new(&job.store))?;
    let prepared = prepared(job, cache, Some(&store), control)?;
    let tasks = prepared.tasks.as_slice();
    let arithmetic = Arithmetic::of_this_machine(&versions.libtorch);
    let keys = keys_of(job, &prepared, &arithmetic, place);
    let forced = if job.fresh { vec![true; tasks.len()] } else { super::forced(plan, tasks, &job.from) };
    let is_stage = |task: &Task| matches!(task.work, Work::Stage(_));
    progress.tasks = tasks.iter().filter(|task| is_stage(task)).count() as u32;
    let waiting = |index: usize| forced[index] || !keys.all_of(index).all(|key| store.has(key));
    preflight::ask_all(plan, &prepared, Path::new(&job.base), waiting, control)?;
    let kept = (0..tasks.len()).filter(|index| is_stage(&tasks[*index]) && !waiting(*index)).count();
    if let Some(elsewhere) = elsewhere::hint(job, tasks, &keys) {
        control.warn(elsewhere);
    }
    control.emit(&Event::Started { tasks: progress.tasks, kept: kept as u32 });
    super::unseen::warn_of_reuse(job, &prepared, waiting, control);
    locking::register(plan, tasks, &keys, &out, &store, control)?;
    let results_key = results_key(plan, tasks, &keys);
    ResultsFolder::at(&out).supersede(&results_key)?;
    rerun_reasons::record(&prepared, &keys, &store, job);
    if let Some(warning) = store.note_arithmetic(&arithmetic)? {
        control.warn(warning);
    }
    let workers = workers(job, tasks);
    let device_memory = DeviceMemoryBudget::detect(workers, place);
    let sizes = fits::ModelSizes::of_specs(&prepared.specs);
    let here = |index: usize| waiting(index) && !super::on_engine(job, &tasks[index]);
    fits::weights(job, tasks, &sizes, &device_memory, here)?;
    disk_space::check(job, tasks, &sizes, waiting, (&keys, &store), control)?;
    let resumes = |index: usize| {
        let own = if forced[index] { 0 } else { store.last_step(keys.of(index)) };
        if own > 0 { own } else { fork_of(&job.forks, plan, &tasks[index]).map_or(0, |fork| fork.step) }
    };
    let to_do = TasksToDo { keys: &keys, waiting: &here, done: &resumes };
    let predicted =
        Predicted::new(job, &prepared, Path::new(&job.store), place, &device_memory, control, to_do)?;
    fits::predicted(plan, tasks, &predicted, &device_memory, control)?;
    let before_stages = started.elapsed().as_secs_f64();

    let shared = Scheduler {
        predicted,
        forced,
        ..Scheduler::new(job, &prepared, keys, store, device_memory, place, control)
    };
    let state = shared.run_tasks(workers);
    progress.finished = state.finished_stages;

    // If this run was abandoned, the folder of results may belong to another run by now.
    let read = || (0..tasks.len()).filter_map(|index| shared.record(&state, index).transpose());
    let ended = state.failure.is_none() && control.check().is_ok();
    // Finished results with these keys have the records of all stages, and those of an interrupted run are
    // only a part of them.
    let keeps_records = !ended && ResultsFolder::at(&shared.out).has_results();
    let written =
        if control.abandoned() || keeps_records { Ok(()) } else { write_records(read, &shared.out) };
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    control.check()?;
    written?;
    let took = RunCost {
        stages: std::mem::take(&mut *lock(&shared.records)),
        guards: std::mem::take(&mut *lock(&shared.guards)),
        private: prepared.private.clone(),
        seconds: started.elapsed().as_secs_f64(),
        before_stages,
        peak_memory: peak_memory(place),
        predicted_memory: state.predicted_memory.filter(|_| !state.unpredicted),
        device: Some(place.name()),
        data: shared.domains.iter().flat_map(DomainData::hashes).collect(),
        rewards: shared.domains.iter().filter_map(DomainData::reward_files).collect(),
        keys: Some(results_key),
        forks: tasks.iter().filter_map(|task| fork_of(&job.forks, plan, task)).cloned().collect(),
    };
    shared.write_results(&state.answers, took, versions)
}

impl<'a> Scheduler<'a> {
    /// A scheduler of one process, without predictions or forced tasks.
    pub(super) fn new(
        job: &'a RunJob,
        prepared: &'a PreparedPlan,
        keys: Keys,
        store: Store,
        device_memory: DeviceMemoryBudget,
        place: Place,
        control: &'a Control,
    ) -> Scheduler<'a> {
        let PreparedPlan { tasks, specs, widths, domains, servers, environments, private: _ } = prepared;
        Scheduler {
            predicted: Predicted::default(),
            device_memory,
            running: Tasks::at(place),
            engine: job.engine.as_ref(),
            records: Mutex::default(),
            plan: &job.plan,
            tasks,
            widths,
            keys,
            specs,
            domains,
            environments,
            store,
            out: PathBuf::from(&job.out),
            base: PathBuf::from(&job.base),
            forced: vec![false; tasks.len()],
            forks: &job.forks,
            servers,
            pace: match job.checkpoint_every {
                // Negative numbers and NaN mean as often as possible.
                Some(seconds) => Pace::Every(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
                None => Pace::Sparing,
            },
            guards: Mutex::default(),
            made: Mutex::default(),
            emitted: EmittedMessages::default(),
            place,
            control,
        }
    }
}

impl Scheduler<'_> {
    fn initial_state(&self) -> RunState {
        let mut users = vec![0; self.tasks.len()];
        for need in self.tasks.iter().flat_map(|task| &task.needs) {
            users[*need] += 1;
        }
        RunState {
            waiting: (0..self.tasks.len()).collect(),
            done: vec![false; self.tasks.len()],
            running: Vec::new(),
            changes: 0,
            weights: HashMap::new(),
            users,
            stopped: HashMap::new(),
            answers: HashMap::new(),
            failure: None,
            finished_stages: 0,
            predicted_memory: None,
            unpredicted: false,
        }
    }

    /// Runs all tasks, on this many threads.
    fn run_tasks(&self, workers: usize) -> RunState {
        let state = Mutex::new(self.initial_state());
        self.control.begin_work();
        let changed = Condvar::new();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| self.work(&state, &changed));
            }
        });
        state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The loop of one thread, until no task is left or the job is over.
    fn work(&self, state: &Mutex<RunState>, changed: &Condvar) {
        while let Some((task, inputs, guard)) = self.next(state, changed) {
            // Both libtorch's own pool and the ones it calls keep this setting per thread.
            tch::set_num_threads(self.widths[task] as i32);
            let outcome =
                caught(|| self.execute(task, &inputs, guard)).unwrap_or_else(|error| Err(error.into()));
            self.finish(&mut lock(state), task, outcome);
            changed.notify_all();
        }
        changed.notify_all();
    }

    /// The next task that can begin, with its lock if it has to be computed. A task is claimed first, as if
    /// it ran, and the store is read after the mutex is released: on a network's file system that takes time.
    fn next(&self, run: &Mutex<RunState>, changed: &Condvar) -> Option<ReadyTask> {
        let mut state = lock(run);
        // Tasks that can't begin now, although they are ready.
        let (mut passed, mut seen) = (Vec::new(), state.changes);
        loop {
            if state.waiting.is_empty() || self.control.check().is_err() {
                return None;
            }
            let Some((task, admitted)) = self.take_ready_task(&mut state, &passed) else {
                // Woken when a task finishes, and by a timeout, in case the job was interrupted or another
                // run has finished a result that this one waits for.
                if state.changes == seen {
                    let timeout = Duration::from_millis(200);
                    state = changed
                        .wait_timeout(state, timeout)
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .0;
                }
                (passed, seen) = (Vec::new(), state.changes);
                continue;
            };
            drop(state);
            let access = self.access(task, admitted);
            state = lock(run);
            match access {
                Ok(Access::Read) => return Some(self.begin(&mut state, task, None)),
                Ok(Access::Compute(held)) => return Some(self.begin(&mut state, task, Some(held))),
                // Another candidate may need less memory.
                Ok(Access::Elsewhere | Access::NoMemory) => passed.push(task),
                Err(error) => {
                    state.failure.get_or_insert(error);
                    self.control.stop();
                }
            }
            state.running.retain(|&running| running != task);
        }
    }

    /// Claims the ready task with the longest critical path, the earliest among equals, that was not passed
    /// over. Of tasks with the same key, one runs at a time, in this and other runs, and the others find its
    /// result in the store. A task that needs several cores waits until no other runs. The second value says
    /// whether there is memory to compute the task now.
    fn take_ready_task(&self, state: &mut RunState, passed: &[usize]) -> Option<(usize, bool)> {
        let same_key = |a: usize, b: usize| self.keys.of(a) == self.keys.of(b);
        let ready = |task: &usize| {
            !passed.contains(task)
                && self.tasks[*task].needs.iter().all(|need| state.done[*need])
                && !state.running.iter().any(|&running| same_key(running, *task))
        };
        let longest_path = |a: &usize, b: &usize| {
            let path = |task: &usize| self.tasks[*task].critical_path;
            path(b).total_cmp(&path(a)).then(a.cmp(b))
        };
        let task = state.waiting.iter().copied().filter(ready).min_by(longest_path)?;
        let wide = |task: usize| self.widths[task] > 1;
        if state.running.iter().any(|&running| wide(running) || wide(task)) {
            return None;
        }
        let alone = state.running.is_empty();
        state.running.push(task);
        Some((task, alone || self.device_memory.admits(self.predicted.memory(self.tasks, &state.running))))
    }

    /// Begins a claimed task.
    fn begin(&self, state: &mut RunState, task: usize, guard: Option<Lock>) -> ReadyTask {
        state.unpredicted |= guard.is_some() && self.trains_unpredicted(task);
        state.waiting.retain(|&waiting| waiting != task);
        let predicted = self.predicted.memory(self.tasks, &state.running);
        state.predicted_memory = state.predicted_memory.max(predicted);
        let inputs = self.tasks[task].needs.iter().map(|need| (*need, state.weights[need].clone())).collect();
        (task, inputs, guard)
    }

    fn trains_unpredicted(&self, index: usize) -> bool {
        let task = &self.tasks[index];
        let Work::Stage(id) = task.work else { return false };
        super::trains(self.plan, task) && self.predicted.stage(id).is_none()
    }

    fn finish(&self, state: &mut RunState, index: usize, outcome: Result<TaskOutput, TaskStopped>) {
        state.running.retain(|&task| task != index);
        state.changes += 1;
        let task = &self.tasks[index];
        match outcome {
            Ok(outcome) => {
                state.done[index] = true;
                for need in &task.needs {
                    state.users[*need] -= 1;
                    if state.users[*need] == 0 {
                        state.weights.remove(need);
                    }
                }
                match outcome {
                    TaskOutput::Weights(weights) => {
                        state.finished_stages += 1;
                        if state.users[index] > 0 {
                            state.weights.insert(index, weights);
                        }
                    }
                    TaskOutput::Answers(answers) => {
                        state.answers.insert(index, answers);
                    }
                }
            }
            Err(TaskStopped { error, record }) => {
                state.stopped.insert(index, record);
                self.control.stop();
                // After a failure, the other threads are interrupted, which is not a failure of theirs.
                if state.failure.is_none() && matches!(error, Error::Failed(_)) {
                    state.failure = Some(error.in_stage(&self.name(task), task.seed));
                }
            }
        }
    }

    /// The record of a task's training; `None` where it did not train or did not begin.
    fn record(&self, state: &RunState, index: usize) -> Result<Option<Record>> {
        if let Some(record) = state.stopped.get(&index) {
            return Ok(Some(record.clone()));
        }
        let Work::Stage(id) = self.tasks[index].work else { return Ok(None) };
        let model = self.plan.experiment.model(id);
        if !state.done[index] || matches!(model.stage, Stage::Load(_)) {
            return Ok(None);
        }
        Ok(Some(self.renamed(id, self.store.record(self.keys.of(index))?)))
    }

    pub(super) fn kind(&self) -> Kind {
        kind(self.plan.experiment.dtype)
    }

    pub(super) fn name(&self, task: &Task) -> String {
        let (Work::Stage(model) | Work::Evaluate { model, .. }) = task.work;
        self.plan.experiment.model(model).name.clone()
    }

    fn execute(
        &self,
        index: usize,
        inputs: &HashMap<usize, Arc<Weights>>,
        mut guard: Option<Lock>,
    ) -> Result<TaskOutput, TaskStopped> {
        let task = &self.tasks[index];
        let running = self.running.begin();
        match &task.work {
            Work::Stage(model) => {
                let origin = self.plan.experiment.model(*model).origin;
                self.stage(index, *model, inputs, &running, &mut guard)
                    .map_err(|unfinished| TaskStopped { error: unfinished.error.at(origin), ..unfinished })
            }
            Work::Evaluate { model: _, domain, evaluation, comparisons } => {
                let (weights, domain) = (&inputs[&task.needs[0]], *domain);
                let answers = self.evaluated(index, domain, evaluation, weights, &mut guard)?;
                let tables = comparisons.iter().map(|table| &self.plan.experiment.comparisons[*table].name);
                self.control.emit(&Event::Evaluated {
                    model: self.name(task),
                    seed: task.seed,
                    domain: self.plan.experiment.domain(domain).name.clone(),
                    score: score(&answers),
                    tables: tables.cloned().collect(),
                });
                Ok(TaskOutput::Answers(answers))
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock, and a stage's panic is caught before.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
