//! `metrics.parquet`: one row per stage, step, domain and teacher.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mopd_plan::StepNumber;
use mopd_plan::columns::step_metrics;
use mopd_plan::events::MetricsRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parquet;
use crate::failure::Result;
use crate::table::{Column, TableWriter, table};

/// A row has a field and a column for each number in the table of the numbers of a step.
macro_rules! declare {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident: $type:ty, $subject:ident $(($title:literal, $unit:literal))?, $pooling:ident
        $(, guard($number:ident: $guard_unit:ident))?;
    )*) => {
        /// Metrics of one training step on the prompts of one domain, or, where data is routed, on those of
        /// them that go to one teacher. Numbers that a stage does not have (a reward without a verifier
        /// call, a divergence without a teacher) are absent, not 0.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct StepMetrics {
            pub seed: u64,
            pub stage: String,
            /// From 0.
            pub step: u32,
            pub domain: String,
            /// The teacher that these prompts are routed to.
            pub teacher: Option<String>,
            /// The terms that the row is about, if some terms have their own completions.
            pub terms: Option<String>,
            $($(#[doc = $doc])* pub $name: $type,)*
            /// Mean reward of each part of the verifier, if it has several: a column `reward.<name>` each.
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            pub reward_parts: BTreeMap<String, f64>,
            /// The states of the objective at the beginning of the step: a column `state.<name>` each.
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            pub states: BTreeMap<String, f64>,
            /// Where gradients of parts of the loss are compared: columns `grad_norm.<a>` and
            /// `alignment.<a>.<b>`, the cosine.
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            pub alignment: BTreeMap<String, f64>,
        }

        impl StepMetrics {
            /// A number that guards can read.
            pub fn number(&self, number: StepNumber) -> Option<f64> {
                match number {
                    $($(StepNumber::$number => self.$name.into(),)?)*
                }
            }

            /// A column for each field but the maps.
            fn table(rows: &[StepMetrics]) -> Vec<Column> {
                table!(rows; seed, stage, step, domain, teacher, terms, $($name),*)
            }
        }
    };
}

step_metrics!(declare);

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
        let mut table = StepMetrics::table(rows);
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
    use mopd_plan::events::ColumnValues;

    use super::*;
    use crate::report::read::{RowFilter, columns};

    fn row(step: u32) -> StepMetrics {
        StepMetrics {
            seed: u64::MAX,
            stage: "expert[sort]".to_owned(),
            step,
            domain: "sort".to_owned(),
            prompt_share: 0.5,
            token_share: 1.0 / 3.0,
            divergence_floor: Some(1e-7),
            signal_mean: Some(-0.0),
            reward: Some(1.0),
            loss: -1.5e-300,
            learning_rate: 1e-3,
            gradient_norm: 2.0,
            seconds: 0.125,
            time: Some(1.5e9 + 0.25),
            ..StepMetrics::default()
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

        let mut table = columns(&path, &RowFilter::new()).unwrap();
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

    #[test]
    fn a_run_without_training_still_gets_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        write_parquet(&NamedColumns::default(), std::iter::empty(), &path).unwrap();
        let table = columns(&path, &RowFilter::new()).unwrap();
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
        let steps = columns(&path, &RowFilter::new())
            .unwrap()
            .into_iter()
            .find(|column| column.name == "step")
            .unwrap();
        assert_eq!(steps.values, ColumnValues::Wholes((0..25_000).map(Some).collect()));
    }

    #[test]
    fn a_row_survives_the_store() {
        let row = row(3);
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), row);
    }
}
