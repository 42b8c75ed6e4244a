//! Reports of a run for people and tools: metrics of every step, reports about single tokens, the rewards
//! and completions behind the tables, and the tables.

pub mod answers;
pub mod completions;
pub mod delta;
pub mod metrics;
mod names;
pub mod parquet;
pub mod read;
pub mod results;
pub mod rewards;
pub mod statistics;
pub mod tokens;

use std::path::Path;

use mopd_store::results_folder::{METRICS, SAMPLES, WEIGHTS};
use serde::{Deserialize, Serialize};

use self::metrics::{NamedColumns, StepMetrics};
use self::names::Renaming;
pub use self::names::{MixtureNames, RecordNames};
use self::tokens::TokenLog;
use crate::failure::Result;

/// The metrics and token reports of a stage's training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// One row per step and domain.
    pub rows: Vec<StepMetrics>,
    pub tokens: TokenLog,
    /// The names that these use; empty in records of earlier versions.
    #[serde(default)]
    pub names: RecordNames,
}

impl Record {
    /// Whether some step so far has changed weights.
    pub fn moved(&self) -> bool {
        self.rows.iter().any(|row| row.gradient_norm > 0.0 && row.learning_rate > 0.0)
    }

    /// The same with the names of another text. Keys have no names, so two experiments that share a result
    /// may have different ones, or the same names in another order.
    pub fn renamed(mut self, stage: &str, names: RecordNames) -> Record {
        let renamed = Renaming { old: &self.names, new: &names };
        for row in &mut self.rows {
            stage.clone_into(&mut row.stage);
            renamed.apply(&mut row.domain, row.teacher.as_mut());
            row.alignment = renamed.columns(std::mem::take(&mut row.alignment));
        }
        for sample in &mut self.tokens.samples {
            stage.clone_into(&mut sample.stage);
            renamed.apply(&mut sample.domain, sample.teacher.as_mut());
        }
        for histogram in &mut self.tokens.histograms {
            stage.clone_into(&mut histogram.stage);
            renamed.apply(&mut histogram.domain, None);
        }
        Record { names, ..self }
    }
}

/// Writes `metrics.parquet`, `samples.parquet` and `weights.parquet` into a folder. `read` iterates over the
/// records of a run's stages. It is called twice, first for the names of the columns, because a long run has
/// more rows than should be in memory at once.
pub fn write_records<I: Iterator<Item = Result<Record>>>(read: impl Fn() -> I, folder: &Path) -> Result<()> {
    let (mut columns, mut samples, mut histograms) = (NamedColumns::default(), Vec::new(), Vec::new());
    for record in read() {
        let Record { rows, tokens, names: _ } = record?;
        columns.add(&rows);
        samples.extend(tokens.samples);
        histograms.extend(tokens.histograms);
    }
    let rows = read().map(|record| Ok(record?.rows));
    metrics::write_parquet(&columns, rows, &folder.join(METRICS))?;
    tokens::write_samples(&samples, &folder.join(SAMPLES))?;
    tokens::write_histograms(&histograms, &folder.join(WEIGHTS))?;
    Ok(())
}
