//! The completions behind the tables of a run, from its `answers.parquet`.

use std::collections::BTreeSet;

use mopd_plan::events::RowFilter;
use serde::Serialize;

use crate::problem::Problem;
use crate::run_folder::{ANSWERS, ColumnTable, RunFolder};

/// A number of a table with one seed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CellName {
    pub table: String,
    pub row: String,
    pub domain: String,
    pub seed: u64,
}

/// A completion of a test prompt.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluatedCompletion {
    #[serde(flatten)]
    pub cell: CellName,
    /// From 0, in the order of the test file.
    pub prompt: u64,
    /// As the data has it, without a chat template.
    pub prompt_text: String,
    pub prompt_left_out: u64,
    /// From 0, among the completions of the prompt.
    pub sample: u64,
    pub text: String,
    /// Bytes of the text that are left out in its middle.
    pub left_out: u64,
    pub reward: f64,
    /// The rewards of the verifier's parts, with their names.
    pub parts: Vec<(String, f64)>,
    pub feedback: Option<String>,
    pub tokens: u64,
    pub truncated: bool,
}

impl EvaluatedCompletion {
    /// As in `pass@k`: only the whole reward counts.
    pub fn is_right(&self) -> bool {
        self.reward >= 1.0
    }

    /// What is the same for the completions of two rows that are compared.
    pub fn sampled(&self) -> (&str, &str, u64, u64, u64) {
        (&self.cell.table, &self.cell.domain, self.cell.seed, self.prompt, self.sample)
    }
}

/// The completions that a filter lets through, in the order of the tables.
pub struct RunAnswers {
    pub found: Vec<EvaluatedCompletion>,
    /// The cells whose scores were stored without completions, by an earlier version.
    pub absent: Vec<CellName>,
}

/// The columns of a filter; an empty list lets everything through.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub tables: Vec<String>,
    pub rows: Vec<String>,
    pub domains: Vec<String>,
    pub seeds: Vec<u64>,
    pub samples: Vec<u64>,
}

impl Wanted {
    fn has(&self, cell: &CellName) -> bool {
        fn any<T: PartialEq>(wanted: &[T], found: &T) -> bool {
            wanted.is_empty() || wanted.contains(found)
        }
        any(&self.tables, &cell.table)
            && any(&self.rows, &cell.row)
            && any(&self.domains, &cell.domain)
            && any(&self.seeds, &cell.seed)
    }

    fn filter(&self) -> RowFilter {
        let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect();
        let columns = [
            ("table", self.tables.clone()),
            ("row", self.rows.clone()),
            ("domain", self.domains.clone()),
            ("seed", numbers(&self.seeds)),
            ("sample", numbers(&self.samples)),
        ];
        let given = columns.into_iter().filter(|(_, values)| !values.is_empty());
        given.map(|(name, values)| (name.to_owned(), values)).collect()
    }
}

/// Every cell of the tables of a finished run, once for each seed.
pub fn cells(run: &RunFolder) -> Vec<CellName> {
    let Some(results) = &run.results else { return Vec::new() };
    let experiment = &run.plan.experiment;
    let mut cells = Vec::new();
    for table in &results.tables {
        let seeds = experiment.comparisons.iter().find(|known| known.name == table.name);
        let seeds = seeds.map_or(1, |comparison| u64::from(comparison.seeds));
        for row in &table.rows {
            for domain in table.domains.iter().filter(|domain| row.scores.contains_key(*domain)) {
                cells.extend((0..seeds).map(|index| CellName {
                    table: table.name.clone(),
                    row: row.model.clone(),
                    domain: domain.clone(),
                    seed: experiment.seed.wrapping_add(index),
                }));
            }
        }
    }
    cells
}

/// `None` if the run has no file of them: it was made by an earlier version.
pub fn read(run: &RunFolder, wanted: &Wanted) -> Result<Option<RunAnswers>, Problem> {
    let [Some(table)] = run.rows([ANSWERS], wanted.filter())? else { return Ok(None) };
    let found = answers(&table);
    let there: BTreeSet<&CellName> = found.iter().map(|answer| &answer.cell).collect();
    let absent = cells(run).into_iter().filter(|cell| wanted.has(cell) && !there.contains(cell)).collect();
    Ok(Some(RunAnswers { found, absent }))
}

fn answers(table: &ColumnTable) -> Vec<EvaluatedCompletion> {
    let parts: Vec<&str> = table.columns("reward.").collect();
    let answer = |row: usize| {
        let text = |name: &str| table.text(name, row).to_owned();
        let part = |name: &&str| {
            let reward = table.number(name, row)?;
            Some((name.strip_prefix("reward.").unwrap_or(name).to_owned(), reward))
        };
        EvaluatedCompletion {
            cell: CellName {
                table: text("table"),
                row: text("row"),
                domain: text("domain"),
                seed: table.whole("seed", row),
            },
            prompt: table.whole("prompt", row),
            prompt_text: text("prompt_text"),
            prompt_left_out: table.whole("prompt_left_out", row),
            sample: table.whole("sample", row),
            text: text("text"),
            left_out: table.whole("left_out", row),
            reward: table.number("reward", row).unwrap_or(f64::NAN),
            parts: parts.iter().filter_map(part).collect(),
            feedback: Some(text("feedback")).filter(|words| !words.is_empty()),
            tokens: table.whole("tokens", row),
            truncated: table.number("truncated", row) == Some(1.0),
        }
    };
    (0..table.rows()).map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_the_columns_that_were_asked_for() {
        assert!(Wanted::default().filter().is_empty());
        let wanted = Wanted { rows: vec!["student".to_owned()], seeds: vec![1, 2], ..Wanted::default() };
        let filter = wanted.filter();
        assert_eq!(filter.keys().collect::<Vec<_>>(), ["row", "seed"]);
        assert_eq!(filter["seed"], ["1", "2"]);
        let cell = |row: &str, seed| CellName {
            table: "t".to_owned(),
            row: row.to_owned(),
            domain: "d".to_owned(),
            seed,
        };
        assert!(wanted.has(&cell("student", 2)) && !wanted.has(&cell("student", 3)));
        assert!(!wanted.has(&cell("start", 2)));
    }
}
