//! Checks that a result is computed from the files that its key names: files are hashed once, before a run
//! begins, but read again during the run.

use super::run::Scheduler;
use super::{Work, preflight};
use crate::failure::Result;

impl Scheduler<'_> {
    /// To be called before a task is computed, and before any result of it is stored.
    ///
    /// # Errors
    /// If a model or a program that the task reads has changed since it was hashed.
    pub(super) fn check_unchanged(&self, index: usize) -> Result<()> {
        let task = &self.tasks[index];
        let models = task.needs.iter().filter_map(|need| match self.tasks[*need].work {
            Work::Stage(id) => self.specs[id.0 as usize].loaded.as_ref(),
            Work::Evaluate { .. } => None,
        });
        for model in models {
            model.unchanged.check(&self.base)?;
        }
        for domain in preflight::judged_by(self.plan, task) {
            let data = &self.domains[domain.0 as usize];
            for program in &data.programs {
                program.unchanged.check(&self.base).map_err(|error| error.at(data.origin))?;
            }
            if let Some(opened) = &data.opened {
                opened.check(data.verifier.take_opened()).map_err(|error| error.at(data.origin))?;
            }
        }
        if let Work::Stage(id) = task.work {
            for program in &self.environments[id.0 as usize] {
                program.unchanged.check(&self.base)?;
            }
        }
        Ok(())
    }
}
