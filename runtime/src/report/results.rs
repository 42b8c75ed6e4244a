//! `results.json`: the tables of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use mopd_plan::events::{Fork, Versions};
use mopd_plan::results::{
    DataHash, GuardActed, Intervals, PrivateStage, Results, RewardFiles, StageRecord, Table,
};
use mopd_plan::{Comparison, Metric, Plan, TableColumn};

use super::statistics::{CompiledExperiment, StatisticsError, TableScores, table_rows};
use crate::files::{WriteError, write_atomically};

/// The version of the schema of `results.json`.
const SCHEMA: u32 = 1;

/// The seeds of a comparison: the experiment's, and those that follow it.
pub fn seeds(plan: &Plan, comparison: &Comparison) -> Vec<u64> {
    first_seeds(plan, comparison.seeds)
}

fn first_seeds(plan: &Plan, count: u32) -> Vec<u64> {
    (0..u64::from(count)).map(|index| plan.experiment.seed.wrapping_add(index)).collect()
}

/// Time, memory and inputs of a run, as [`Results`] has them.
#[derive(Default)]
pub struct RunCost {
    pub stages: Vec<StageRecord>,
    pub guards: Vec<GuardActed>,
    pub private: Vec<PrivateStage>,
    pub seconds: f64,
    pub before_stages: f64,
    pub peak_memory: u64,
    pub predicted_memory: Option<u64>,
    pub device: Option<String>,
    pub data: Vec<DataHash>,
    pub rewards: Vec<RewardFiles>,
    pub keys: Option<String>,
    pub forks: Vec<Fork>,
}

/// Assembles the results with all tables, and returns warnings for the reader.
///
/// `scores` has the rewards of each comparison, in the order of the plan.
pub fn assemble(
    plan: &Plan,
    scores: &[TableScores],
    mut took: RunCost,
    versions: Versions,
) -> Result<(Results, Vec<String>), StatisticsError> {
    let experiment = &plan.experiment;
    assert_eq!(scores.len(), experiment.comparisons.len(), "each comparison has its own scores");
    let keys: Vec<&str> = plan.stages.iter().map(|stage| stage.content_key.as_str()).collect();
    let mut tables = Vec::new();
    let mut warnings = Vec::new();
    for (comparison, scores) in experiment.comparisons.iter().zip(scores) {
        let seeds = seeds(plan, comparison);
        let (rows, found) = table_rows(experiment, &keys, comparison, &seeds, scores)?;
        warnings.extend(found);
        let names = comparison.columns.iter().map(|column| experiment.domain(column.domain).name.clone());
        tables.push(Table {
            name: comparison.name.clone(),
            metric: metric(experiment, comparison),
            intervals: Some(Intervals::for_seeds(seeds.len())),
            samples: comparison.columns.first().map_or(1, |column| column.evaluation.samples()),
            domains: names.collect(),
            metrics: comparison.metrics().iter().map(Metric::to_string).collect(),
            rows,
        });
    }
    let most = experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1);
    // Parallel stages end in any order.
    took.guards
        .sort_by(|one, next| (&one.stage, one.seed, one.step).cmp(&(&next.stage, next.seed, next.step)));
    let results = Results {
        schema: SCHEMA,
        experiment: experiment.name.clone(),
        plan: plan.hash.clone(),
        keys: took.keys,
        forks: took.forks,
        seeds: first_seeds(plan, most),
        versions,
        device: took.device,
        data: took.data,
        rewards: Some(took.rewards),
        tables,
        stages: took.stages,
        guards: took.guards,
        private: took.private,
        seconds: took.seconds,
        before_stages: took.before_stages,
        peak_memory: took.peak_memory,
        predicted_memory: took.predicted_memory,
    };
    Ok((results, warnings))
}

/// The name of a table's metric; per column, if some columns are greedy and others are not.
fn metric(experiment: &CompiledExperiment, comparison: &Comparison) -> String {
    let domain = |column: &TableColumn| experiment.domain(column.domain);
    let verdicts = comparison.columns.iter().all(|column| domain(column).reward.is_verdict());
    let name = |column: &TableColumn| match (column.evaluation.is_greedy(), verdicts) {
        (false, true) => "pass@1",
        (false, false) => "mean reward",
        (true, true) => "greedy",
        (true, false) => "greedy mean reward",
    };
    match &comparison.columns[..] {
        [first, others @ ..] if others.iter().all(|other| name(other) == name(first)) => {
            name(first).to_owned()
        }
        columns => {
            let each = columns.iter().map(|column| format!("{} ({})", name(column), domain(column).name));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Writes `results.json` into a folder, and returns its path.
pub fn write_results(results: &Results, folder: &Path) -> Result<PathBuf, WriteError> {
    let path = folder.join("results.json");
    write_atomically(&path, |file| {
        let mut text = serde_json::to_vec_pretty(results)?;
        text.push(b'\n');
        file.write_all(&text)
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests;
