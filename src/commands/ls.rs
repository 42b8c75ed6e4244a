//! `mopd ls`: the runs below folders, their state, and how long they took.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::SecondsFormat;
use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_plan::events::Fork;
use mopd_store::results_folder::ResultsFolder;
use mopd_store::{Lock, age};
use serde::Deserialize;
use serde_json::json;

use crate::args::{Format, LsArgs};
use crate::clock::utc;
use crate::figures::duration;
use crate::host::reason;
use crate::output::{self, counted, printable};
use crate::problem::{CommandStatus, Problem};
use crate::run_lock::LOCK;
use crate::run_status::FollowedEvents;
use crate::run_time::whole_seconds;
use crate::sweep_folder::SweepFolder;

/// The deepest level of folders that is searched.
const DEEP: usize = 5;

struct ListedRun {
    folder: PathBuf,
    experiment: String,
    state: State,
    /// When its results were written; without results, when its plan was written.
    when: SystemTime,
    /// Over all pieces; those of all runs of a sweep.
    seconds: Option<f64>,
    /// The stages at work; if it failed, that where it did.
    stage: String,
    /// Why it failed, or ended early.
    reason: Option<String>,
    tables: Vec<String>,
    /// For a sweep, the numbers of finished runs and of all runs.
    members: Option<(usize, usize)>,
    /// Stages that resumed from a checkpoint of another text.
    forks: Vec<Fork>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Finished,
    /// Interrupted; the same command resumes it.
    Unfinished,
    /// The same command resumes it too, when the reason is gone.
    Failed,
    Running,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Finished => "finished",
            State::Unfinished => "unfinished",
            State::Failed => "failed",
            State::Running => "running",
        }
    }
}

/// The fields that files of any version have.
#[derive(Deserialize)]
struct PlanFile {
    hash: String,
    experiment: ExperimentName,
}

#[derive(Deserialize)]
struct ExperimentName {
    name: String,
}

#[derive(Deserialize)]
struct ResultsFile {
    plan: String,
    experiment: String,
    #[serde(default)]
    tables: Vec<ExperimentName>,
    #[serde(default)]
    forks: Vec<Fork>,
}

pub fn ls(arguments: &LsArgs) -> Result<CommandStatus, Problem> {
    let mut runs = Vec::new();
    for folder in &arguments.folders {
        visit(folder, 0, &mut runs).map_err(|error| {
            Problem::usage("no-run", format!("can't read {}: {}", folder.display(), reason(&error)))
                .help("`mopd run a.mopd` writes a run, by default to runs/NAME")
        })?;
    }
    runs.sort_by(|one, other| one.folder.cmp(&other.folder));
    runs.dedup_by(|one, other| one.folder == other.folder);
    if arguments.format == Format::Json {
        for run in &runs {
            let when = utc(run.when).to_rfc3339_opts(SecondsFormat::Secs, true);
            let members = run.members.map(|(good, all)| json!({ "good": good, "all": all }));
            let line = json!({ "folder": run.folder, "experiment": run.experiment, "state": run.state.name(),
                "stage": run.stage, "reason": run.reason, "time": when, "seconds": run.seconds, "tables": run.tables, "members": members,
                "forks": run.forks });
            output::result(&format!("{line}\n"));
        }
        return Ok(CommandStatus::Success);
    }
    if runs.is_empty() {
        output::note("no runs here\n");
        return Ok(CommandStatus::Success);
    }
    output::result(&format!("{}\n", grid(&runs)));
    Ok(CommandStatus::Success)
}

/// The hash of the plan whose results are in a folder.
pub fn plan_of(folder: &Path) -> Option<String> {
    read::<ResultsFile>(&folder.join("results.json")).map(|results| results.plan)
}

fn visit(folder: &Path, depth: usize, found: &mut Vec<ListedRun>) -> std::io::Result<()> {
    if let Some(run) = run(folder) {
        // Its subfolders belong to it: the runs of a sweep, the previous run.
        found.push(run);
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if depth < DEEP && !hidden && entry.file_type()?.is_dir() {
            // An unreadable folder must not hide the others.
            let _ = visit(&entry.path(), depth + 1, found);
        }
    }
    Ok(())
}

fn run(folder: &Path) -> Option<ListedRun> {
    let plan: Option<PlanFile> = read(&folder.join("plan.json"));
    let sweep = SweepFolder::read(folder);
    if plan.is_none() && sweep.is_none() {
        return None;
    }
    let results: Option<ResultsFile> = read(&folder.join("results.json"));
    // Results of another plan are from an earlier run.
    let results = results.filter(|results| plan.as_ref().is_none_or(|plan| plan.hash == results.plan));
    let results = results.filter(|_| !ResultsFolder::at(folder).is_undecided());
    let folders = sweep.as_ref().map(|sweep| sweep.folders(folder)).unwrap_or_default();
    let good = |sweep: &SweepFolder| sweep.members.iter().filter(|member| member.good).count();
    let members = sweep.as_ref().map(|sweep| (good(sweep), sweep.members.len()));
    let complete = results.is_some() && members.is_none_or(|(good, all)| good == all);
    let running = Lock::is_held(&folder.join(LOCK));
    let mut ends = Vec::new();
    if running || !complete {
        match &sweep {
            None => ends.extend(End::of(folder, "")),
            Some(_) => ends
                .extend(folders.iter().filter_map(|run| End::of(run, &run.file_name()?.to_string_lossy()))),
        }
    }
    let state = match () {
        () if running => State::Running,
        () if complete => State::Finished,
        () if ends.iter().any(|end| end.failed) => State::Failed,
        () => State::Unfinished,
    };
    let written = |name: &str| std::fs::metadata(folder.join(name)).and_then(|found| found.modified()).ok();
    let when = results.as_ref().and_then(|_| written("results.json"));
    let when = when.or_else(|| written("plan.json")).or_else(|| written("sweep.json"))?;
    let experiment = match (plan, &results, sweep) {
        (Some(plan), ..) => plan.experiment.name,
        (None, Some(results), _) => results.experiment.clone(),
        (None, None, sweep) => sweep.map(|sweep| sweep.experiment).unwrap_or_default(),
    };
    let seconds: Option<f64> = match members {
        None => whole_seconds(folder),
        Some(_) => folders.iter().filter_map(|run| whole_seconds(run)).reduce(|all, one| all + one),
    };
    let (tables, forks) = results.map(|results| (results.tables, results.forks)).unwrap_or_default();
    let joined =
        |texts: Vec<String>| texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    let reason = joined(ends.iter().map(|end| end.reason.clone()).collect());
    Some(ListedRun {
        folder: folder.to_owned(),
        experiment,
        state,
        when,
        seconds,
        stage: joined(ends.into_iter().map(|end| end.stage).collect()),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        tables: tables.into_iter().map(|table| table.name).collect(),
        members,
        forks,
    })
}

/// How far a run came that is not finished, as texts.
struct End {
    stage: String,
    reason: String,
    failed: bool,
}

impl End {
    /// `name` is that of a run of a sweep. `None` without events.
    fn of(run: &Path, name: &str) -> Option<End> {
        let FollowedEvents { so_far, status } = FollowedEvents::of(run).ok()?;
        let named =
            |text: String| if name.is_empty() || text.is_empty() { text } else { format!("{name}: {text}") };
        let (stage, reason) = (named(status.stages()), named(status.ended.clone().unwrap_or_default()));
        (so_far.read > 0).then_some(End { stage, reason, failed: status.failure.is_some() })
    }
}

/// `None` also for a file that does not come from a run.
fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn grid(runs: &[ListedRun]) -> Grid {
    let now = SystemTime::now();
    let mut grid = Grid::new();
    grid.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    grid.force_no_tty().set_header([
        "folder",
        "experiment",
        "state",
        "stage",
        "when",
        "took",
        "tables",
        "reason",
    ]);
    for run in runs {
        let members = run
            .members
            .map_or_else(String::new, |(good, all)| format!(", {good} of {}", counted(all, "run")));
        grid.add_row([
            printable(&run.folder.display().to_string()),
            printable(&run.experiment),
            format!("{}{members}{}", run.state.name(), if run.forks.is_empty() { "" } else { ", forked" }),
            run.stage.clone(),
            format!("{} ago", duration(age(run.when, now).as_secs_f64())),
            run.seconds.map(duration).unwrap_or_default(),
            printable(&run.tables.join(", ")),
            run.reason.clone().unwrap_or_default(),
        ]);
    }
    if let Some(column) = grid.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    grid
}
