//! The tables of all runs of a sweep as those of one.

use mopd_plan::results::{Results, Table, TableRow};
use mopd_plan::{Comparison, DataSource, Domain, ModelId, Plan, PromptFormat, Reward, TableColumn};

use crate::table::{self, distinct};

/// A member of a sweep that finished.
pub struct FinishedRun<'a> {
    pub name: String,
    pub plan: &'a Plan,
    pub results: &'a Results,
}

/// The results of all members as those of one run: a row that does not depend on the swept values appears
/// once, others once for each member.
pub fn merged(good: &[FinishedRun]) -> Option<Results> {
    let first = good.first()?.results;
    let of_table = |index: usize, table: &Table| {
        let mut rows: Vec<TableRow> = Vec::new();
        for (place, row) in table.rows.iter().enumerate() {
            // Compares keys: equal scores prove nothing, since two models may have the same by chance.
            let mut all = good.iter().map(|run| RowKeys::new(run.plan, index, place));
            let own = all.next();
            if all.all(|other| Some(other) == own) {
                rows.push(row.clone());
                continue;
            }
            rows.extend(good.iter().filter_map(|FinishedRun { name, results, .. }| {
                let row = results.tables.get(index)?.rows.get(place)?;
                Some(TableRow { model: table::row_of_run(&row.model, name), ..row.clone() })
            }));
        }
        let each = || {
            let own = good.iter().map(|run| (run.name.clone(), run.results.tables.get(index)));
            own.filter_map(|(name, table)| Some((name, table?)))
        };
        Table {
            metric: table::by_run(each().map(|(name, table)| (name, table.metric.clone()))),
            intervals: table.intervals.filter(|own| each().all(|(_, other)| other.intervals == Some(*own))),
            metrics: distinct(each().flat_map(|(_, table)| table.metrics.clone())),
            rows,
            ..table.clone()
        }
    };
    let results = || good.iter().map(|run| run.results);
    Some(Results {
        plan: results().map(|results| results.plan.as_str()).collect::<Vec<_>>().join(","),
        seeds: distinct(results().flat_map(|results| results.seeds.clone())),
        data: distinct(results().flat_map(|results| results.data.clone())),
        rewards: results()
            .map(|results| results.rewards.clone())
            .collect::<Option<Vec<_>>>()
            .map(|rewards| distinct(rewards.into_iter().flatten())),
        tables: first.tables.iter().enumerate().map(|(index, table)| of_table(index, table)).collect(),
        stages: results().flat_map(|results| results.stages.clone()).collect(),
        guards: results().flat_map(|results| results.guards.clone()).collect(),
        private: results().flat_map(|results| results.private.clone()).collect(),
        forks: distinct(results().flat_map(|results| results.forks.clone())),
        keys: results()
            .map(|results| results.keys.as_deref())
            .collect::<Option<Vec<_>>>()
            .map(|keys| keys.join(",")),
        seconds: results().map(|results| results.seconds).sum(),
        before_stages: results().map(|results| results.before_stages).sum(),
        peak_memory: results().map(|results| results.peak_memory).max().unwrap_or(0),
        predicted_memory: results().filter_map(|results| results.predicted_memory).max(),
        ..(*first).clone()
    })
}

/// Everything that the numbers of a table row depend on.
#[derive(PartialEq)]
struct RowKeys<'a> {
    /// The keys of its models.
    models: Vec<&'a str>,
    /// The keys of the rows that a normalized score is relative to.
    anchors: Option<[Vec<&'a str>; 2]>,
    columns: &'a [TableColumn],
    /// By column: the prompts, and the rewards of answers.
    asked: Vec<AskedOfRow<'a>>,
    seed: u64,
    seeds: u32,
}

#[derive(PartialEq)]
struct AskedOfRow<'a> {
    tests: Option<&'a DataSource>,
    format: &'a PromptFormat,
    limit: Option<u32>,
    reward: &'a Reward,
}

impl RowKeys<'_> {
    fn new(plan: &Plan, table: usize, row: usize) -> Option<RowKeys<'_>> {
        let experiment = &plan.experiment;
        let Comparison { rows, columns, normalized, seeds, .. } = experiment.comparisons.get(table)?;
        let keys = |models: &[ModelId]| {
            models.iter().map(|id| plan.stages[id.0 as usize].key.as_str()).collect::<Vec<_>>()
        };
        let asked = |column: &TableColumn| {
            let Domain { tests, format, limit, reward, .. } = experiment.domain(column.domain);
            AskedOfRow { tests: tests.as_ref(), format, limit: *limit, reward }
        };
        Some(RowKeys {
            models: keys(&rows.get(row)?.models),
            anchors: normalized.as_ref().map(|anchors| [keys(&anchors.zero), keys(&anchors.one)]),
            columns,
            asked: columns.iter().map(asked).collect(),
            seed: experiment.seed,
            seeds: *seeds,
        })
    }
}
