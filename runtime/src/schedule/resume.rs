//! The states that a stage resumes from, and the ones that it stores while it runs.

use mopd_plan::events::{Event, FailureKind};
use mopd_store::Lock;

use super::locking::rollouts_of;
use super::run::{Scheduler, lock};
use super::{Work, fork_of};
use crate::failure::{Error, Result};
use crate::store::state::TrainState;
use crate::store::{Forked, Lookup};
use crate::train::{RestoreMode, RolloutsBySource};

impl Scheduler<'_> {
    /// The state that a training stage resumes from, if any: its last checkpoint, or a fork's state.
    pub(super) fn from(&self, index: usize, name: &str) -> Result<Option<(TrainState, RestoreMode)>> {
        let (key, seed) = (self.keys.of(index), self.tasks[index].seed);
        let Work::Stage(id) = self.tasks[index].work else { return Ok(None) };
        if self.forced[index] {
            self.store.drop_states(key)?;
        }
        let (own, damaged) = self.store.resume_from(key)?;
        let then =
            if own.is_some() { "the one before is used" } else { "the stage begins at its first step" };
        for (place, damage) in damaged.iter().enumerate() {
            let then = if place + 1 < damaged.len() { "it is not used" } else { then };
            let kind = damage.kind;
            self.control.warn(format!("a checkpoint of `{name}` is {kind}, so {then}: {damage}"));
        }
        let found = match own {
            Some(own) => Some((own, RestoreMode::Resume)),
            None => self.fork(index)?.map(|other| (other, RestoreMode::Fork)),
        };
        if let Some((state, _)) = &found {
            self.control.emit(&Event::StageResumed {
                stage: name.to_owned(),
                seed,
                step: state.position.step,
            });
        }
        Ok(found.map(|(state, mode)| (TrainState { record: self.renamed(id, state.record), ..state }, mode)))
    }

    /// The state of another stage from which this one is forked.
    fn fork(&self, index: usize) -> Result<Option<TrainState>> {
        let Some(fork) = fork_of(self.forks, self.plan, &self.tasks[index]) else { return Ok(None) };
        let why = match self.store.state(&fork.key, fork.step) {
            Lookup::Found(state) => return Ok(Some(state)),
            Lookup::Absent => "it is not in the store".to_owned(),
            Lookup::Damaged(damage) => format!("it is {}: {damage}", damage.kind),
        };
        let message = format!(
            "cannot fork `{}` from the checkpoint of step {} of {}: {why}",
            fork.stage, fork.step, fork.key
        );
        Err(Error::new(FailureKind::Storage, message)
            .help("run it without the fork: it then starts from its first step"))
    }

    /// The stored rollouts of frozen models for a stage, written for it or for another one with the same
    /// key. Where there are none, `guard` gets the lock to write them.
    pub(super) fn rollouts(
        &self,
        index: usize,
        guard: &mut Option<Lock>,
    ) -> Result<Option<RolloutsBySource>> {
        let Some(key) = self.keys.of_rollouts(index) else { return Ok(None) };
        let about = || rollouts_of(&self.about(index));
        let forced = self.forced[index] && !lock(&self.made).contains(key);
        for _ in 0..2 {
            match self.store.find_value(key) {
                Lookup::Found(written) if !forced => {
                    guard.take();
                    return Ok(Some(written));
                }
                Lookup::Damaged(damage) if guard.is_some() => {
                    self.control.warn(format!(
                        "stored rollouts are {} and will be sampled again: {damage}",
                        damage.kind
                    ));
                }
                _ => {}
            }
            if guard.is_none() {
                *guard = Some(self.wait_for(key, about)?);
            }
        }
        Ok(None)
    }

    pub(super) fn keep_rollouts(&self, index: usize, written: &RolloutsBySource) -> Result<()> {
        let Some(key) = self.keys.of_rollouts(index) else { return Ok(()) };
        self.store.insert_value(key, &rollouts_of(&self.about(index)), written)?;
        lock(&self.made).insert(key.to_owned());
        Ok(())
    }

    pub(super) fn forked(&self, index: usize) -> Option<Forked> {
        let fork = fork_of(self.forks, self.plan, &self.tasks[index])?;
        Some(Forked { key: fork.key.clone(), step: fork.step })
    }

    /// Stores the result of a stage durably, then deletes its checkpoints.
    pub(super) fn keep_finished(&self, index: usize, insert: impl Fn() -> Result<()>) -> Result<()> {
        let key = self.keys.of(index);
        // On a full disk, makes room by deleting older checkpoints, which are only needed if the last one
        // is damaged, and then scores, which can be recomputed.
        let older = || self.store.drop_older_states(key);
        let scores = || self.drop_scores(index);
        let ways: [&dyn Fn() -> Result<bool>; 2] = [&older, &scores];
        let mut outcome = insert();
        for make_room in ways {
            if outcome.is_err() && matches!(make_room(), Ok(true)) {
                outcome = insert();
            }
        }
        outcome?;
        self.store.drop_states(key)
    }

    /// Deletes checkpoints of a finished stage, left by a run that was killed before it deleted them. `held`
    /// says whether this run holds the stage's lock.
    pub(super) fn drop_leftovers(&self, key: &str, held: bool) {
        if !self.store.has_states(key) {
            return;
        }
        // If the lock is taken, another run computes the stage again.
        let lock = if held { None } else { self.store.try_lock(key).ok().flatten() };
        if held || lock.is_some() {
            // On a read-only disk they stay.
            let _ = self.store.drop_states(key);
        }
    }

    /// Stores the state of a stage durably.
    pub(super) fn keep(&self, index: usize, name: &str, state: &TrainState) -> Result<()> {
        let (key, seed) = (self.keys.of(index), self.tasks[index].seed);
        self.check_unchanged(index)?;
        let Work::Stage(id) = self.tasks[index].work else { return Ok(()) };
        self.store.keep_named_state(key, &self.about(index), state, &self.record_names(id))?;
        self.control.emit(&Event::Checkpoint {
            stage: name.to_owned(),
            seed,
            key: key.to_owned(),
            step: state.position.step,
        });
        Ok(())
    }
}
