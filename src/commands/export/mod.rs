//! `mopd export`: writes a run in the file format of another program.

mod engine;
mod live;
mod report;
mod rows;
mod tensorboard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopd_plan::events::{Job, MergedJob, MetricsRow};
use mopd_store::files::folder_of_model;

pub use self::engine::located;
pub use self::live::LiveEventFiles;
use self::tensorboard::{Events, ScalarRecord};
use crate::args::ExportArgs;
use crate::host::as_text;
use crate::metrics::{
    LearnerTurns, NAMED, OF_DOMAIN, OF_STEP, REWARD_PART, WholeStep, domain, gathered, number, step_of,
    totals_of_steps,
};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::{ColumnTable, METRICS, RunFolder};
use crate::worker;

/// The folder of the event files in a run's folder, and the file name in the folder of each series.
/// TensorBoard looks for `tfevents`.
const FOLDER: &str = "tensorboard";
const FILE: &str = "events.out.tfevents.0.mopd";

pub fn export(arguments: &ExportArgs) -> Result<CommandStatus, Problem> {
    if arguments.merged {
        return merged(arguments);
    }
    if let Some(engine) = arguments.engine {
        return engine::export(engine, arguments);
    }
    if !arguments.tensorboard && arguments.path.is_file() {
        return engine::matrix(arguments);
    }
    if !arguments.tensorboard {
        let message =
            format!("{} is a folder: write `--tensorboard` to export its run", arguments.path.display());
        return Err(Problem::usage("usage", message)
            .help("of an experiment's file, `mopd export FILE` lists what engines can train"));
    }
    let Some(out) = event_files(&arguments.path, arguments.out.as_deref())? else {
        let message =
            format!("{} has no {METRICS} with steps: no stage has trained yet", arguments.path.display());
        return Err(Problem::usage("no-results", message));
    };
    output::result(&format!("{}\n", out.display()));
    Ok(CommandStatus::Success)
}

/// Writes the whole model of a folder with an adapter.
fn merged(arguments: &ExportArgs) -> Result<CommandStatus, Problem> {
    let Some(out) = &arguments.out else {
        let message = "name the folder for the whole model: `--out DIR`";
        return Err(Problem::usage("usage", message));
    };
    if !arguments.path.is_dir() {
        let message = format!("there is no folder {}", arguments.path.display());
        return Err(Problem::usage("no-checkpoint", message)
            .help("name the folder of a model with an adapter, such as runs/NAME/models/STAGE-seed1"));
    }
    let job = MergedJob { folder: as_text(&arguments.path)?, out: as_text(out)? };
    let status = worker::ask(&Job::Merged(job), |failure| failure.into(), |_| {})?;
    if !status.success() {
        return Err(worker::death(status));
    }
    output::result(&format!("{}\n", out.display()));
    Ok(CommandStatus::Success)
}

/// Writes the event files of the run in a folder, to its subfolder `tensorboard` unless another place is
/// given. Returns their folder; `None` for a run without training.
pub fn event_files(run: &Path, out: Option<&Path>) -> Result<Option<PathBuf>, Problem> {
    let run = RunFolder::open(run)?;
    let [metrics] = run.tables([METRICS])?;
    let turns = LearnerTurns::of(&run.plan);
    let series = metrics.as_ref().map(|metrics| series(metrics, &turns)).unwrap_or_default();
    if out.is_none() {
        forget_others(&run.path.join(FOLDER), &series);
    }
    if series.is_empty() {
        return Ok(None);
    }
    let out = out.map_or_else(|| run.path.join(FOLDER), Path::to_owned);
    for (name, events) in series {
        write(&out.join(name), &events)?;
    }
    Ok(Some(out))
}

/// A results folder has only the curves of its own run: removes series of an earlier run, of stages or seeds
/// that are no longer in the text. Other files stay.
fn forget_others(folder: &Path, series: &BTreeMap<String, Events>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| series.contains_key(name)) {
            // A series that can't be removed is one curve too many, but no reason to omit the others.
            let _ = std::fs::remove_file(entry.path().join(FILE));
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// The events of every stage and seed, by folder, which TensorBoard shows as the series' name.
fn series(metrics: &ColumnTable, turns: &LearnerTurns) -> BTreeMap<String, Events> {
    let mut all: BTreeMap<String, Events> = BTreeMap::new();
    let totals = totals_of_steps(metrics, 0..metrics.rows(), turns);
    let mut first_rows = turns.first_rows(metrics, 0..metrics.rows()).into_iter().peekable();
    for rows in gathered(metrics, 0..metrics.rows(), "domain") {
        let row = rows[0];
        let name = folder_of_model(metrics.text("stage", row), metrics.whole("seed", row));
        let (step, domain) = (metrics.whole("step", row), domain(metrics, row));
        let events = all.entry(name).or_default();
        let numbers = |names: &[&str], suffix: &str| {
            let number = |name: &&str| {
                Some(ScalarRecord { tag: format!("{name}{suffix}"), value: number(metrics, name, &rows)? })
            };
            names.iter().filter_map(number).collect::<Vec<_>>()
        };
        // The rows of a step are adjacent.
        if events.begins(step) {
            let totals = totals.get(&step_of(metrics, row));
            let seconds = totals.and_then(|totals| totals.seconds).unwrap_or(0.0);
            let speed = totals.and_then(WholeStep::tokens_per_second);
            let speed = speed.map(|value| ScalarRecord { tag: "tokens_per_second".to_owned(), value });
            events.step(step, metrics.number("time", row), seconds, speed.into_iter().collect());
        }
        // Each row of a turn has the numbers of the whole turn: of the step, where one model learns.
        if first_rows.next_if_eq(&row).is_some() {
            let suffix = match turns.of_row(metrics, row) {
                "" => String::new(),
                turn => format!(" ({turn})"),
            };
            events.add(numbers(&OF_STEP, &suffix));
            let named: Vec<&str> = NAMED.iter().flat_map(|prefix| metrics.columns(prefix)).collect();
            events.add(numbers(&named, &suffix));
        }
        events.add(numbers(&OF_DOMAIN, &format!("/{domain}")));
        events.add(numbers(&["divergence_floor"], &format!("/{domain}")));
        let parts: Vec<&str> = metrics.columns(REWARD_PART).collect();
        events.add(numbers(&parts, &format!("/{domain}")));
    }
    all
}

/// The numbers of a step for a tracker, by their tags in event files.
pub fn scalars(rows: &[MetricsRow], turns: &LearnerTurns) -> BTreeMap<String, f64> {
    let all = series(&ColumnTable::from_rows(rows), turns);
    all.values().flat_map(Events::scalars).map(|scalar| (scalar.tag.clone(), scalar.value)).collect()
}

fn write(folder: &Path, events: &Events) -> Result<(), Problem> {
    let (path, bytes) = (folder.join(FILE), events.bytes());
    // Programs that follow a growing file continue where it ended: so an unchanged file is not rewritten.
    if std::fs::read(&path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, bytes)).map_err(|error| {
        Problem::unwritten(&path, &error)
            .help("`mopd export --tensorboard --out DIR` writes them to another place")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_a_step_have_tags_of_their_own() {
        let (metrics, turns) = crate::metrics::pair();
        let all = series(&metrics, &turns);
        let of = |tag: &str| {
            let own = all.values().flat_map(Events::scalars).filter(|scalar| scalar.tag == tag);
            own.map(|scalar| scalar.value).collect::<Vec<f64>>()
        };
        assert_eq!((of("loss (follow)"), of("loss (lead)")), (vec![0.5, 0.25], vec![4.0]));
        assert_eq!((of("loss"), of("tokens_per_second")), (vec![], vec![9.6, 8.0]));
        // The same numbers where one model learns.
        let all = series(&metrics, &LearnerTurns::default());
        let losses = all.values().flat_map(Events::scalars).filter(|scalar| scalar.tag == "loss");
        assert_eq!(losses.map(|scalar| scalar.value).collect::<Vec<f64>>(), [0.5, 0.25]);
    }
}
