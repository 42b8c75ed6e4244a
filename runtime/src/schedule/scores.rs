//! What frozen models say of a stage's data, in the store: found by whoever asks the same of them, made by
//! one run at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use mopd_compiler::plan::ModelId;
use mopd_store::Lock;

use super::locking::scores_of;
use super::run::{Scheduler, lock};
use crate::failure::{Error, Result};
use crate::store::{Lookup, ScoreEntry};
use crate::train::ScoredBatch;

/// How often it is asked whether another run has written a batch.
const PATIENCE: Duration = Duration::from_millis(5);

/// What a stage at work knows of its scores.
#[derive(Default)]
pub(super) struct ScoreLocks {
    /// To make what was asked for last.
    guard: RefCell<Option<Lock>>,
    /// Names of entries that were compared with their checksums.
    trusted: RefCell<HashSet<String>>,
    /// A disk that stays full is said once.
    said: Cell<bool>,
}

impl Scheduler<'_> {
    /// None where they are to be made here, with the right to it where that can be had.
    pub(super) fn find_scores(
        &self,
        index: usize,
        known: &ScoreLocks,
        scored: ScoredBatch,
        ranges: &[Range<u64>],
    ) -> Option<Vec<u8>> {
        let place = self.place(index, scored)?;
        let name = place.name();
        let forced = self.forced[index] && !lock(&self.made).contains(&name);
        let trusted = known.trusted.borrow().contains(&name);
        known.guard.take();
        for _ in 0..2 {
            match self.store.scores(place, ranges, trusted) {
                Lookup::Found(found) if !forced => {
                    known.guard.take();
                    known.trusted.borrow_mut().insert(name);
                    return Some(found);
                }
                Lookup::Damaged(reason) if known.guard.borrow().is_some() => {
                    self.control
                        .warn(format!("stored scores are damaged and will be computed again: {reason}"));
                }
                _ => {}
            }
            if known.guard.borrow().is_none() {
                let about = || self.about_scores(index, scored.model);
                // Asked to stop, or on a disk without room for a lock, the step is done without.
                let lock = format!("{}.{}", place.key, place.batch);
                known.guard.replace(self.wait_among(&lock, place.key, about).ok());
            }
        }
        None
    }

    pub(super) fn keep_scores(&self, index: usize, known: &ScoreLocks, scored: ScoredBatch, bytes: &[u8]) {
        let Some(place) = self.place(index, scored) else { return };
        let about = || self.about_scores(index, scored.model);
        let keep = || -> Result<()> {
            self.check_unchanged(index)?;
            let _writing = self.lock_to_write(place.key)?;
            self.store.insert_scores(place, &about(), bytes)
        };
        let kept = keep();
        match kept {
            Ok(()) => {
                known.trusted.borrow_mut().insert(place.name());
                lock(&self.made).insert(place.name());
            }
            Err(Error::Interrupted) => {}
            Err(error) => {
                if !known.said.replace(true) {
                    self.control.warn(format!(
                        "the {} are not kept, and are computed again where they are needed: {error}",
                        about()
                    ));
                }
            }
        }
        // Others may read them now.
        known.guard.take();
    }

    /// Lets go of what models say of a stage's data. False where this makes no room.
    pub(super) fn drop_scores(&self, index: usize) -> Result<bool> {
        let mut dropped = false;
        for key in self.keys.all_scores(index) {
            let _writing = self.lock_to_write(key)?;
            dropped |= self.store.drop_scores(key)?;
        }
        Ok(dropped)
    }

    /// Whoever lets go of a folder of scores has it too.
    fn lock_to_write(&self, key: &str) -> Result<Lock> {
        loop {
            if let Some(held) = self.store.try_lock(key)? {
                return Ok(held);
            }
            self.control.check()?;
            std::thread::sleep(PATIENCE);
        }
    }

    fn place<'s>(
        &'s self,
        index: usize,
        ScoredBatch { model, batch, bytes }: ScoredBatch<'s>,
    ) -> Option<ScoreEntry<'s>> {
        Some(ScoreEntry { key: self.keys.of_scores(index, model)?, batch, bytes })
    }

    fn about_scores(&self, index: usize, model: ModelId) -> String {
        scores_of(&self.plan.experiment.model(model).name, &self.about(index))
    }
}
