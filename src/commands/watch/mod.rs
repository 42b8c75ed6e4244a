//! `mopd watch`: checks at every save. If there are no errors, it prints what changed in meaning and runs
//! only that. The active run continues until a valid text replaces it, and a stage that the edit does not
//! affect loses no step.

mod files;
mod fork;
mod jobs;
mod line_output;
mod standing;
mod ui;
mod view;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mopd_lang::ide::{ENTRY, kept_as_variant};
use mopd_plan::difference::{PlanDifference, of_families};
use mopd_plan::events::WorkerRequest;
use mopd_plan::results::Results;
use mopd_store::results_folder::ResultsFolder;
use mopd_store::signals::on_termination;

use self::files::{ChangedFiles, InputFiles};
use self::fork::StartedSweep;
use self::standing::StandingWarnings;
use self::ui::{Ui, WatchMessage};
use super::run;
use super::sweep::{self, CheckedSweep, Sweep};
use crate::args::WatchArgs;
use crate::host::{self, folder_of};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_events::EventFile;
use crate::run_lock::RunLock;
use crate::run_time::known_pieces;
use crate::worker::{self, Kill, Requests, WorkerMessage};

/// The pause after which a save counts as complete: editors write in pieces.
const QUIET: Duration = Duration::from_millis(15);
/// A file that is written continuously is checked after this time.
const AT_MOST: Duration = Duration::from_millis(150);
/// How long an empty or missing file counts as being written.
const WRITING: Duration = Duration::from_millis(300);
/// The pause after a save before a run; longer after a second save within [`BURST`].
const SETTLED: Duration = Duration::from_millis(120);
const SETTLED_IN_A_BURST: Duration = Duration::from_millis(400);
const BURST: Duration = Duration::from_millis(1500);
/// The interval of checks where the file system sends no events.
const LOOK: Duration = Duration::from_millis(1000);

/// An event from outside.
enum WatchEvent {
    /// A file may have changed.
    Hint,
    /// Ctrl-C, `kill`, or a closed terminal.
    Interrupt,
    Key(view::Key),
    /// The terminal has another size.
    Resized,
    /// A message of the worker with this number.
    Message {
        worker: u32,
        message: Box<WorkerMessage>,
    },
    Stderr(String),
    /// It ended: how, or why that is not known.
    Gone {
        worker: u32,
        problem: Option<Problem>,
    },
}

pub fn watch(arguments: &WatchArgs) -> Result<CommandStatus, Problem> {
    if host::is_standard_input(&arguments.file) {
        let message = "`watch` waits for saves of a file, but standard input is not a file";
        return Err(Problem::usage("mixed-input", message).help("name the file"));
    }
    host::read(&arguments.file)?;
    if !arguments.check {
        worker::find()?;
    }
    let (sender, events) = channel();
    let hints = sender.clone();
    let interrupts = sender.clone();
    // The receiver is gone only at the very end.
    let installed = on_termination(move || _ = interrupts.send(WatchEvent::Interrupt));
    if let Err(error) = installed {
        output::error(&format!("warning: Ctrl-C will stop this at once: {error}\n"));
    }
    let session = WatchSession {
        arguments,
        ui: Ui::new(arguments, &sender),
        standing: StandingWarnings::default(),
        files: InputFiles::new(move || _ = hints.send(WatchEvent::Hint)),
        sender,
        check_at: Some(Instant::now()),
        hinted: None,
        unwritten_since: None,
        start_at: None,
        saved: Vec::new(),
        latest: None,
        texts: [None, None],
        waiting: None,
        data_changed: false,
        job: None,
        written: None,
        before: None,
        lock: None,
        retry: false,
        worker: None,
        workers: 0,
        quits: 0,
    };
    session.follow(&events)
}

/// The current runs: members of a sweep, one after the other. The current member follows those that ended.
struct RunningSweep {
    started: StartedSweep,
    folder: PathBuf,
    /// The lock of the current member's own folder.
    held: Option<RunLock>,
    /// The results of each member that ended; `None` if it failed.
    ended: Vec<Option<Results>>,
    /// Whether the worker got a job for any of them.
    began: bool,
    stopping: bool,
}

/// The current worker.
struct WorkerHandle {
    number: u32,
    requests: Requests,
    kill: Kill,
}

struct WatchSession<'a> {
    arguments: &'a WatchArgs,
    ui: Ui,
    standing: StandingWarnings,
    files: InputFiles,
    sender: Sender<WatchEvent>,
    /// When files will be checked, and when the first hint of this came.
    check_at: Option<Instant>,
    hinted: Option<Instant>,
    /// Since when the file has been empty or missing.
    unwritten_since: Option<Instant>,
    /// When the waiting sweep starts.
    start_at: Option<Instant>,
    /// The times of the last saves.
    saved: Vec<Instant>,
    /// The last valid text, which is running, has run or is waiting.
    latest: Option<Rc<Sweep>>,
    /// The last valid text, and the one before it.
    texts: [Option<String>; 2],
    waiting: Option<Rc<Sweep>>,
    /// Whether data files have changed since the last runs began: the current runs use the old ones.
    data_changed: bool,
    job: Option<RunningSweep>,
    /// The events file of the current member.
    written: Option<EventFile>,
    /// The runs before the next ones.
    before: Option<StartedSweep>,
    /// The lock of the last results folder that was written to.
    lock: Option<RunLock>,
    /// Whether some of the last runs did not finish: then even an unchanged text is run again.
    retry: bool,
    worker: Option<WorkerHandle>,
    workers: u32,
    quits: u32,
}

impl WatchSession<'_> {
    fn follow(mut self, events: &Receiver<WatchEvent>) -> Result<CommandStatus, Problem> {
        loop {
            let now = Instant::now();
            if self.check_at.is_some_and(|at| at <= now) {
                self.check_at = None;
                self.hinted = None;
                self.look()?;
            }
            if self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start_at = None;
                self.start();
            }
            if self.quits > 0 && self.job.is_none() {
                self.ui.close();
                return Ok(if self.retry { CommandStatus::Interrupted } else { CommandStatus::Success });
            }
            let frame = self.ui.refresh()?;
            let deadline = [self.check_at, self.start_at].into_iter().flatten().min();
            let wait = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK));
            let wait = frame.map_or(wait, |frame| frame.min(wait));
            match events.recv_timeout(wait) {
                Ok(event) => self.handle(event)?,
                Err(RecvTimeoutError::Timeout) if wait == LOOK => self.check_at = Some(Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the session holds a sender itself"),
            }
        }
    }

    fn handle(&mut self, event: WatchEvent) -> Result<(), Problem> {
        match event {
            WatchEvent::Hint => {
                let now = Instant::now();
                let first = *self.hinted.get_or_insert(now);
                self.check_at = Some((now + QUIET).min(first + AT_MOST));
            }
            WatchEvent::Interrupt => self.quit(),
            WatchEvent::Key(key) => {
                let action = match &mut self.ui {
                    Ui::View(view) => view.key(key),
                    _ => view::Action::Nothing,
                };
                match action {
                    view::Action::Quit => self.quit(),
                    view::Action::KeepVariant => self.keep_variant(),
                    view::Action::Nothing => {}
                }
            }
            WatchEvent::Resized => {
                if let Ui::View(view) = &mut self.ui {
                    view.resized();
                }
            }
            WatchEvent::Stderr(line) => self.ui.note(&WatchMessage::Said(&output::printable(&line))),
            WatchEvent::Message { worker, message } if self.is_current(worker) => match *message {
                WorkerMessage::Event(event) => self.event(&event)?,
                WorkerMessage::Text(text) => self.ui.note(&WatchMessage::Said(&text)),
            },
            WatchEvent::Gone { worker, problem } if self.is_current(worker) => {
                self.worker = None;
                if let Some(problem) = problem {
                    self.ui.note(&WatchMessage::Problem(&problem));
                }
                if let Some(job) = self.job.take() {
                    self.ended(job, None);
                }
            }
            WatchEvent::Message { .. } | WatchEvent::Gone { .. } => {}
        }
        Ok(())
    }

    fn is_current(&self, number: u32) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.number == number)
    }

    /// The first time, the current run ends at its next step; the second time, at once.
    fn quit(&mut self) {
        self.quits += 1;
        self.waiting = None;
        self.start_at = None;
        if self.job.is_none() {
            return;
        }
        if self.quits == 1 {
            self.stop();
        }
        match &self.worker {
            Some(worker) if self.quits > 1 => worker.kill.kill(),
            // A request without data can always be serialised.
            Some(worker) => _ = worker.requests.send(&WorkerRequest::End),
            None => {}
        }
    }

    fn stop(&mut self) {
        if let (Some(job), Some(worker)) = (&mut self.job, &self.worker)
            && !job.stopping
        {
            job.stopping = true;
            // A stop can always be serialised.
            let _ = worker.requests.send(&WorkerRequest::Stop);
            self.ui.note(&WatchMessage::Stopping);
        }
    }

    /// Checks whether files have changed, and reads them.
    fn look(&mut self) -> Result<(), Problem> {
        let first = self.latest.is_none() && self.files.count() == (0, 0);
        let ChangedFiles { sources, data } =
            if first { ChangedFiles { sources: true, data: Vec::new() } } else { self.files.changed() };
        if self.quits > 0 || (!sources && data.is_empty() && self.unwritten_since.is_none()) {
            return Ok(());
        }
        if sources || self.unwritten_since.is_some() {
            self.check(first)?;
        }
        if !data.is_empty() && !self.arguments.check {
            self.data_changed = true;
            if self.waiting.is_none() {
                self.ui.note(&WatchMessage::Data(&data));
                self.waiting = self.latest.clone();
                self.settle();
            }
        }
        if first {
            let (sources, data) = self.files.count();
            self.ui.note(&WatchMessage::Watching { path: &self.arguments.file, sources, data });
        }
        Ok(())
    }

    fn check(&mut self, first: bool) -> Result<(), Problem> {
        let path = &self.arguments.file;
        let length = std::fs::metadata(path).map_or(0, |found| found.len());
        if length == 0 && !first {
            let since = *self.unwritten_since.get_or_insert_with(Instant::now);
            if since.elapsed() < WRITING {
                self.check_at = Some(Instant::now() + QUIET);
                return Ok(());
            }
        }
        self.unwritten_since = None;
        let mut sources = BTreeSet::new();
        let files = &mut self.files;
        let checked = sweep::check(path, &self.arguments.overrides.set, &mut |file| {
            files.look_at(file);
            sources.insert(file.to_owned());
        });
        // A file may have changed since it was read: it is checked once more.
        self.check_at = self.check_at.or(Some(Instant::now() + QUIET));
        self.files.follow_sources(sources);
        let checked = match checked {
            Ok(checked) => checked,
            Err(problem) => {
                self.ui.note(&WatchMessage::Unreadable(&problem));
                return Ok(());
            }
        };
        let refused = checked.refused_text();
        let CheckedSweep { analysis, sweep, .. } = checked;
        let (clean, running) = (sweep.is_some(), self.job.is_some());
        let news = self.standing.news(&analysis, clean);
        let checked =
            WatchMessage::Checked { analysis: &analysis, news: &news, refused: &refused, clean, running };
        self.ui.note(&checked);
        let Some(sweep) = sweep else { return Ok(()) };
        let text = &analysis.sources.file(ENTRY).text;
        if self.texts[0].as_ref() != Some(text) {
            self.texts = [Some(text.clone()), self.texts[0].take()];
        }
        self.files.follow_data(sweep.compiled().map(|(_, compiled)| &compiled.plan), &folder_of(path));
        self.clean(Rc::new(sweep));
        Ok(())
    }

    /// Handles a valid text.
    fn clean(&mut self, sweep: Rc<Sweep>) {
        let before = self.latest.replace(Rc::clone(&sweep));
        if self.arguments.check {
            if let Some(before) = before {
                self.report_edit(&difference(&before, &sweep));
            }
            return;
        }
        let Some(before) = before else {
            self.waiting = Some(sweep);
            self.start_at = Some(Instant::now());
            return;
        };
        let edit = difference(&before, &sweep);
        self.report_edit(&edit);
        // Compared with the last sweep that ran: an edit undone before it ran has no effect.
        let idle = self.job.is_none();
        let same_as_running = match &self.job {
            Some(job) => {
                !self.data_changed && !job.stopping && difference(&job.started.sweep, &sweep).is_empty()
            }
            None => edit.is_empty() && self.waiting.is_none() && !self.retry,
        };
        if same_as_running {
            self.waiting = None;
            self.start_at = None;
            if idle {
                self.provenance(&sweep);
            }
            return;
        }
        self.waiting = Some(sweep);
        self.settle();
    }

    /// Makes the last edit a model of its own, beside the model as it was.
    fn keep_variant(&mut self) {
        let path = &self.arguments.file;
        let [Some(text), Some(before)] = &self.texts else {
            return self
                .ui
                .note(&WatchMessage::Said("there is no edit yet that could be kept as a variant\n"));
        };
        let on_disk = std::fs::read_to_string(path);
        let variant = match on_disk {
            Ok(on_disk) if on_disk != *text => {
                Err("the file has changed since, so the edit is not kept as a variant")
            }
            Ok(_) => kept_as_variant(before, text),
            Err(_) => Err("the file can't be read, so the edit is not kept as a variant"),
        };
        let message = match variant.map(|variant| host::replace(path, &variant)) {
            Ok(Ok(())) => "kept as a variant\n".to_owned(),
            Ok(Err(problem)) => format!("{}\n", problem.message()),
            Err(reason) => format!("{reason}\n"),
        };
        self.ui.note(&WatchMessage::Said(&message));
    }

    fn report_edit(&mut self, edit: &PlanDifference) {
        self.ui.note(&if edit.is_empty() { WatchMessage::Nothing } else { WatchMessage::Edited(edit) });
    }

    /// Updates the text beside the results, if its meaning is that of the results.
    fn provenance(&mut self, sweep: &Sweep) {
        let folder = sweep.folder(self.arguments.out.as_deref());
        if let Err(problem) = self.hold(&folder) {
            return self.ui.note(&WatchMessage::Problem(&problem));
        }
        for (member, compiled) in sweep.compiled() {
            let out = member.out(&folder);
            let written = sweep.hold(member, &folder).and_then(|_held| {
                run::provenance(&out, compiled, known_pieces(&out))?;
                Ok(ResultsFolder::at(&out).keep_results()?)
            });
            if let Err(problem) = written {
                self.ui.note(&WatchMessage::Problem(&problem));
            }
        }
    }

    /// Locks a results folder, if it is another one than before or the lock was lost.
    fn hold(&mut self, folder: &Path) -> Result<(), Problem> {
        if self.lock.as_ref().is_none_or(|lock| !lock.is_of(folder) || lock.check().is_err()) {
            self.lock = None;
            self.lock = Some(RunLock::take(folder)?);
        }
        Ok(())
    }

    /// Starts the waiting sweep when no other save has followed for a while.
    fn settle(&mut self) {
        let now = Instant::now();
        self.saved.retain(|at| now - *at < BURST);
        self.saved.push(now);
        let quiet = if self.saved.len() > 1 { SETTLED_IN_A_BURST } else { SETTLED };
        self.start_at = Some(now + quiet);
    }
}

/// The differences that an edit makes to the runs of a file.
fn difference(before: &Sweep, after: &Sweep) -> PlanDifference {
    of_families(&before.plans(), &after.plans())
}
