//! The names in records of training: a record from the store may have the names of another text.

use mopd_plan::ModelId;

use super::run::Scheduler;
use crate::report::{Record, RecordNames};

impl Scheduler<'_> {
    /// The names that a record of a stage uses in this run.
    pub(super) fn record_names(&self, id: ModelId) -> RecordNames {
        let experiment = &self.plan.experiment;
        RecordNames::new(&experiment.model(id).stage, |domain| experiment.domain(domain).name.as_str())
    }

    /// A record of a stage with the names of this run.
    pub(super) fn renamed(&self, id: ModelId, record: Record) -> Record {
        record.renamed(&self.plan.experiment.model(id).name, self.record_names(id))
    }
}
