//! Reports of a run for people and tools: metrics of every step, reports about single tokens, the rewards
//! behind the tables, and the tables.

pub mod answers;
pub mod delta;
pub mod metrics;
mod parquet;
pub mod read;
pub mod results;
pub mod rewards;
pub mod statistics;
pub mod tokens;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::metrics::{NamedColumns, StepMetrics};
use self::tokens::TokenLog;
use crate::failure::Result;

/// The metrics and token reports of a stage's training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// One row per step and domain.
    pub rows: Vec<StepMetrics>,
    pub tokens: TokenLog,
}

impl Record {
    /// Whether some step so far has changed weights.
    pub fn moved(&self) -> bool {
        self.rows.iter().any(|row| row.gradient_norm > 0.0 && row.learning_rate > 0.0)
    }

    /// The same with another name of the stage, which may have different names in two experiments that share
    /// its result.
    pub fn of_stage(mut self, name: &str) -> Record {
        let stages = self.rows.iter_mut().map(|row| &mut row.stage);
        let stages = stages.chain(self.tokens.samples.iter_mut().map(|sample| &mut sample.stage));
        for stage in stages.chain(self.tokens.histograms.iter_mut().map(|histogram| &mut histogram.stage)) {
            name.clone_into(stage);
        }
        self
    }
}

/// Writes `metrics.parquet`, `samples.parquet` and `weights.parquet` into a folder. `read` iterates over the
/// records of a run's stages. It is called twice, first for the names of the columns, because a long run has
/// more rows than should be in memory at once.
pub fn write_records<I: Iterator<Item = Result<Record>>>(read: impl Fn() -> I, folder: &Path) -> Result<()> {
    let (mut columns, mut samples, mut histograms) = (NamedColumns::default(), Vec::new(), Vec::new());
    for record in read() {
        let Record { rows, tokens } = record?;
        columns.add(&rows);
        samples.extend(tokens.samples);
        histograms.extend(tokens.histograms);
    }
    let rows = read().map(|record| Ok(record?.rows));
    metrics::write_parquet(&columns, rows, &folder.join("metrics.parquet"))?;
    tokens::write_samples(&samples, &folder.join("samples.parquet"))?;
    tokens::write_histograms(&histograms, &folder.join("weights.parquet"))?;
    Ok(())
}
