//! Reads the folder of a finished run.

use std::fs;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value;

pub struct Run {
    metrics: Vec<Metrics>,
    weights: Vec<Bin>,
    results: Value,
}

/// One row of `metrics.parquet`: a domain at a step.
struct Metrics {
    stage: String,
    step: usize,
    domain: String,
    /// The terms that the row is about, if some have completions of their own.
    terms: Option<String>,
    prompt_share: f64,
    numbers: Vec<(String, f64)>,
}

/// One row of `weights.parquet` that is about weights: `tokens` tokens with a weight from `size_low` on.
pub struct Bin {
    stage: String,
    over: String,
    /// Where the bin begins, in what it is `over`.
    pub low: f64,
    pub size_low: f64,
    tokens: f64,
}

impl Run {
    pub fn read(folder: &Path) -> Run {
        let results = fs::read(folder.join("results.json")).expect("the results of the run");
        Run {
            metrics: rows(&folder.join("metrics.parquet")).iter().map(Metrics::of).collect(),
            weights: rows(&folder.join("weights.parquet")).iter().filter_map(Bin::of).collect(),
            results: serde_json::from_slice(&results).expect("JSON"),
        }
    }

    /// A column of `metrics.parquet` at each step of a stage: the mean over domains, weighted by their shares
    /// of the prompts. Steps without a number are left out.
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

    /// The mean over the steps of one domain's rows.
    pub fn in_domain(&self, stage: &str, domain: &str, column: &str) -> f64 {
        let rows = self.metrics.iter().filter(|row| row.stage == stage && row.domain == domain);
        let numbers: Vec<f64> = rows.filter_map(|row| row.number(column)).collect();
        assert!(!numbers.is_empty(), "{stage} has no {column} in {domain}");
        mean(&numbers)
    }

    /// The fraction of the tokens in the bins over `position` or `entropy` selected by `asked` that are in
    /// bins selected by `counted`.
    pub fn weights(
        &self,
        stage: &str,
        over: &str,
        asked: impl Fn(&Bin) -> bool,
        counted: impl Fn(&Bin) -> bool,
    ) -> f64 {
        let bins = self.weights.iter().filter(|bin| bin.stage == stage && bin.over == over);
        let (mut all, mut some) = (0.0, 0.0);
        for bin in bins.filter(|bin| asked(bin)) {
            all += bin.tokens;
            some += if counted(bin) { bin.tokens } else { 0.0 };
        }
        assert!(all > 0.0, "{stage} has no such weights over {over}");
        some / all
    }

    /// The mean over the steps of the rows of a term that has completions of its own.
    pub fn of_term(&self, stage: &str, term: &str, column: &str) -> f64 {
        let rows = self.metrics.iter().filter(|row| row.stage == stage && row.terms.as_deref() == Some(term));
        let numbers: Vec<f64> = rows.filter_map(|row| row.number(column)).collect();
        assert!(!numbers.is_empty(), "{stage} has no {column} of {term}");
        mean(&numbers)
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

/// The rows of a Parquet file.
fn rows(path: &Path) -> Vec<Row> {
    let file = fs::File::open(path).expect("a file of the run");
    let reader = SerializedFileReader::new(file).expect("a Parquet file");
    reader.get_row_iter(None).expect("its rows").map(|row| row.expect("a row")).collect()
}

fn text(row: &Row, column: &str) -> String {
    match row.get_column_iter().find(|(name, _)| *name == column) {
        Some((_, Field::Str(text))) => text.clone(),
        other => panic!("no text in {column}: {other:?}"),
    }
}

fn number(field: &Field) -> Option<f64> {
    match field {
        Field::Double(number) => Some(*number),
        Field::UInt(count) => Some(f64::from(*count)),
        Field::ULong(count) => Some(*count as f64),
        _ => None,
    }
}

impl Bin {
    fn of(row: &Row) -> Option<Bin> {
        if text(row, "quantity") != "weight" {
            return None;
        }
        let of = |column: &str| {
            let found = row.get_column_iter().find(|(name, _)| *name == column);
            found.and_then(|(_, field)| number(field)).unwrap_or_else(|| panic!("no number in {column}"))
        };
        let (low, size_low, tokens) = (of("low"), of("size_low"), of("tokens"));
        Some(Bin { stage: text(row, "stage"), over: text(row, "over"), low, size_low, tokens })
    }
}

impl Metrics {
    fn of(row: &Row) -> Metrics {
        let fields = row.get_column_iter();
        let numbers: Vec<(String, f64)> =
            fields.filter_map(|(name, field)| Some((name.clone(), number(field)?))).collect();
        let of = |column| numbers.iter().find(|(name, _)| name == column).map(|(_, number)| *number);
        Metrics {
            stage: text(row, "stage"),
            step: of("step").expect("a step") as usize,
            domain: text(row, "domain"),
            terms: row.get_column_iter().find_map(|(name, field)| match field {
                Field::Str(text) if name == "terms" => Some(text.clone()),
                _ => None,
            }),
            prompt_share: of("prompt_share").unwrap_or(1.0),
            numbers,
        }
    }

    fn number(&self, column: &str) -> Option<f64> {
        self.numbers.iter().find(|(name, _)| name == column).map(|(_, number)| *number)
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
