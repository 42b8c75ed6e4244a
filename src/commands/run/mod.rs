//! `mopd run`: checks, compiles, sends the plan to the worker, shows progress, and prints the tables.

pub mod engine;
mod tracker;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use mopd_lang::diag::nearest;
use mopd_plan::Plan;
use mopd_plan::events::{Event, Failure, FailureKind, Job, Predict, RunJob};
use mopd_plan::results::{Results, RowDifferences};

use self::tracker::Tracker;
use super::export::LiveEventFiles;
use super::{Compiled, export, plan_json, report, sweep};
use crate::archive;
use crate::args::{Format, RunArgs};
use crate::headline::headline;
use crate::host::{as_text, folder_of, reason};
use crate::output::{self, Style, printable};
use crate::problem::{CommandStatus, Problem};
use crate::progress::{LOG_EVERY, ProgressPrinter, RunProgress, TICK, utc};
use crate::provenance::{EarlierPieces, PROVENANCE, RunProvenance};
use crate::render;
use crate::run_events::{EventFile, json_line};
use crate::run_time::pieces_before;
use crate::table;
use crate::worker::interrupts::Interrupts;
use crate::worker::killed::{self, ActiveStage};
use crate::worker::{self, Kill, Worker, WorkerMessage};
use mopd_store::results_folder::MODULES;
use mopd_store::{Folder, StoreItemKind, WriteError};

/// The store of finished stages, shared by all runs in a folder.
pub const STORE: &str = ".mopd/store";

pub fn run(arguments: &RunArgs) -> Result<CommandStatus, Problem> {
    let checked = sweep::check(&arguments.file, &arguments.overrides.set, &mut |_| ())?;
    report(&checked.analysis);
    output::error(&checked.refused_text());
    match checked.sweep {
        Some(sweep) => sweep::run(arguments, &sweep),
        None => Ok(CommandStatus::Failure),
    }
}

/// Writes the event files of `--tensorboard` for a finished run.
pub fn event_files(out: &Path) -> Result<(), Problem> {
    match export::event_files(out, None)? {
        Some(folder) => output::note(&format!("event files in {}\n", folder.display())),
        None => output::note("no event files: no stage trains in this run\n"),
    }
    Ok(())
}

/// Runs one plan. `table` says whether to print its tables.
pub fn run_plan(
    arguments: &RunArgs,
    compiled: &Compiled,
    out: &Path,
    table: bool,
) -> Result<CommandStatus, Problem> {
    let from = stages_named(&arguments.from, compiled)?;
    details(compiled, out);
    let engine = engine::engine(arguments, &compiled.plan)?;
    let earlier = if arguments.fresh { None } else { pieces_before(out, &compiled.plan.hash) };
    provenance(out, compiled, earlier)?;
    let job = Job::Run(Box::new(RunJob {
        fresh: arguments.fresh,
        from,
        checkpoint_every: arguments.checkpoint_every,
        workers: arguments.workers,
        engine,
        predict: arguments.predict.into(),
        ..job_of(&compiled.plan, &arguments.file, out)?
    }));

    let mut progress = {
        let seeds = compiled.plan.experiment.comparisons.iter().any(|comparison| comparison.seeds > 1);
        RunProgress::new(seeds, arguments.resume, arguments.log_every.unwrap_or(LOG_EVERY))
    };
    let printer = progress.printer();
    let tracker = arguments.tracker.as_ref();
    let mut followers = Followers {
        format: arguments.format,
        events: written(EventFile::open(out), &printer),
        event_files: arguments.tensorboard.then(|| LiveEventFiles::new(&compiled.plan, out)),
        tracker: tracker
            .map(|command| Tracker::start(command, compiled, out, printer.clone()))
            .transpose()?,
        differences: Vec::new(),
    };
    let worker = {
        let printer = printer.clone();
        Worker::start(&job, move |line| printer.warn(&format!("{}\n", output::printable(line))))?
    };
    let interrupts = Interrupts::handled();
    let forwarding = interrupts.forward_to(&worker, move |text| printer.warn(text));
    let ending = follow(worker, &mut progress, &mut followers);
    drop(forwarding);
    progress.close();
    if let Some(tracker) = followers.tracker.take() {
        tracker.finish();
    }
    let (last, status) = ending?;

    match last {
        // After a signal, the signal is the reason for any other error, for example that of a reward program
        // which got the signal too.
        Some(Event::Failed(failure)) if !interrupts.any() => {
            report_failure(&failure, compiled, &progress);
            Ok(CommandStatus::Failure)
        }
        Some(Event::Finished { seconds, peak_memory }) => {
            if !status.success() {
                output::error(&format!(
                    "warning: all results are written, but the worker exited with an error ({status})\n"
                ));
            }
            let differences = (table && arguments.format == Format::Human).then_some(&*followers.differences);
            finish(out, compiled, differences, seconds, peak_memory)
        }
        Some(Event::Interrupted { .. }) => Ok(interrupted(&progress)),
        _ if interrupts.any() => Ok(interrupted(&progress)),
        _ => {
            let problem = match status.signal() {
                Some(9) => killed::of_run(&compiled.plan, &progress.at_work(), progress.to_come()),
                _ => worker::death(status),
            };
            let failure = failure_of(&problem, progress.at_work().first());
            followers.write(&Event::Failed(failure), &progress);
            problem.report();
            progress.say_last(&stored(&progress));
            Ok(CommandStatus::Failure)
        }
    }
}

/// A job that runs a file's plan with default options.
pub fn job_of(plan: &Plan, file: &Path, out: &Path) -> Result<RunJob, Problem> {
    Ok(RunJob {
        plan: plan.clone(),
        base: as_text(&folder_of(file))?,
        store: STORE.to_owned(),
        out: as_text(out)?,
        fresh: false,
        from: Vec::new(),
        checkpoint_every: None,
        forks: Vec::new(),
        workers: None,
        engine: None,
        predict: Predict::default(),
    })
}

/// Reports the details that `--verbose` shows before a run.
fn details(compiled: &Compiled, out: &Path) {
    for (_, file) in compiled.sources.files() {
        output::detail(&format!("read {}\n", file.path));
    }
    let plan = &compiled.plan;
    output::detail(&format!("plan {}, results in {}, store {STORE}\n", plan.hash, out.display()));
    for (model, facts) in plan.experiment.models.iter().zip(&plan.stages) {
        output::detail(&format!("{}: key {}\n", model.name, facts.key));
    }
}

/// The receivers of every event, besides the progress display.
struct Followers {
    format: Format,
    /// `None` after a write error, which is reported once.
    events: Option<EventFile>,
    /// `None` after a write error, which is reported once.
    event_files: Option<LiveEventFiles>,
    tracker: Option<Tracker>,
    /// What the worker found between the rows of the tables.
    differences: Vec<RowDifferences>,
}

impl Followers {
    /// To the run's events, for `mopd ls` and `mopd report`.
    fn write(&mut self, event: &Event, progress: &RunProgress) {
        if let Some(events) = &mut self.events
            && written(events.note(event), &progress.printer()).is_none()
        {
            self.events = None;
        }
    }

    fn note(&mut self, event: &Event, progress: &RunProgress) {
        if self.format == Format::Json {
            output::result(&json_line(event));
        }
        self.write(event, progress);
        if let (Event::Step { step, rows, .. }, Some(files)) = (event, &mut self.event_files)
            && let Err(WriteError { path, source }) = files.step(*step, rows)
        {
            progress.printer().warn(&format!(
                "warning: can't write {}: {}; the event files are written at the end of the run\n",
                path.display(),
                reason(&source)
            ));
            self.event_files = None;
        }
        if let Event::Differences { tables } = event {
            self.differences.clone_from(tables);
        }
        if let Some(tracker) = &mut self.tracker {
            tracker.note(event);
        }
    }
}

/// The end of a worker that could not say it itself.
fn failure_of(problem: &Problem, at_work: Option<&ActiveStage>) -> Failure {
    Failure {
        kind: FailureKind::Runtime,
        message: problem.message().to_owned(),
        help: problem.help_text().map(str::to_owned),
        origin: None,
        stage: at_work.map(|at| at.stage.clone()),
        seed: at_work.and_then(|at| at.seed),
        step: at_work.map(|at| at.step).filter(|step| *step > 0),
    }
}

/// The result of writing the run's events; `None` with a warning after an error.
fn written<T>(done: Result<T, WriteError>, printer: &ProgressPrinter) -> Option<T> {
    let said = |WriteError { path, source }: WriteError| {
        printer.warn(&format!(
            "warning: can't write {}: {}; `mopd report --live` does not show this run\n",
            path.display(),
            reason(&source)
        ));
    };
    done.map_err(said).ok()
}

/// Reads the worker's events until it ends. Returns the final event of the job, if there was one.
fn follow(
    mut worker: Worker,
    progress: &mut RunProgress,
    followers: &mut Followers,
) -> Result<(Option<Event>, ExitStatus), Problem> {
    let mut last = None;
    let killer = worker.killer();
    worker.each(TICK, |said| {
        match said {
            None => progress.tick(),
            Some(WorkerMessage::Event(event)) => {
                followers.note(&event, progress);
                if let Event::Ready { versions, .. } = &event {
                    check_version(&versions.mopd, &killer)?;
                }
                progress.note(&event);
                if matches!(event, Event::Failed(_) | Event::Interrupted { .. } | Event::Finished { .. }) {
                    last = Some(event);
                }
            }
            Some(WorkerMessage::Text(text)) => progress.printer().warn(&format!("{text}\n")),
        }
        Ok(())
    })?;
    Ok((last, worker.wait()?))
}

/// A worker of another version may read the plan differently: stops before it trains.
pub fn check_version(theirs: &str, kill: &Kill) -> Result<(), Problem> {
    let ours = env!("CARGO_PKG_VERSION");
    if theirs == ours {
        return Ok(());
    }
    kill.kill();
    Err(Problem::run(
        "worker-protocol",
        format!("mopd is version {ours}, but mopd-worker is version {theirs}"),
    )
    .help("build both with `./x build`, or set MOPD_WORKER to the one that belongs to this mopd"))
}

/// The stages that `--from` names. The name of a family means all of its members.
pub fn stages_named(wanted: &[String], compiled: &Compiled) -> Result<Vec<String>, Problem> {
    let names: Vec<&str> = compiled.plan.experiment.models.iter().map(|model| model.name.as_str()).collect();
    let sweep = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for wanted in wanted {
        let meant = names
            .iter()
            .filter(|name| *name == wanted || sweep(name) == *wanted)
            .map(|name| (*name).to_owned());
        let before = found.len();
        found.extend(meant);
        if found.len() == before {
            let problem = Problem::usage("unknown-stage", format!("the experiment has no stage `{wanted}`"));
            return Err(match nearest(wanted, names.iter().copied()) {
                Some(meant) => problem.help(format!("did you mean `--from '{meant}'`?")),
                None => problem.help(format!("its stages are {}", names.join(", "))),
            });
        }
    }
    Ok(found)
}

/// Writes the sources of the results: the experiment, the modules that it imports from its folder, and the
/// plan. Results of another plan are moved away first.
pub fn provenance(out: &Path, compiled: &Compiled, earlier: Option<EarlierPieces>) -> Result<(), Problem> {
    let plan = plan_json(&compiled.plan)?;
    let mut sources = compiled.sources.files();
    let mut files: Vec<(PathBuf, &str)> = Vec::new();
    if let Some((_, entry)) = sources.next() {
        files.push((PathBuf::from("source.mopd"), &entry.text));
    }
    // The other files are those of the standard library, which come with mopd, and `--set` values, which are
    // in the plan.
    let is_module = |path: &Path| path.extension().is_some_and(|extension| extension == "mopd");
    for (_, module) in
        sources.filter(|(_, file)| !file.path.starts_with("std:") && is_module(Path::new(&file.path)))
    {
        files.push((Path::new(MODULES).join(name_of_module(compiled, &module.path)), &module.text));
    }
    let entry = compiled.sources.files().next().map(|(_, entry)| folder_of(Path::new(&entry.path)));
    let started = RunProvenance::now(entry.as_deref().unwrap_or(Path::new(".")), &compiled.set, utc());
    let started = RunProvenance { earlier, ..started };
    let started = serde_json::to_string_pretty(&started)
        .map_err(|error| Problem::run("plan-not-written", format!("cannot write {PROVENANCE}: {error}")))?;
    files.push((PathBuf::from(PROVENANCE), &started));
    files.push((PathBuf::from("plan.json"), &plan));
    let files: Vec<(&Path, &str)> = files.iter().map(|(path, text)| (path.as_path(), *text)).collect();
    archive::begin(out, &compiled.plan.hash, &files)
}

/// The path of a module from the folder of the experiment: two modules in different folders may have the same
/// file name.
fn name_of_module(compiled: &Compiled, module: &str) -> PathBuf {
    let entry = compiled.sources.files().next().map(|(_, entry)| Path::new(&entry.path).with_file_name(""));
    let module = Path::new(module);
    let inside = entry.and_then(|folder| module.strip_prefix(folder).ok()).unwrap_or(module);
    crate::run_folder::copied_path(inside)
}

fn report_failure(failure: &Failure, compiled: &Compiled, progress: &RunProgress) {
    let report = render::of_failure(failure, &compiled.plan, &compiled.sources);
    output::error(&render::human::report(&report, Style::of_stderr()));
    progress.say_last(&stored(progress));
}

fn interrupted(progress: &RunProgress) -> CommandStatus {
    progress.say_last(&format!("interrupted\n{}run the same command again to resume\n", stored(progress)));
    CommandStatus::Interrupted
}

/// Where the finished stages are stored, as text.
fn stored(progress: &RunProgress) -> String {
    // Results may have been deleted meanwhile.
    let store = Path::new(STORE);
    let items = store.is_dir().then(|| Folder::at(store).items().ok()).flatten();
    let results = items.map(|items| items.iter().filter(|item| item.kind == StoreItemKind::Result).count());
    let done = results.map_or(progress.stored(), |results| progress.stored().min(results as u32));
    let finished = match done {
        0 => "no stage was finished".to_owned(),
        _ => format!("{done} of {} stages are finished and kept in {STORE}", progress.tasks.max(done)),
    };
    let at_work = progress.checkpoints();
    match (done, at_work.as_slice()) {
        (0, []) => format!("{finished}\n"),
        (_, []) => format!("{finished}; the next run reuses them\n"),
        (_, at_work) => format!(
            "{finished}, and a checkpoint of {}; the next run resumes from there\n",
            at_work.join(", ")
        ),
    }
}

/// The results file of a finished run.
pub fn results(out: &Path) -> Result<Results, Problem> {
    let path = out.join("results.json");
    let broken = |why: String| {
        Problem::run("no-results", format!("the run is finished, but {}: {why}", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| broken(reason(&error)))?;
    serde_json::from_str(&text).map_err(|error| broken(error.to_string()))
}

/// Prints the tables, if their differences are given, and what the run took.
fn finish(
    out: &Path,
    compiled: &Compiled,
    differences: Option<&[RowDifferences]>,
    seconds: f64,
    peak_memory: u64,
) -> Result<CommandStatus, Problem> {
    let results = results(out)?;
    if differences.is_some() {
        output::result(&table::show(&results, &compiled.plan, Style::of_stdout()));
    }
    output::note(&table::stages(&results.stages));
    output::note(&format!(
        "{}, results in {}\n",
        table::whole(&results, seconds, peak_memory),
        out.display()
    ));
    if let Some(headline) = differences.and_then(|found| headline(&compiled.plan, &results, found)) {
        output::note(&format!("{headline}\n"));
        for loss in &headline.losses {
            output::note(&printable(&format!("to read what was lost: {}\n", loss.command(out))));
        }
    }
    Ok(CommandStatus::Success)
}
