//! Scores of frozen models for a stage's data, in the store: shared by stages that need the same scores, and
//! computed by one run at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use mopd_plan::ModelId;
use mopd_store::Lock;

use super::locking::scores_of;
use super::run::{Scheduler, lock};
use crate::failure::{Error, Result};
use crate::store::{Lookup, ScoreEntry};
use crate::train::ScoredBatch;

/// Interval of checks whether another run has written a batch.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running stage's state for the use of stored scores.
#[derive(Default)]
pub(super) struct ScoreLocks {
    /// The lock to compute the batch that was looked up last.
    guard: RefCell<Option<Lock>>,
    /// Names of entries whose checksums were verified.
    trusted: RefCell<HashSet<String>>,
    /// Whether a failed write was reported; it is reported once only.
    said: Cell<bool>,
}

impl Scheduler<'_> {
    /// The stored scores of a batch, or `None`, usually with the lock to compute them here.
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
                Lookup::Damaged(damage) if known.guard.borrow().is_some() => {
                    self.control.warn(format!(
                        "stored scores are {} and will be computed again: {damage}",
                        damage.kind
                    ));
                }
                _ => {}
            }
            if known.guard.borrow().is_none() {
                let about = || self.about_scores(index, scored.model);
                // If the job stops, or there is no room for a lock, the step goes on without one.
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
                        "the {} cannot be stored and will be computed again when needed: {error}",
                        about()
                    ));
                }
            }
        }
        // Others may read them now.
        known.guard.take();
    }

    /// Deletes the scores of a stage's data. Returns false if there were none.
    pub(super) fn drop_scores(&self, index: usize) -> Result<bool> {
        let mut dropped = false;
        for key in self.keys.all_scores(index) {
            let _writing = self.lock_to_write(key)?;
            dropped |= self.store.drop_scores(key)?;
        }
        Ok(dropped)
    }

    /// Waits for the lock of a folder of scores, which is also taken to delete the folder.
    fn lock_to_write(&self, key: &str) -> Result<Lock> {
        loop {
            if let Some(held) = self.store.try_lock(key)? {
                return Ok(held);
            }
            self.control.check()?;
            std::thread::sleep(POLL_INTERVAL);
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
