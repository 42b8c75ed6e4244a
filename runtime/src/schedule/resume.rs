//! What a stage goes on from, and what it leaves while it is at work.

use mopd_compiler::plan::events::{Event, FailureKind};

use super::fork_of;
use super::run::Shared;
use crate::failure::{Error, Result};
use crate::report::metrics::Row;
use crate::store::{Forked, Lookup};
use crate::train::state::{State, Taking};

impl Shared<'_> {
    /// The state that a stage that trains begins with, where it is not its first.
    pub(super) fn from(&self, index: usize, name: &str) -> Result<Option<(State, Taking)>> {
        let (key, seed) = (self.keys.of(index), self.tasks[index].seed);
        if self.again[index] {
            self.store.drop_states(key)?;
        }
        let (own, damaged) = self.store.last_state(key);
        for reason in damaged {
            self.control.warn(format!("a checkpoint of `{name}` is damaged and is not used: {reason}"));
        }
        let found = match own {
            Some(own) => Some((own, Taking::Own)),
            None => self.fork(index)?.map(|other| (other, Taking::Forked)),
        };
        if let Some((state, _)) = &found {
            self.control.emit(&Event::StageResumed { stage: name.to_owned(), seed, step: state.position.step });
        }
        // Whoever made it may have called the stage another name.
        let named = |rows: Vec<Row>| rows.into_iter().map(|row| Row { stage: name.to_owned(), ..row }).collect();
        Ok(found.map(|(state, taking)| (State { rows: named(state.rows), ..state }, taking)))
    }

    /// The state of another stage that this one is to go on from.
    fn fork(&self, index: usize) -> Result<Option<State>> {
        let Some(fork) = fork_of(self.forks, self.plan, &self.tasks[index]) else { return Ok(None) };
        let why = match self.store.state(&fork.key, fork.step) {
            Lookup::Kept(state) => return Ok(Some(state)),
            Lookup::Absent => "it is not in the store".to_owned(),
            Lookup::Damaged(reason) => format!("it is damaged: {reason}"),
        };
        let message = format!("cannot fork `{}` from the checkpoint of step {} of {}: {why}", fork.stage, fork.step, fork.key);
        Err(Error::new(FailureKind::Storage, message).help("run it without the fork: it begins with its first step"))
    }

    pub(super) fn forked(&self, index: usize) -> Option<Forked> {
        let fork = fork_of(self.forks, self.plan, &self.tasks[index])?;
        Some(Forked { key: fork.key.clone(), step: fork.step })
    }

    /// Makes the state of a stage durable.
    pub(super) fn keep(&self, index: usize, name: &str, state: &State) -> Result<()> {
        let (key, seed) = (self.keys.of(index), self.tasks[index].seed);
        self.store.keep_state(key, state)?;
        self.control.emit(&Event::Checkpoint { stage: name.to_owned(), seed, key: key.to_owned(), step: state.position.step });
        Ok(())
    }
}
