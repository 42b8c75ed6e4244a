//! The folder of a run, for the commands that read it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use mopd_plan::events::{ColumnValues, Event, Failure, Job, MetricsRow, ReadColumn, ReadJob, RowFilter};
use mopd_plan::results::Results;
use mopd_plan::{Plan, SCHEMA};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::host::{as_text, reason};
use crate::output::counted;
use crate::problem::Problem;
use crate::provenance::{PROVENANCE, RunProvenance};
use crate::worker;

use crate::sweep_folder::SweepFolder;
pub use mopd_store::results_folder::{ANSWERS, METRICS, REWARDS, SAMPLES, WEIGHTS};
use mopd_store::results_folder::{MODULES, ResultsFolder};

pub struct RunFolder {
    pub path: PathBuf,
    pub plan: Plan,
    /// `None` if the run was not finished, so also if the results are those of another plan.
    pub results: Option<Results>,
    /// The text of the experiment, and those of its modules by their paths in its folder.
    pub source: String,
    pub modules: Vec<(String, String)>,
    /// `None` for a run of an older version.
    pub provenance: Option<RunProvenance>,
}

/// The path in a run's folder of the copy of a module: `above` stands for a folder above that of the
/// experiment.
pub fn copied_path(module: &Path) -> PathBuf {
    let part = |part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("above")),
        _ => None,
    };
    module.components().filter_map(part).collect()
}

impl RunFolder {
    pub fn open(path: &Path) -> Result<RunFolder, Problem> {
        let plan_file = path.join("plan.json");
        if !plan_file.is_file() {
            if let Some(problem) = is_a_sweep(path) {
                return Err(problem);
            }
            let what = if path.is_dir() { "it has no plan.json" } else { "there is no such folder" };
            return Err(Problem::usage("no-run", format!("{} is not a run: {what}", path.display()))
                .help("`mopd run a.mopd` writes one, by default to runs/NAME"));
        }
        let schema: Schema = json(&plan_file)?;
        if schema.schema != SCHEMA {
            let message =
                format!("{} has schema {}, but this mopd reads {SCHEMA}", plan_file.display(), schema.schema);
            return Err(Problem::usage("other-version", message).help(
                "run the experiment again with this mopd; results with the same key are not computed \
                again",
            ));
        }
        let plan: Plan = json(&plan_file)?;
        let results_file = path.join("results.json");
        let results: Option<Results> = if results_file.is_file() { Some(json(&results_file)?) } else { None };
        // Results of another plan are from an earlier run.
        let results = results.filter(|results| results.plan == plan.hash);
        // So may those be that a run has not compared with its own keys yet.
        let results = results.filter(|_| !ResultsFolder::at(path).is_undecided());
        let source = text(&path.join("source.mopd"))?;
        let mut modules = Vec::new();
        for name in ResultsFolder::at(path).modules().unwrap_or_default() {
            modules.push((name.to_string_lossy().into_owned(), text(&path.join(MODULES).join(&name))?));
        }
        let provenance_file = path.join(PROVENANCE);
        let provenance = if provenance_file.is_file() { Some(json(&provenance_file)?) } else { None };
        Ok(RunFolder { path: path.to_owned(), plan, results, source, modules, provenance })
    }

    /// Some of its Parquet files, in this order; `None` for files that the run does not have.
    pub fn tables<const N: usize>(&self, names: [&str; N]) -> Result<[Option<ColumnTable>; N], Problem> {
        self.rows(names, RowFilter::new())
    }

    /// The same with only some rows.
    pub fn rows<const N: usize>(
        &self,
        names: [&str; N],
        rows: RowFilter,
    ) -> Result<[Option<ColumnTable>; N], Problem> {
        let files = names.map(|name| self.path.join(name)).map(|file| file.is_file().then_some(file));
        let mut asked = Vec::new();
        for file in files.iter().flatten() {
            asked.push(as_text(file)?);
        }
        let mut found = if asked.is_empty() { Vec::new() } else { read(asked, rows)? }.into_iter();
        // The worker returns the files in the order of the request.
        Ok(files.map(|file| file.and_then(|_| found.next())))
    }
}

/// The reason why the folder of a sweep can't be read as that of a run.
fn is_a_sweep(path: &Path) -> Option<Problem> {
    let SweepFolder { members, .. } = SweepFolder::read(path)?;
    let member = members.iter().find(|member| member.good).or(members.first());
    let message =
        format!("{} is a sweep of {}, not a single run", path.display(), counted(members.len(), "run"));
    let problem = Problem::usage("no-run", message);
    Some(match member {
        Some(member) => {
            let one = path.join(member.name());
            problem.help(format!("name the folder of one of them, such as `{}`", one.display()))
        }
        None => problem,
    })
}

/// The results folder of a run: the given one, the one in the experiment, otherwise runs/NAME.
pub fn out_folder(wanted: Option<&Path>, plan: &Plan) -> PathBuf {
    let experiment = &plan.experiment;
    match (wanted, &experiment.out) {
        (Some(out), _) => out.to_owned(),
        (None, Some(out)) => PathBuf::from(out),
        (None, None) => Path::new("runs").join(folder_name(&experiment.name)),
    }
}

/// An experiment's name, as a folder name.
fn folder_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_. ".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).collect();
    let name = name.trim().trim_start_matches('.');
    if name.is_empty() { "experiment".to_owned() } else { name.to_owned() }
}

/// The field of a plan that says whether the rest can be read.
#[derive(serde::Deserialize)]
struct Schema {
    schema: u32,
}

fn text(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| {
        Problem::usage("can't-read", format!("can't read {}: {}", path.display(), reason(&error)))
    })
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Problem> {
    serde_json::from_str(&text(path)?).map_err(|error| {
        Problem::usage("can't-read", format!("{} is not a file of a run: {error}", path.display()))
            .help("run the experiment again: finished stages are kept")
    })
}

/// A table of a run, column by column.
#[derive(Clone, Debug, Default)]
pub struct ColumnTable(Vec<ReadColumn>);

impl ColumnTable {
    /// A table from the rows of events: with a column for every name that occurs in a row.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = &'a MetricsRow>) -> ColumnTable {
        let rows: Vec<&MetricsRow> = rows.into_iter().collect();
        let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.keys()).collect();
        let column = |name: &String| {
            let cells = || rows.iter().map(|row| row.get(name));
            // All values of a field have one type.
            let values = match cells().flatten().next() {
                Some(Value::String(_)) => {
                    let text = |cell: Option<&Value>| cell?.as_str().map(str::to_owned);
                    ColumnValues::Texts(cells().map(text).collect())
                }
                Some(Value::Number(number)) if number.is_u64() => {
                    ColumnValues::Wholes(cells().map(|cell| cell?.as_u64()).collect())
                }
                _ => ColumnValues::Numbers(cells().map(|cell| cell?.as_f64()).collect()),
            };
            ReadColumn { name: name.clone(), values }
        };
        ColumnTable(names.into_iter().map(column).collect())
    }
}

impl From<Vec<ReadColumn>> for ColumnTable {
    fn from(columns: Vec<ReadColumn>) -> ColumnTable {
        ColumnTable(columns)
    }
}

impl ColumnTable {
    pub fn rows(&self) -> usize {
        self.0.first().map_or(0, |column| match &column.values {
            ColumnValues::Wholes(values) => values.len(),
            ColumnValues::Numbers(values) => values.len(),
            ColumnValues::Truths(values) => values.len(),
            ColumnValues::Texts(values) => values.len(),
        })
    }

    fn values(&self, name: &str) -> Option<&ColumnValues> {
        self.0.iter().find(|column| column.name == name).map(|column| &column.values)
    }

    /// The columns whose names begin with this.
    pub fn columns<'a>(&'a self, beginning: &'a str) -> impl Iterator<Item = &'a str> {
        let names = self.0.iter().map(|column| column.name.as_str());
        names.filter(move |name| name.starts_with(beginning))
    }

    /// The text in a row; empty if there is none.
    pub fn text(&self, name: &str, row: usize) -> &str {
        match self.values(name) {
            Some(ColumnValues::Texts(values)) => {
                values.get(row).and_then(Option::as_deref).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// The integer in a row; 0 if there is none.
    pub fn whole(&self, name: &str, row: usize) -> u64 {
        match self.values(name) {
            Some(ColumnValues::Wholes(values)) => values.get(row).copied().flatten().unwrap_or_default(),
            _ => 0,
        }
    }

    /// The number in a row.
    pub fn number(&self, name: &str, row: usize) -> Option<f64> {
        match self.values(name)? {
            ColumnValues::Numbers(values) => *values.get(row)?,
            ColumnValues::Wholes(values) => values.get(row)?.map(|value| value as f64),
            ColumnValues::Truths(values) => values.get(row)?.map(|value| f64::from(u8::from(value))),
            ColumnValues::Texts(_) => None,
        }
    }
}

fn read(files: Vec<String>, rows: RowFilter) -> Result<Vec<ColumnTable>, Problem> {
    let job = Job::Read(ReadJob { files, rows });
    let mut tables = Vec::new();
    let failed = |failure: &Failure| Problem::usage("can't-read", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Table { columns, .. } = event {
            tables.push(ColumnTable::from(columns));
        }
    })?;
    if status.success() { Ok(tables) } else { Err(worker::death(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_sweep_is_named_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let member = |n: u32, good: bool| serde_json::json!({ "out": format!("runs/e/n={n}"), "good": good, "values": { "n": n } });
        let sweep =
            serde_json::json!({ "schema": 1, "plan": "", "members": [member(2, false), member(8, true)] });
        std::fs::write(folder.path().join(crate::sweep_folder::SWEEP), sweep.to_string()).unwrap();
        let text = format!("{:?}", RunFolder::open(folder.path()).err().expect("it is no run"));
        assert!(text.contains("is a sweep of 2 runs") && text.contains("n=8"), "{text}");
    }

    #[test]
    fn a_name_becomes_a_folder_inside_runs() {
        let names = ["quickstart", "a/b", "../../etc", "..", " three experts ", ""].map(folder_name);
        assert_eq!(names, ["quickstart", "a-b", "-..-etc", "experiment", "three experts", "experiment"]);
    }
}
