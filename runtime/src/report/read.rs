//! Reads the tables of finished runs: for `mopd`, which has no Parquet reader, and to compare runs.

use std::fs::File;
use std::path::Path;

pub use mopd_plan::events::RowFilter;
use mopd_plan::events::{ColumnValues, CompareJob, DifferencesJob, Event, FailureKind, ReadColumn, ReadJob};
use mopd_plan::results::{Results, RewardFiles};
use mopd_plan::{Domain, Plan};
use mopd_store::read_json;
use mopd_store::results_folder::REWARDS;
use parquet::basic::{ConvertedType, Type};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::record;
use parquet::schema::types::Type as SchemaType;
use serde::de::DeserializeOwned;

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::report::rewards::PromptReward;
use crate::report::statistics::compare::{ComparedModel, ComparedRun, Judge, compare as of_two, within};
use crate::zip::zip_equal;

/// Emits one [`Event::Table`] per file.
pub fn read(job: &ReadJob, control: &Control) -> Result<()> {
    for file in &job.files {
        control.check()?;
        let columns = columns(Path::new(file), &job.rows)?;
        control.emit(&Event::Table { file: file.clone(), columns });
    }
    Ok(())
}

/// Emits one [`Event::Compared`] for each run after the first.
pub fn compare(job: &CompareJob, control: &Control) -> Result<()> {
    let Some((first, others)) = job.runs.split_first() else { return Ok(()) };
    let first = run(Path::new(first))?;
    for other in others {
        control.check()?;
        let other = run(Path::new(other))?;
        control.emit(&Event::Compared { tables: of_two(&first, &other) });
    }
    Ok(())
}

/// Emits one [`Event::Differences`].
pub fn differences(job: &DifferencesJob, control: &Control) -> Result<()> {
    control.emit(&Event::Differences { tables: within(&run(Path::new(&job.run))?) });
    Ok(())
}

fn run(folder: &Path) -> Result<ComparedRun> {
    let plan = json(&folder.join("plan.json"))?;
    // An unfinished run has no results, and is compared with itself only.
    let results = folder.join("results.json");
    let noted = if results.is_file() { json::<Results>(&results)?.rewards } else { None };
    Ok(compared(plan, noted.as_deref(), rewards(&folder.join(REWARDS))?))
}

/// A run from its plan, the files of its domains' rewards where they are known, and the rows of
/// `rewards.parquet`.
pub fn compared(plan: Plan, noted: Option<&[RewardFiles]>, rewards: Vec<PromptReward>) -> ComparedRun {
    let Plan { experiment, stages, .. } = plan;
    let mut keys: Vec<String> = stages.into_iter().map(|stage| stage.content_key).collect();
    // If the file was truncated by hand, there may be models without stages.
    keys.resize(experiment.models.len(), String::new());
    let judge = |domain: &Domain| {
        let of_domain = |noted: &[RewardFiles]| {
            let found = noted.iter().find(|reward| reward.domain == domain.name);
            found.map_or_else(Vec::new, |reward| reward.files.clone())
        };
        Judge { reward: domain.reward.without_paths(), files: noted.map(of_domain) }
    };
    ComparedRun {
        judges: experiment.domains.iter().map(judge).collect(),
        rewards,
        comparisons: experiment.comparisons,
        bounded: experiment.domains.iter().map(|domain| domain.reward.range().is_unit()).collect(),
        domains: experiment.domains.into_iter().map(|domain| domain.name).collect(),
        models: zip_equal(experiment.models, keys)
            .map(|(model, key)| ComparedModel { name: model.name, key })
            .collect(),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let folder = path.parent().unwrap_or(path).display();
    read_json(path).map_err(|error| Error::new(FailureKind::Data, format!("can't read {folder}: {error}")))
}

fn rewards(path: &Path) -> Result<Vec<PromptReward>> {
    let columns = columns(path, &RowFilter::new())?;
    let failed = |name: &str| {
        Error::new(
            FailureKind::Data,
            format!(
                "{} is not a file of a run: its column `{name}` is missing or incomplete",
                path.display()
            ),
        )
    };
    let values = |name: &str| columns.iter().find(|column| column.name == name).map(|column| &column.values);
    let texts = |name: &str| match values(name) {
        Some(ColumnValues::Texts(texts)) => {
            texts.iter().cloned().collect::<Option<Vec<String>>>().ok_or_else(|| failed(name))
        }
        _ => Err(failed(name)),
    };
    let wholes = |name: &str| match values(name) {
        Some(ColumnValues::Wholes(wholes)) => {
            wholes.iter().copied().collect::<Option<Vec<u64>>>().ok_or_else(|| failed(name))
        }
        _ => Err(failed(name)),
    };
    let means = match values("reward") {
        Some(ColumnValues::Numbers(means)) => {
            means.iter().copied().collect::<Option<Vec<f64>>>().ok_or_else(|| failed("reward"))?
        }
        _ => return Err(failed("reward")),
    };
    let (mut table, mut model, mut domain, mut tests) = (
        texts("table")?.into_iter(),
        texts("model")?.into_iter(),
        texts("domain")?.into_iter(),
        texts("tests")?.into_iter(),
    );
    let (seeds, prompts) = (wholes("seed")?, wholes("prompt")?);
    let mut rows = Vec::with_capacity(means.len());
    for ((reward, seed), prompt) in zip_equal(zip_equal(means, seeds), prompts) {
        let whole = "columns of a table are of one length";
        rows.push(PromptReward {
            table: table.next().expect(whole),
            model: model.next().expect(whole),
            domain: domain.next().expect(whole),
            seed,
            tests: tests.next().expect(whole),
            prompt: prompt as u32,
            reward,
        });
    }
    Ok(rows)
}

/// The columns of a file with integers, floats, bools or text; others are left out. Of the rows, those that
/// the filter lets through.
pub fn columns(path: &Path, rows: &RowFilter) -> Result<Vec<ReadColumn>> {
    let failed = |error: String| {
        Error::new(FailureKind::Data, format!("can't read {}: {error}", path.display()))
            .help("`mopd run` writes it again; finished stages are not run again")
    };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    filtered(file, rows).map_err(|error| failed(error.to_string()))
}

fn filtered(file: File, rows: &RowFilter) -> parquet::errors::Result<Vec<ReadColumn>> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let mut found: Vec<Option<ReadColumn>> = Vec::new();
    for field in schema.root_schema().get_fields() {
        let values = field.is_primitive().then(|| {
            let converted = field.get_basic_info().converted_type();
            Some(match (field.get_physical_type(), converted) {
                (Type::INT32 | Type::INT64, ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
                    ColumnValues::Wholes(Vec::new())
                }
                (Type::INT32 | Type::INT64, ConvertedType::NONE) | (Type::FLOAT | Type::DOUBLE, _) => {
                    ColumnValues::Numbers(Vec::new())
                }
                (Type::BOOLEAN, _) => ColumnValues::Truths(Vec::new()),
                (Type::BYTE_ARRAY, ConvertedType::UTF8) => ColumnValues::Texts(Vec::new()),
                _ => return None,
            })
        });
        found.push(values.flatten().map(|values| ReadColumn { name: field.name().to_owned(), values }));
    }
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        let passed = passed(&*group, rows)?;
        // The rest of a group without such a row is left alone: its texts may be long.
        if !passed.contains(&true) {
            continue;
        }
        for (row, passed) in group.get_row_iter(None)?.zip(passed) {
            let row = row?;
            if !passed {
                continue;
            }
            for ((_, cell), column) in zip_equal(row.into_columns(), &mut found) {
                if let Some(ReadColumn { values, .. }) = column {
                    push(values, cell);
                }
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Whether each row of a group passes the filter, for which only its columns are read.
fn passed(group: &dyn RowGroupReader, rows: &RowFilter) -> parquet::errors::Result<Vec<bool>> {
    let count = group.metadata().num_rows() as usize;
    let root = group.metadata().schema_descr().root_schema();
    let known = root.get_fields().iter().filter(|field| rows.contains_key(field.name()));
    let known: Vec<_> = known.cloned().collect();
    if known.len() < rows.len() || rows.is_empty() {
        return Ok(vec![rows.is_empty(); count]);
    }
    let known = SchemaType::group_type_builder(root.name()).with_fields(known).build()?;
    let passes = |row: record::Row| row.get_column_iter().all(|(name, cell)| has_one_of(cell, &rows[name]));
    group.get_row_iter(Some(known))?.map(|row| row.map(passes)).collect()
}

fn has_one_of(cell: &record::Field, values: &[String]) -> bool {
    use record::Field;
    match cell {
        Field::Str(text) => values.contains(text),
        Field::Bool(_) | Field::Int(_) | Field::Long(_) | Field::UInt(_) | Field::ULong(_) => {
            values.contains(&cell.to_string())
        }
        _ => false,
    }
}

fn push(values: &mut ColumnValues, cell: record::Field) {
    use record::Field;
    match values {
        ColumnValues::Wholes(wholes) => wholes.push(match cell {
            Field::UInt(whole) => Some(u64::from(whole)),
            Field::ULong(whole) => Some(whole),
            _ => None,
        }),
        ColumnValues::Numbers(numbers) => {
            let number = match cell {
                Field::Int(number) => Some(f64::from(number)),
                Field::Long(number) => Some(number as f64),
                Field::Float(number) => Some(f64::from(number)),
                Field::Double(number) => Some(number),
                _ => None,
            };
            numbers.push(number.filter(|number| number.is_finite()));
        }
        ColumnValues::Truths(truths) => {
            truths.push(if let Field::Bool(truth) = cell { Some(truth) } else { None });
        }
        ColumnValues::Texts(texts) => {
            texts.push(if let Field::Str(text) = cell { Some(text) } else { None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::answers::{Answer, PromptAnswers};
    use crate::report::rewards::{PromptReward, write};

    #[test]
    fn a_table_is_handed_over_column_by_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rewards.parquet");
        let row = PromptReward {
            table: "t".into(),
            model: "m".into(),
            domain: "d".into(),
            seed: u64::MAX,
            tests: "h".into(),
            prompt: 0,
            reward: f64::NAN,
        };
        let answers =
            PromptAnswers::from_answers(&[Answer { reward: 1.0, text: "a", tokens: 3, confidence: None }]);
        write(&[row.clone(), PromptReward { reward: 0.5, ..row }], &[answers; 2], &path).unwrap();
        let columns = columns(&path, &RowFilter::new()).unwrap();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let of_answers = ["samples", "correct", "distinct", "length", "stated"];
        assert_eq!(names[..7], ["table", "model", "domain", "seed", "tests", "prompt", "reward"]);
        assert_eq!(names[7..], of_answers);
        assert_eq!(columns[3].values, ColumnValues::Wholes(vec![Some(u64::MAX); 2]));
        assert_eq!(columns[6].values, ColumnValues::Numbers(vec![None, Some(0.5)]));
        assert_eq!(columns[10].values, ColumnValues::Numbers(vec![Some(3.0); 2]));
    }

    #[test]
    fn unreadable_metrics_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        for content in [None, Some("PAR1 but no more"), Some("")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = columns(&path, &RowFilter::new()).unwrap_err().to_string();
            assert!(error.starts_with("can't read ") && error.contains("metrics.parquet: "), "{error}");
        }
    }
}
