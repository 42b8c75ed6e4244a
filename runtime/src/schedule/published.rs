//! The models in the folder of results.

use std::collections::HashMap;

use mopd_plan::Stage;

use super::Work;
use super::run::Scheduler;
use super::stage::StageJob;
use crate::failure::Result;
use crate::store::CurrentFiles;

impl Scheduler<'_> {
    /// Publishes models again that were deleted from the run's folder while others were trained.
    pub(super) fn republish_missing(&self) -> Result<()> {
        for (index, task) in self.tasks.iter().enumerate() {
            let Work::Stage(id) = task.work else { continue };
            let model = self.plan.experiment.model(id);
            let key = self.keys.of(index);
            if !matches!(model.stage, Stage::Load(_))
                && !self.store.is_published(key, &self.out, &model.name, task.seed)
            {
                self.publish_model(&self.job(index, id, &HashMap::new()))?;
            }
        }
        Ok(())
    }

    /// Adds a stored model to the run's results. Keys have neither the place of a model nor the settings of
    /// its tokenizer that change no token, so the files with these are written as they are for this run.
    pub(super) fn publish_model(&self, job: &StageJob) -> Result<()> {
        let tokenizer = &self.specs[job.id.0 as usize].tokenizer;
        if self.store.is_adapter(job.key) {
            self.store_file(job)?;
        }
        let current = CurrentFiles { tokenizer, adapter_base: self.place_of_base(job) };
        self.store.publish(job.key, &self.out, job.name, job.seed, &current)?;
        Ok(())
    }
}
