//! What a run leaves for people and tools to read: the series of every step, a look at single tokens, the
//! rewards behind the tables, and the tables.

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

use self::metrics::StepMetrics;
use self::tokens::TokenLog;
use crate::files::WriteError;

/// What training leaves to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// One per step and domain.
    pub rows: Vec<StepMetrics>,
    pub tokens: TokenLog,
}

impl Record {
    /// One after the other.
    pub fn joined(records: impl IntoIterator<Item = Record>) -> Record {
        let mut all = Record::default();
        for Record { rows, tokens } in records {
            all.rows.extend(rows);
            all.tokens.samples.extend(tokens.samples);
            all.tokens.histograms.extend(tokens.histograms);
        }
        all
    }

    /// The same of a stage with another name: what is computed once may be called differently in two
    /// experiments.
    pub fn of_stage(mut self, name: &str) -> Record {
        let stages = self.rows.iter_mut().map(|row| &mut row.stage);
        let stages = stages.chain(self.tokens.samples.iter_mut().map(|sample| &mut sample.stage));
        for stage in stages.chain(self.tokens.histograms.iter_mut().map(|histogram| &mut histogram.stage)) {
            name.clone_into(stage);
        }
        self
    }

    /// Writes `metrics.parquet`, `samples.parquet` and `weights.parquet` into a folder.
    pub fn write(&self, folder: &Path) -> Result<(), WriteError> {
        metrics::write_parquet(&self.rows, &folder.join("metrics.parquet"))?;
        tokens::write_samples(&self.tokens.samples, &folder.join("samples.parquet"))?;
        tokens::write_histograms(&self.tokens.histograms, &folder.join("weights.parquet"))
    }
}
