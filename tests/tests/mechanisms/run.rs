//! The folder of a finished run, read.

use std::fs;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value;

pub struct Run {
    metrics: Vec<Metrics>,
    results: Value,
}

/// One row of `metrics.parquet`: a domain at a step.
struct Metrics {
    stage: String,
    step: usize,
    prompt_share: f64,
    numbers: Vec<(String, f64)>,
}

impl Run {
    pub fn read(folder: &Path) -> Run {
        let file = fs::File::open(folder.join("metrics.parquet")).expect("the metrics of the run");
        let reader = SerializedFileReader::new(file).expect("a parquet file");
        let rows = reader.get_row_iter(None).expect("its rows").map(|row| Metrics::of(&row.expect("a row")));
        let results = fs::read(folder.join("results.json")).expect("the results of the run");
        Run { metrics: rows.collect(), results: serde_json::from_slice(&results).expect("JSON") }
    }

    /// What one column of `metrics.parquet` says at each step of a stage: the mean over domains, by their shares of the
    /// prompts. Steps without such a number are left out.
    pub fn steps(&self, stage: &str, column: &str) -> Vec<f64> {
        let of_stage: Vec<&Metrics> = self.metrics.iter().filter(|row| row.stage == stage).collect();
        assert!(!of_stage.is_empty(), "no stage is called {stage}");
        let last = of_stage.iter().map(|row| row.step).max().unwrap_or_default();
        let at = |step| {
            let numbers = of_stage.iter().filter(|row| row.step == step);
            let numbers: Vec<(f64, f64)> =
                numbers.filter_map(|row| Some((row.prompt_share, row.number(column)?))).collect();
            let whole: f64 = numbers.iter().map(|(share, _)| share).sum();
            (whole > 0.0).then(|| numbers.iter().map(|(share, number)| share * number).sum::<f64>() / whole)
        };
        let steps: Vec<f64> = (0..=last).filter_map(at).collect();
        assert!(!steps.is_empty(), "{stage} has no {column}");
        steps
    }

    /// The mean over the first tenth of the steps.
    pub fn first(&self, stage: &str, column: &str) -> f64 {
        let steps = self.steps(stage, column);
        mean(&steps[..steps.len().div_ceil(10)])
    }

    /// The mean over the last tenth.
    pub fn last(&self, stage: &str, column: &str) -> f64 {
        let steps = self.steps(stage, column);
        mean(&steps[steps.len() - steps.len().div_ceil(10)..])
    }

    pub fn mean(&self, stage: &str, column: &str) -> f64 {
        mean(&self.steps(stage, column))
    }

    /// A model's row of the first table.
    fn row(&self, model: &str) -> &Value {
        let rows = self.results["tables"][0]["rows"].as_array().expect("a table");
        let row = rows.iter().find(|row| row["model"] == model);
        row.unwrap_or_else(|| panic!("no row is called {model}"))
    }

    /// The normalized score: 0 at the table's `zero`, 1 at its `one`.
    pub fn normalized(&self, model: &str) -> f64 {
        self.row(model)["normalized"]["mean"].as_f64().expect("a normalized score")
    }

    /// The mean score over the columns of the table.
    pub fn score(&self, model: &str) -> f64 {
        let scores = self.row(model)["scores"].as_object().expect("scores");
        let scores: Vec<f64> = scores.values().map(|score| score["mean"].as_f64().expect("a mean")).collect();
        mean(&scores)
    }

    /// The score in one column of the table.
    pub fn score_in(&self, model: &str, column: &str) -> f64 {
        self.row(model)["scores"][column]["mean"].as_f64().unwrap_or_else(|| panic!("no column {column}"))
    }
}

impl Metrics {
    fn of(row: &Row) -> Metrics {
        let mut metrics = Metrics { stage: String::new(), step: 0, prompt_share: 1.0, numbers: Vec::new() };
        for (name, field) in row.get_column_iter() {
            match (name.as_str(), field) {
                ("stage", Field::Str(text)) => metrics.stage.clone_from(text),
                ("step", Field::UInt(step)) => metrics.step = *step as usize,
                ("prompt_share", Field::Double(share)) => metrics.prompt_share = *share,
                (_, Field::Double(number)) => metrics.numbers.push((name.clone(), *number)),
                (_, Field::UInt(count)) => metrics.numbers.push((name.clone(), f64::from(*count))),
                _ => {}
            }
        }
        metrics
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.numbers.iter().find(|(name, _)| name == column).map(|(_, number)| *number)
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation over steps.
pub fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}
