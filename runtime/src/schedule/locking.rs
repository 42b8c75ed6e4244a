//! Locks on results: one run at a time computes a result. Other runs on the same store wait for it and
//! execute other tasks meanwhile. No thread waits for a result while it holds another lock, except for a
//! stage that waits for rollouts or for the scores of a batch. Computing these waits for no lock, so runs
//! can't deadlock.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use mopd_plan::events::Event;
use mopd_plan::{Plan, Stage};
use mopd_store::{Lock, StoredRun};

use super::run::{Scheduler, lock};
use super::{Keys, Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::store::{Lookup, Store};

/// Interval of checks whether another run is done.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The access of a task to its result in the store.
pub(super) enum Access {
    /// Its result is stored, or it computes nothing.
    Read,
    Compute(Lock),
    /// Another run computes the result.
    Elsewhere,
    /// It has to be computed, and there is no memory for it now.
    NoMemory,
}

/// Messages that are emitted once only.
#[derive(Default)]
pub(super) struct EmittedMessages {
    waiting: Mutex<HashSet<String>>,
    no_locks: Mutex<bool>,
}

impl Scheduler<'_> {
    /// A description of a task's result for messages.
    pub(super) fn about(&self, task: usize) -> String {
        about(self.plan, &self.tasks[task])
    }

    /// Whether a result is computed even if the store has it.
    fn is_forced(&self, task: usize) -> bool {
        self.forced[task] && !lock(&self.made).contains(self.keys.of(task))
    }

    /// `admitted`: there is memory to compute it. Reads the store, so no mutex is held meanwhile.
    pub(super) fn access(&self, task: usize, admitted: bool) -> Result<Access> {
        let loads = |work: &Work| matches!(work, Work::Stage(id) if is_load(self.plan, *id));
        let there = || self.keys.all_of(task).all(|key| self.store.has(key));
        if loads(&self.tasks[task].work) || (there() && !self.is_forced(task)) {
            return Ok(Access::Read);
        }
        // Without the lock, which other runs would wait for.
        if !admitted {
            return Ok(Access::NoMemory);
        }
        let Some(held) = self.store.try_lock(self.keys.of(task))? else {
            if lock(&self.emitted.waiting).insert(self.keys.of(task).to_owned()) {
                self.control.emit(&Event::Waiting { what: self.about(task) });
            }
            return Ok(Access::Elsewhere);
        };
        if !held.exclusive() && !std::mem::replace(&mut *lock(&self.emitted.no_locks), true) {
            self.control.warn(
                "the store is on a file system without locks: two runs at the same time may compute the \
                same result twice",
            );
        }
        Ok(Access::Compute(held))
    }

    /// The stored result of a task, unless it is to be computed anew. Where there is no intact one, `guard`
    /// holds the lock to compute it afterwards.
    pub(super) fn stored<T>(
        &self,
        task: usize,
        guard: &mut Option<Lock>,
        find: impl Fn() -> Lookup<T>,
    ) -> Result<Option<T>> {
        if self.is_forced(task) {
            return Ok(None);
        }
        match (find(), &guard) {
            (Lookup::Found(value), _) => return Ok(Some(value)),
            (Lookup::Absent, Some(_)) => return Ok(None),
            _ => {}
        }
        // Another run may be replacing a result that looks damaged; under the lock, none does.
        if guard.is_none() {
            *guard = Some(self.wait_for(self.keys.of(task), || self.about(task))?);
        }
        Ok(match find() {
            Lookup::Found(value) => Some(value),
            Lookup::Absent => None,
            Lookup::Damaged(damage) => {
                let kind = damage.kind;
                self.control.warn(format!("a stored result is {kind} and will be computed again: {damage}"));
                None
            }
        })
    }

    /// Waits for the lock of a key, which another run may hold.
    pub(super) fn wait_for(&self, key: &str, about: impl Fn() -> String) -> Result<Lock> {
        self.wait_among(key, key, about)
    }

    /// The same for one of many keys, which share the name `all`: the message that the run waits is emitted
    /// once for them.
    pub(super) fn wait_among(&self, key: &str, all: &str, about: impl Fn() -> String) -> Result<Lock> {
        loop {
            if let Some(held) = self.store.try_lock(key)? {
                return Ok(held);
            }
            if lock(&self.emitted.waiting).insert(all.to_owned()) {
                self.control.emit(&Event::Waiting { what: about() });
            }
            self.control.check()?;
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

fn is_load(plan: &Plan, id: mopd_plan::ModelId) -> bool {
    matches!(plan.experiment.model(id).stage, Stage::Load(_))
}

fn about(plan: &Plan, task: &Task) -> String {
    match &task.work {
        Work::Stage(model) => format!("{}, seed {}", plan.experiment.model(*model).name, task.seed),
        Work::Evaluate { model, domain, .. } => {
            let (model, domain) = (plan.experiment.model(*model), plan.experiment.domain(*domain));
            format!("{} on {}, seed {}", model.name, domain.name, task.seed)
        }
    }
}

pub(super) fn rollouts_of(stage: &str) -> String {
    format!("rollouts of the teachers of {stage}")
}

pub(super) fn scores_of(model: &str, stage: &str) -> String {
    format!("scores of {model} for {stage}")
}

/// Registers the keys that a run needs, before it looks for results.
pub(super) fn register(
    plan: &Plan,
    tasks: &[Task],
    keys: &Keys,
    out: &Path,
    store: &Store,
    control: &Control,
) -> Result<()> {
    let mut needs = BTreeMap::new();
    for (index, task) in tasks.iter().enumerate() {
        if !matches!(task.work, Work::Stage(id) if is_load(plan, id)) {
            for key in keys.all_of(index) {
                needs.entry(key.to_owned()).or_insert_with(|| about(plan, task));
            }
            if let Some(rollouts) = keys.of_rollouts(index) {
                needs.insert(rollouts.to_owned(), rollouts_of(&about(plan, task)));
            }
        }
    }
    // While this folder exists, pruning keeps what the run needs.
    std::fs::create_dir_all(out).map_err(|error| Error::storage(out, error))?;
    let out = std::path::absolute(out).map_err(|error| Error::storage(out, error))?;
    let run = StoredRun { experiment: plan.experiment.name.clone(), out, needs };
    while !store.register(&run)? {
        control.check()?;
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
