//! `mopd report`: runs as a single HTML page without dependencies.

mod answers;
mod curves;
mod live;
mod page;
mod samples;
mod source;
mod stages;
mod sweep;
mod tables;

use std::path::{Path, PathBuf};

use mopd_plan::ModelId;
use mopd_plan::events::{DifferencesJob, Event, Failure, Job};
use mopd_plan::results::RowDifferences;
use serde::{Serialize, Serializer};

use self::sweep::FollowedSweep;
use super::compare::{self, CommonTables, MeaningChange};
use crate::answers::EvaluatedCompletion;
use crate::args::ReportArgs;
use crate::host::as_text;
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::{ColumnTable, METRICS, REWARDS, RunFolder, SAMPLES, WEIGHTS};
use crate::run_status::FollowedEvents;
use crate::worker;

/// Larger pages open slowly; data that grows with a run is kept below this size, in bytes.
const LARGE: usize = 2_000_000;

/// A run with all data that the page shows.
pub struct LoadedRun {
    folder: RunFolder,
    /// Why it did not finish.
    failure: Option<Failure>,
    /// A name that distinguishes it from the others on the page.
    name: String,
    /// Its index, from 0.
    place: usize,
    /// The number of stages of the runs before it: ids of stages count over all runs.
    stages_before: u32,
    metrics: ColumnTable,
    samples: ColumnTable,
    weights: ColumnTable,
    differences: Vec<RowDifferences>,
    /// The completions behind its tables that a page may show.
    answers: Vec<EvaluatedCompletion>,
    /// Its semantic differences from the first run of the page.
    meaning: Option<MeaningChange>,
    /// The tables that it has in common with the first run of the page.
    common: Option<CommonTables>,
}

impl LoadedRun {
    /// Loads the run from its folder; `before` are the runs before it on the page.
    fn load(folder: RunFolder, name: String, before: &[LoadedRun]) -> Result<LoadedRun, Problem> {
        let [metrics, samples, weights] = folder.tables([METRICS, SAMPLES, WEIGHTS])?;
        // A run that is not finished has its events.
        let events = match &folder.results {
            Some(_) => FollowedEvents::default(),
            None => FollowedEvents::of(&folder.path)?,
        };
        let metrics = metrics.unwrap_or_else(|| events.so_far.metrics());
        let failure = events.status.failure;
        let common = before.first().map(|first| common_tables(first, &folder, &name)).transpose()?;
        Ok(LoadedRun {
            name,
            place: before.len(),
            stages_before: before
                .last()
                .map_or(0, |run| run.stages_before + run.folder.plan.experiment.models.len() as u32),
            failure,
            metrics,
            samples: samples.unwrap_or_default(),
            weights: weights.unwrap_or_default(),
            differences: differences(&folder)?,
            answers: answers::load(&folder)?,
            meaning: before.first().map(|first| compare::meaning(&first.folder, &folder)),
            common,
            folder,
        })
    }

    fn stage(&self, model: ModelId) -> u32 {
        self.stages_before + model.0
    }

    fn stage_anchor(&self, model: ModelId) -> String {
        format!("stage-{}", self.stage(model))
    }

    /// The anchor of something that each run has once.
    fn anchor(&self, what: &str) -> String {
        if self.place == 0 { what.to_owned() } else { format!("R{}-{what}", self.place) }
    }
}

pub fn report(arguments: &ReportArgs) -> Result<CommandStatus, Problem> {
    if arguments.live {
        let [run] = &arguments.runs[..] else {
            return Err(Problem::usage("usage", "`--live` shows one run, or one sweep")
                .help("name one folder; `mopd report A B` makes a page of several"));
        };
        return live::serve(run, arguments.port.unwrap_or_default());
    }
    if let [path] = &arguments.runs[..]
        && let Some(mut sweep) = FollowedSweep::at(path)
    {
        return written(arguments, &sweep.view()?.page(false)?);
    }
    let names = names(&arguments.runs);
    let mut runs: Vec<LoadedRun> = Vec::new();
    for (path, name) in arguments.runs.iter().zip(names) {
        runs.push(LoadedRun::load(RunFolder::open(path)?, name, &runs)?);
    }
    written(arguments, &page::page(&runs, false)?)
}

fn written(arguments: &ReportArgs, html: &str) -> Result<CommandStatus, Problem> {
    let out = arguments.out.clone().unwrap_or_else(|| match &arguments.runs[..] {
        [run] => run.join("report.html"),
        // The page of several runs is not in the folder of one of them.
        _ => PathBuf::from("report.html"),
    });
    write(&out, html)?;
    if html.len() > LARGE {
        let size = crate::figures::bytes(html.len() as u64);
        output::error(&format!(
            "warning: the page is large ({size}) because of its source text and its tables\n"
        ));
    }
    output::result(&format!("{}\n", out.display()));
    Ok(CommandStatus::Success)
}

/// The name of each run: the last parts of its path, as many as distinguish it from the others.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let end = |path: &Path, parts: usize| {
        let all: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let longest = paths.iter().map(|path| path.components().count()).max().unwrap_or(1);
    let name = |path: &PathBuf| {
        let alone =
            |parts: &usize| paths.iter().filter(|other| end(other, *parts) == end(path, *parts)).count() == 1;
        end(path, (1..longest).find(alone).unwrap_or(longest))
    };
    paths.iter().map(name).collect()
}

/// Whether a run has the data that differences are computed from: only finished runs have.
fn has_rewards(run: &RunFolder) -> bool {
    run.results.is_some() && run.path.join(REWARDS).is_file()
}

/// The tables that a run has in common with the first one of the page.
fn common_tables(first: &LoadedRun, run: &RunFolder, name: &str) -> Result<CommonTables, Problem> {
    for (run, name) in [(&first.folder, first.name.as_str()), (run, name)] {
        let reason = match (&run.results, has_rewards(run)) {
            (_, true) => continue,
            (None, _) => format!("{name} is not finished"),
            (Some(_), _) => format!("{name} has no {REWARDS}"),
        };
        return Ok(CommonTables::None { reason });
    }
    Ok(compare::common_tables(&first.folder, [run])?.remove(0))
}

/// The differences between the rows of a finished run's tables.
fn differences(run: &RunFolder) -> Result<Vec<RowDifferences>, Problem> {
    if !has_rewards(run) {
        return Ok(Vec::new());
    }
    let job = Job::Differences(DifferencesJob { run: as_text(&run.path)? });
    let mut found = Vec::new();
    let failed = |failure: &Failure| Problem::usage("can't-read", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Differences { tables } = event {
            found = tables;
        }
    })?;
    if status.success() { Ok(found) } else { Err(worker::death(status)) }
}

fn write(path: &Path, text: &str) -> Result<(), Problem> {
    std::fs::write(path, text)
        .map_err(|error| Problem::unwritten(path, &error).help("`--out FILE` names another place"))
}

/// A number for a page, rounded to four digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounded(pub f64);

impl Serialize for Rounded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded: f64 = format!("{:.3e}", self.0).parse().unwrap_or(f64::NAN);
        if rounded.is_finite() && rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            return serializer.serialize_i64(rounded as i64);
        }
        // Infinity and NaN become null.
        serializer.serialize_f64(rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_what_tells_them_apart() {
        let of = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(of(&["runs/a"]), ["a"]);
        assert_eq!(of(&["x/runs/a", "y/runs/a", "b"]), ["x/runs/a", "y/runs/a", "b"]);
        assert_eq!(of(&["a", "a"]), ["a", "a"]);
    }

    #[test]
    fn numbers_have_four_figures() {
        let text = |value: f64| serde_json::to_string(&Rounded(value)).unwrap();
        let values = [1.0 / 3.0, 123_456.0, 0.0, -1.0, 1.5e-7, f64::NAN, f64::INFINITY].map(text);
        assert_eq!(values, ["0.3333", "123500", "0", "-1", "1.5e-7", "null", "null"]);
    }
}
