//! Writes the folder of results of a finished run.

use std::collections::HashMap;

use mopd_plan::DomainId;
use mopd_plan::events::{FailureKind, Versions};

use super::Work;
use super::run::Scheduler;
use crate::failure::{Error, Result};
use crate::report::answers::PromptAnswers;
use crate::report::results::{RunCost, assemble, write_results};
use crate::report::rewards::write_rewards;
use crate::report::statistics::TableScores;

impl Scheduler<'_> {
    /// `answers` are the answers of each evaluation, by its task.
    pub(super) fn write_results(
        &self,
        answers: &HashMap<usize, Vec<PromptAnswers>>,
        took: RunCost,
        versions: &Versions,
    ) -> Result<()> {
        let scores = self.scores(answers);
        let tests = |domain: DomainId| {
            let tests = self.domains[domain.0 as usize].tests.as_ref();
            tests.map(|tests| tests.dataset.hash.clone()).unwrap_or_default()
        };
        write_rewards(self.plan, &scores, tests, &self.out)?;
        let (results, warnings) = assemble(self.plan, &scores, took, versions.clone())
            .map_err(|error| Error::new(FailureKind::Runtime, error.to_string()))?;
        for warning in warnings {
            self.control.warn(warning);
        }
        self.republish_missing()?;
        write_results(&results, &self.out)?;
        Ok(())
    }

    /// The scores behind each comparison's table.
    fn scores(&self, answers: &HashMap<usize, Vec<PromptAnswers>>) -> Vec<TableScores> {
        let mut scores: Vec<TableScores> =
            self.plan.experiment.comparisons.iter().map(|_| TableScores::default()).collect();
        for (index, task) in self.tasks.iter().enumerate() {
            if let Work::Evaluate { model, domain, evaluation: _, comparisons } = &task.work {
                for comparison in comparisons {
                    scores[*comparison].insert(*model, *domain, task.seed, answers[&index].clone());
                }
            }
        }
        scores
    }
}
