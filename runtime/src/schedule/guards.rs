//! Reports of the guards of finished stages, for stages found in the store and for those trained by this
//! run.

use mopd_plan::{Learner, ModelId, Stage};

use super::run::{Scheduler, lock};
use crate::failure::Result;
use crate::report::Record;
use crate::train::guards::{GuardedStage, Guards, TriggeredGuard};

/// Help for a guard that stops a stage whose result is in the store.
const KEPT: &str = "its result is in the store: if the guard is changed or removed, the next run uses it";

impl Scheduler<'_> {
    /// The first step that a stage's guards check.
    pub(super) fn guards_from(&self, index: usize) -> u32 {
        self.forked(index).map_or(0, |fork| fork.step)
    }

    /// Replays a stage's guards on a result from the store and reports what they do. If they stop the stage,
    /// the result is not used.
    pub(super) fn replay_guards(&self, index: usize, id: ModelId, record: Record) -> Result<()> {
        // Guards of a domain find its rows by name.
        let triggered = self.guarded(index, id, &self.renamed(id, record));
        if let Some(stop) = triggered.iter().find(|triggered| triggered.stops()) {
            return Err(stop.error(KEPT));
        }
        triggered.iter().for_each(|triggered| self.control.warn(triggered.message()));
        lock(&self.guards).extend(triggered.iter().map(TriggeredGuard::record));
        Ok(())
    }

    /// Records what guards did in a stage that has just been computed.
    pub(super) fn keep_guards(&self, index: usize, id: ModelId, record: &Record) {
        lock(&self.guards).extend(self.guarded(index, id, record).iter().map(TriggeredGuard::record));
    }

    /// Replays the guards of a stage on the recorded rows of its steps.
    fn guarded(&self, index: usize, id: ModelId, record: &Record) -> Vec<TriggeredGuard<'_>> {
        let model = self.plan.experiment.model(id);
        let trained = match &model.stage {
            Stage::Train(train) => vec![(&**train, None)],
            Stage::Joint(joint) => {
                let learners = joint.learners.iter();
                learners.map(|Learner { step, train, .. }| (train, Some(step.as_str()))).collect()
            }
            _ => Vec::new(),
        };
        let steps = super::steps(&model.stage, self.domains);
        let (name, seed, from) = (model.name.as_str(), self.tasks[index].seed, self.guards_from(index));
        let triggered = trained.into_iter().flat_map(|(train, turn)| {
            let mut guards = Guards::new(GuardedStage { name, seed, steps, train, turn, from });
            guards.replay(&record.rows);
            guards.take_triggered()
        });
        triggered.collect()
    }
}
