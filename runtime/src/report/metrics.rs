//! `metrics.parquet`: one row per stage, step, domain and teacher.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mopd_plan::events::MetricsRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parquet;
use crate::failure::Result;
use crate::table::{Column, TableWriter, table};

/// Metrics of one training step on the prompts of one domain, or, where data is routed, on those of them that
/// go to one teacher. Numbers that a stage does not have (a reward without a verifier call, a divergence
/// without a teacher) are absent, not 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub seed: u64,
    pub stage: String,
    /// From 0.
    pub step: u32,
    pub domain: String,
    /// The teacher that these prompts are routed to.
    pub teacher: Option<String>,
    /// The terms that the row is about, if some terms have their own completions.
    #[serde(default)]
    pub terms: Option<String>,
    /// Fraction of the step's prompts, over all rows of these terms.
    pub prompt_share: f64,
    /// Fraction of the step's completion tokens, over all rows of these terms.
    pub token_share: f64,
    /// Mean over completion tokens of log p_student - log p_teacher, in nats; signed.
    pub divergence: Option<f64>,
    /// The numerical noise in `divergence`: mean over completion tokens of |log p_student - log p_student|,
    /// computed once during sampling and once as for the divergence. Absent unless the current student
    /// sampled the tokens at temperature 1.
    pub divergence_floor: Option<f64>,
    /// Fraction of the step's sum of |signal| over completion tokens, over all rows of these terms.
    pub signal_share: Option<f64>,
    /// Mean over completion tokens of |signal|.
    pub signal_mean: Option<f64>,
    /// Mean over completion tokens of the student's entropy, in nats.
    pub entropy: Option<f64>,
    /// Mean tokens of a completion.
    pub length: Option<f64>,
    /// Completion tokens that were trained on.
    #[serde(default)]
    pub tokens: Option<f64>,
    /// Share of completions that were cut off before an end token.
    #[serde(default)]
    pub truncated: Option<f64>,
    /// Fraction of completion tokens where a `clip` of the objective is at its bound.
    pub clipped_fraction: Option<f64>,
    /// Factor by which `by domain` multiplies the loss of the domain's tokens, or would if it only observes.
    pub domain_weight: Option<f64>,
    /// Mean reward of the completions, in [0, 1].
    pub reward: Option<f64>,
    /// Number of completions that `keep` dropped; no other metric includes them.
    #[serde(default)]
    pub dropped: Option<f64>,
    /// Number of completions for which some teacher had no input, if the objective reads `available`.
    #[serde(default)]
    pub unavailable: Option<f64>,
    /// Number of panel members, over all prompts, that were to state a confidence but did not.
    #[serde(default)]
    pub unstated: Option<f64>,
    /// For speculative decoding: the accepted share of the verified drafted tokens; and the tokens of a
    /// completion per draft.
    #[serde(default)]
    pub accepted: Option<f64>,
    #[serde(default)]
    pub accepted_length: Option<f64>,
    /// Where a step draws up to two tokens: tokens of the completions per decoding step.
    #[serde(default)]
    pub tokens_per_step: Option<f64>,
    /// Where the objective reads `agreement`: mean similarity of the teachers' continuations to the row's
    /// blocks.
    #[serde(default)]
    pub agreement: Option<f64>,
    /// Where the objective reads whether other models' completions of the same prompts are correct: the share
    /// that is.
    #[serde(default)]
    pub correct_of_others: Option<f64>,
    /// Where prompts are derived from completions: the share of completions of such prompts.
    #[serde(default)]
    pub derived: Option<f64>,
    /// Where rollouts are replayed: the share of completions that come, or whose prompts come, from a buffer.
    #[serde(default)]
    pub replayed: Option<f64>,
    /// Where a server samples rollouts: the mean age of its weights, in updates.
    #[serde(default)]
    pub staleness: Option<f64>,
    /// Over the tokens that the student's current weights drew, from the whole distribution at the
    /// objective's temperature: mean and maximum of |trainer's log p - sampler's log p|, and the mean of
    /// exp(trainer's - sampler's), which is 1 up to chance.
    #[serde(default)]
    pub sampler_gap: Option<f64>,
    #[serde(default)]
    pub sampler_gap_max: Option<f64>,
    #[serde(default)]
    pub sampler_ratio: Option<f64>,
    /// Where the stage chooses its prompts: the number chosen from the domain, and the mean of their last
    /// measured `priority`.
    #[serde(default)]
    pub chosen_prompts: Option<f64>,
    #[serde(default)]
    pub priority: Option<f64>,
    /// For the whole step, where the student has experts: the entropy of the experts' shares of tokens,
    /// divided by its maximum and averaged over layers; and the largest share of an expert.
    pub expert_entropy: Option<f64>,
    pub expert_largest_share: Option<f64>,
    /// Where the weights were extrapolated after the step: the factor on the change since the last time, 1
    /// if no candidate was better; and the benchmark's score there.
    #[serde(default)]
    pub extrapolated: Option<f64>,
    #[serde(default)]
    pub judged: Option<f64>,
    /// Loss of the whole step, all domains and terms together.
    pub loss: f64,
    /// If it was computed before the step: mean -log p of the tokens of validation rows, in nats.
    #[serde(default)]
    pub validation_loss: Option<f64>,
    pub learning_rate: f64,
    /// The sampling temperature of the completions, where it changes during training.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// The value used in the step, where a setting is `learned`.
    #[serde(default)]
    pub learned: Option<f64>,
    /// Global norm of the step's gradient before clipping.
    pub gradient_norm: f64,
    /// Where single elements of the weights train: their share of all elements.
    #[serde(default)]
    pub trained_share: Option<f64>,
    /// Wall time of the whole step.
    pub seconds: f64,
    /// Parts of `seconds`: rollouts and their rewards; forward passes of all models; gradient and update.
    pub rollout_seconds: f64,
    pub scoring_seconds: f64,
    pub update_seconds: f64,
    /// Time at the end of the step, in seconds since 1970.
    #[serde(default)]
    pub time: Option<f64>,
    /// Resident memory of the worker at that time, in bytes; absent where the system does not report it.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Mean reward of each part of the verifier, if it has several: a column `reward.<name>` each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reward_parts: BTreeMap<String, f64>,
    /// The states of the objective at the beginning of the step: a column `state.<name>` each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, f64>,
    /// Where gradients of parts of the loss are compared: columns `grad_norm.<a>` and `alignment.<a>.<b>`,
    /// the cosine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alignment: BTreeMap<String, f64>,
}

impl StepMetrics {
    /// The row for events: a column per field, with the names of the file.
    pub fn columns(&self) -> MetricsRow {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(self) else {
            unreachable!("a row is a struct of numbers and texts")
        };
        for (field, prefix) in [("reward_parts", "reward."), ("states", "state."), ("alignment", "")] {
            let Some(Value::Object(values)) = fields.remove(field) else { continue };
            fields.extend(values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        // Numbers that are not finite are null, too, because JSON can't represent them.
        fields.retain(|_, value| !value.is_null());
        fields
    }

    /// The same without times and memory, which differ from one run to the next.
    #[cfg(test)]
    pub fn without_times(self) -> StepMetrics {
        StepMetrics {
            seconds: 0.0,
            rollout_seconds: 0.0,
            scoring_seconds: 0.0,
            update_seconds: 0.0,
            time: None,
            memory: None,
            ..self
        }
    }
}

/// The names of columns besides the fields, which differ between rows.
#[derive(Default)]
pub struct NamedColumns {
    reward_parts: BTreeSet<String>,
    states: BTreeSet<String>,
    alignment: BTreeSet<String>,
}

impl NamedColumns {
    pub fn add(&mut self, rows: &[StepMetrics]) {
        for row in rows {
            self.reward_parts.extend(row.reward_parts.keys().cloned());
            self.states.extend(row.states.keys().cloned());
            self.alignment.extend(row.alignment.keys().cloned());
        }
    }

    /// A column per field of [`StepMetrics`], and one per name of these columns; absent numbers are null.
    fn table(&self, rows: &[StepMetrics]) -> Vec<Column> {
        let mut table = table!(rows;
            seed,
            stage,
            step,
            domain,
            teacher,
            terms,
            prompt_share,
            token_share,
            divergence,
            divergence_floor,
            signal_share,
            signal_mean,
            entropy,
            length,
            tokens,
            truncated,
            clipped_fraction,
            domain_weight,
            reward,
            dropped,
            unavailable,
            unstated,
            accepted,
            accepted_length,
            tokens_per_step,
            agreement,
            correct_of_others,
            derived,
            replayed,
            staleness,
            sampler_gap,
            sampler_gap_max,
            sampler_ratio,
            chosen_prompts,
            priority,
            expert_entropy,
            expert_largest_share,
            extrapolated,
            judged,
            loss,
            validation_loss,
            learning_rate,
            temperature,
            learned,
            gradient_norm,
            trained_share,
            seconds,
            rollout_seconds,
            scoring_seconds,
            update_seconds,
            time,
            memory,
        );
        type Values = fn(&StepMetrics) -> &BTreeMap<String, f64>;
        let named: [(&str, &BTreeSet<String>, Values); 3] = [
            ("reward.", &self.reward_parts, |row| &row.reward_parts),
            ("state.", &self.states, |row| &row.states),
            ("", &self.alignment, |row| &row.alignment),
        ];
        for (prefix, names, values) in named {
            table.extend(names.iter().map(|name| {
                let cells = rows.iter().map(|row| values(row).get(name).copied());
                Column::new(format!("{prefix}{name}"), cells)
            }));
        }
        table
    }
}

/// Least rows per row group of the file; a group ends with a whole stage.
const GROUP: usize = 16 * 1024;

/// Writes the rows of stages, one stage after the other, as Parquet.
pub fn write_parquet(
    columns: &NamedColumns,
    stages: impl Iterator<Item = Result<Vec<StepMetrics>>>,
    path: &Path,
) -> Result<()> {
    let failed = |error| parquet::failed(path, error);
    let mut file = TableWriter::new(&columns.table(&[])).map_err(failed)?;
    let mut waiting = Vec::new();
    for rows in stages {
        waiting.extend(rows?);
        if waiting.len() >= GROUP {
            file.push(&columns.table(&waiting)).map_err(failed)?;
            waiting.clear();
        }
    }
    file.push(&columns.table(&waiting)).map_err(failed)?;
    parquet::write_encoded(&file.finish().map_err(failed)?, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use mopd_plan::columns::{OF_DOMAIN, OF_STEP, OTHERS};
    use mopd_plan::events::ColumnValues;

    use super::*;
    use crate::report::read::columns;

    fn row(step: u32) -> StepMetrics {
        StepMetrics {
            seed: u64::MAX,
            stage: "expert[sort]".to_owned(),
            step,
            domain: "sort".to_owned(),
            teacher: None,
            terms: None,
            prompt_share: 0.5,
            token_share: 1.0 / 3.0,
            divergence: None,
            divergence_floor: Some(1e-7),
            signal_share: Some(0.25),
            signal_mean: Some(-0.0),
            entropy: Some(0.3),
            length: Some(7.5),
            tokens: Some(30.0),
            truncated: Some(0.5),
            clipped_fraction: None,
            domain_weight: Some(1.25),
            reward: Some(1.0),
            dropped: Some(3.0),
            unavailable: None,
            unstated: Some(2.0),
            accepted: None,
            accepted_length: Some(2.5),
            tokens_per_step: Some(1.25),
            agreement: Some(0.375),
            correct_of_others: Some(0.25),
            derived: Some(0.125),
            replayed: None,
            staleness: Some(1.5),
            sampler_gap: Some(0.0078125),
            sampler_gap_max: None,
            sampler_ratio: Some(1.0),
            chosen_prompts: Some(12.0),
            priority: Some(-0.25),
            expert_entropy: None,
            expert_largest_share: Some(0.5),
            extrapolated: Some(3.0),
            judged: None,
            loss: -1.5e-300,
            validation_loss: Some(2.5),
            learning_rate: 1e-3,
            temperature: Some(0.75),
            learned: Some(0.75),
            gradient_norm: 2.0,
            trained_share: Some(0.0625),
            seconds: 0.125,
            rollout_seconds: 0.0625,
            scoring_seconds: 0.03125,
            update_seconds: 0.03125,
            time: Some(1.5e9 + 0.25),
            memory: None,
            reward_parts: BTreeMap::new(),
            states: BTreeMap::new(),
            alignment: BTreeMap::new(),
        }
    }

    #[test]
    fn written_metrics_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        let states = [("beta".to_owned(), 0.06)].into();
        let reward_parts = [("format".to_owned(), 0.75), ("accuracy".to_owned(), 0.25)].into();
        let alignment = [("alignment.near.right".to_owned(), -0.5)].into();
        let teacher = Some("specialist[sort]".to_owned());
        let routed =
            StepMetrics { teacher, divergence: Some(-0.04), reward_parts, states, alignment, ..row(1) };
        let stages = [vec![row(0)], vec![routed]];
        let mut named = NamedColumns::default();
        stages.iter().for_each(|rows| named.add(rows));
        write_parquet(&named, stages.into_iter().map(Ok), &path).unwrap();

        let mut table = columns(&path).unwrap();
        let cosine = table.pop().unwrap();
        assert_eq!(
            (cosine.name.as_str(), cosine.values),
            ("alignment.near.right", ColumnValues::Numbers(vec![None, Some(-0.5)]))
        );
        let beta = table.pop().unwrap();
        assert_eq!(
            (beta.name.as_str(), beta.values),
            ("state.beta", ColumnValues::Numbers(vec![None, Some(0.06)]))
        );
        for (name, value) in [("reward.format", 0.75), ("reward.accuracy", 0.25)] {
            let part = table.pop().unwrap();
            assert_eq!(
                (part.name.as_str(), part.values),
                (name, ColumnValues::Numbers(vec![None, Some(value)]))
            );
        }
        // The columns are the fields of the row, in order.
        let json = serde_json::to_string(&row(0)).unwrap();
        let places: Vec<_> = table
            .iter()
            .map(|column| json.find(&format!("\"{}\":", column.name)).expect("a field of the row"))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(places.len(), json.matches("\":").count());

        let column = |name: &str| table.iter().find(|column| column.name == name).unwrap().values.clone();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(column("seed"), ColumnValues::Wholes(vec![Some(u64::MAX); 2]));
        assert_eq!(column("stage"), ColumnValues::Texts(vec![text("expert[sort]"); 2]));
        assert_eq!(column("step"), ColumnValues::Wholes(vec![Some(0), Some(1)]));
        assert_eq!(column("teacher"), ColumnValues::Texts(vec![None, text("specialist[sort]")]));
        assert_eq!(column("divergence"), ColumnValues::Numbers(vec![None, Some(-0.04)]));
        assert_eq!(column("token_share"), ColumnValues::Numbers(vec![Some(1.0 / 3.0); 2]));
        assert_eq!(column("clipped_fraction"), ColumnValues::Numbers(vec![None; 2]));
        assert_eq!(column("loss"), ColumnValues::Numbers(vec![Some(-1.5e-300); 2]));
        assert_eq!(column("seconds"), ColumnValues::Numbers(vec![Some(0.125); 2]));
    }

    /// A column that is in none of the lists would be in no curve and in no tracker.
    #[test]
    fn every_column_is_one_that_is_shown_or_known_not_to_be() {
        let mut listed = [&OF_DOMAIN[..], &OF_STEP, &OTHERS].concat();
        let table = NamedColumns::default().table(&[row(0)]);
        let mut written: Vec<&str> = table.iter().map(|column| &*column.name).collect();
        listed.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, listed);
    }

    #[test]
    fn a_run_without_training_still_gets_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        write_parquet(&NamedColumns::default(), std::iter::empty(), &path).unwrap();
        let table = columns(&path).unwrap();
        let column = |name: &str| table.iter().find(|column| column.name == name).unwrap().values.clone();
        assert_eq!(column("teacher"), ColumnValues::Texts(Vec::new()));
        assert_eq!(column("divergence"), ColumnValues::Numbers(Vec::new()));
        assert_eq!(column("step"), ColumnValues::Wholes(Vec::new()));
    }

    #[test]
    fn many_rows_are_in_groups_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        let stages = (0..5).map(|stage| Ok((0..5000).map(|step| row(5000 * stage + step)).collect()));
        write_parquet(&NamedColumns::default(), stages, &path).unwrap();
        let steps = columns(&path).unwrap().into_iter().find(|column| column.name == "step").unwrap();
        assert_eq!(steps.values, ColumnValues::Wholes((0..25_000).map(Some).collect()));
    }

    #[test]
    fn a_row_survives_the_store() {
        let row = row(3);
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), row);
    }
}
