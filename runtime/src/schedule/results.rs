//! Writes the folder of results of a finished run.

use std::collections::{BTreeSet, HashMap};

use mopd_plan::events::{Event, FailureKind, Versions};
use mopd_plan::{DomainId, Guard, ModelId, Plan, keys};

use super::run::Scheduler;
use super::{Keys, Task, Work};
use crate::failure::{Error, Result};
use crate::report::answers::PromptAnswers;
use crate::report::completions::{AnswersFile, CellAnswers};
use crate::report::read::compared;
use crate::report::results::{RunCost, assemble, write_results};
use crate::report::rewards::write_rewards;
use crate::report::statistics::TableScores;
use crate::report::statistics::compare::within;

/// The hash of the keys of all results, with the names that tables and records show. It is different whenever
/// the results of a run may be, also where only the content of a file has changed.
pub(super) fn results_key(plan: &Plan, tasks: &[Task], of_tasks: &Keys) -> String {
    let experiment = &plan.experiment;
    let domains: Vec<&str> = experiment.domains.iter().map(|domain| domain.name.as_str()).collect();
    let tables: Vec<&str> = experiment.comparisons.iter().map(|table| table.name.as_str()).collect();
    let task = |(index, task): (usize, &Task)| {
        let (Work::Stage(model) | Work::Evaluate { model, .. }) = task.work;
        (of_tasks.of(index).to_owned(), experiment.model(model).name.as_str())
    };
    let tasks: Vec<_> = tasks.iter().enumerate().map(task).collect();
    // Guards are in no key, and can refuse a stored result.
    let trains = experiment.models.iter().flat_map(|model| model.stage.trains());
    let guards: Vec<String> = trains.flat_map(|train| train.guards.iter().map(Guard::written)).collect();
    let all = (&plan.hash, &experiment.name, domains, tables, tasks, guards);
    keys::hash("mopd results", keys::VERSION, &all).to_hex().to_string()
}

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
        let rewards = write_rewards(self.plan, &scores, tests, &self.out)?;
        self.write_answers()?;
        let of_run = compared(self.plan.clone(), Some(&took.rewards), rewards);
        self.control.emit(&Event::Differences { tables: within(&of_run) });
        let (results, warnings) = assemble(self.plan, &scores, took, versions.clone())
            .map_err(|error| Error::new(FailureKind::Runtime, error.to_string()))?;
        for warning in warnings {
            self.control.warn(warning);
        }
        self.republish_missing()?;
        write_results(&results, &self.out)?;
        Ok(())
    }

    /// Writes the completions of every cell of every table, from the store.
    fn write_answers(&self) -> Result<()> {
        let experiment = &self.plan.experiment;
        let parts: Vec<Vec<&str>> =
            self.domains.iter().map(|domain| domain.verifier.parts().collect()).collect();
        let names = parts.iter().flatten().map(|name| (*name).to_owned()).collect();
        let mut file = AnswersFile::new(names, &self.out)?;
        let mut absent = BTreeSet::new();
        for (number, comparison) in experiment.comparisons.iter().enumerate() {
            for row in &comparison.rows {
                for (column, model) in comparison.columns.iter().zip(&row.models) {
                    let mut seeds = Vec::new();
                    for index in self.evaluations(number, *model, column.domain) {
                        match self.store.completions(self.keys.of(index))? {
                            Some(completions) => seeds.push((self.tasks[index].seed, completions)),
                            None => _ = absent.insert(self.about(index)),
                        }
                    }
                    let tests = self.domains[column.domain.0 as usize].tests.as_ref();
                    file.push(CellAnswers {
                        table: &comparison.name,
                        row: &row.label,
                        model: &experiment.model(*model).name,
                        domain: &experiment.domain(column.domain).name,
                        parts: &parts[column.domain.0 as usize],
                        prompt: &|prompt| tests.map_or("", |tests| tests.dataset.prompt(prompt as usize)),
                        seeds,
                    })?;
                }
            }
        }
        file.finish()?;
        if let Some(first) = absent.first() {
            let others = match absent.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            self.control.warn(format!(
                "answers.parquet has no completions of {first}{others}: an earlier version of mopd stored the \
                scores without them; `mopd run --fresh` computes everything again"
            ));
        }
        Ok(())
    }

    /// The tasks that evaluate a model on a domain for a comparison, one for each seed.
    fn evaluations(
        &self,
        comparison: usize,
        evaluated: ModelId,
        tested: DomainId,
    ) -> impl Iterator<Item = usize> {
        let is_one = move |task: &Task| {
            let Work::Evaluate { model, domain, comparisons, .. } = &task.work else { return false };
            (*model, *domain) == (evaluated, tested) && comparisons.contains(&comparison)
        };
        self.tasks.iter().enumerate().filter(move |(_, task)| is_one(task)).map(|(index, _)| index)
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
