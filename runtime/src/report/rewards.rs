//! `rewards.parquet`: the rewards behind the numbers of the tables, prompt by prompt. Comparisons of runs
//! read it.

use std::path::Path;

use mopd_plan::{DomainId, Plan};
use mopd_store::results_folder::REWARDS;

use super::answers::PromptAnswers;
use super::parquet;
use super::statistics::TableScores;
use crate::files::WriteError;
use crate::table::table;

/// One test prompt of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptReward {
    /// The comparison that it belongs to.
    pub table: String,
    pub model: String,
    pub domain: String,
    pub seed: u64,
    /// Hash of the test prompts as they are read; equal if two runs have the same prompts.
    pub tests: String,
    /// From 0, in the order of the test file.
    pub prompt: u32,
    /// Mean over the samples, in [0, 1].
    pub reward: f64,
}

/// Writes `rewards.parquet` and returns its rows. `scores` has the rewards of each comparison, in the order
/// of the plan; `tests` returns the hash of a domain's test prompts.
pub fn write_rewards(
    plan: &Plan,
    scores: &[TableScores],
    tests: impl Fn(DomainId) -> String,
    folder: &Path,
) -> Result<Vec<PromptReward>, WriteError> {
    let (mut rows, mut answered) = (Vec::new(), Vec::new());
    for (comparison, scores) in plan.experiment.comparisons.iter().zip(scores) {
        for (model, domain, seed, prompts) in scores.by_prompt() {
            for (prompt, answers) in prompts.iter().enumerate() {
                rows.push(PromptReward {
                    table: comparison.name.clone(),
                    model: plan.experiment.model(model).name.clone(),
                    domain: plan.experiment.domain(domain).name.clone(),
                    seed,
                    tests: tests(domain),
                    prompt: prompt as u32,
                    reward: answers.mean_reward(),
                });
                answered.push(*answers);
            }
        }
    }
    write(&rows, &answered, &folder.join(REWARDS))?;
    Ok(rows)
}

/// Writes a row for each prompt, with the statistics of the model's answers.
pub(super) fn write(rows: &[PromptReward], answers: &[PromptAnswers], path: &Path) -> Result<(), WriteError> {
    assert_eq!(rows.len(), answers.len(), "each prompt has its answers");
    let mut columns = table!(rows; table, model, domain, seed, tests, prompt, reward);
    columns.extend(table!(answers; samples, correct, distinct, length, stated));
    parquet::write(columns, path)
}
