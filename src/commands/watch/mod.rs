//! `mopd watch`: checks at every save. If there are no errors, it prints what changed in meaning and runs
//! only that. The active run continues until a valid text replaces it, and a stage that the edit does not
//! affect loses no step.

mod files;
mod fork;
mod jobs;
mod line_output;
mod ui;
mod view;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mopd_compiler::plan::difference::{PlanDifference, of_families};
use mopd_compiler::plan::events::WorkerRequest;
use mopd_compiler::plan::results::Results;
use mopd_store::signals::on_termination;

use self::files::{ChangedFiles, InputFiles};
use self::fork::StartedSweep;
use self::ui::{Note, Ui};
use super::run;
use super::sweep::{self, Checked, Sweep};
use crate::args::WatchArgs;
use crate::host::{self, folder_of};
use crate::output;
use crate::problem::{Problem, Status};
use crate::run_events::EventFile;
use crate::run_lock::RunLock;
use crate::worker::{self, Kill, Requests, WorkerMessage};

/// Quiet that makes a save complete: editors write in pieces.
const QUIET: Duration = Duration::from_millis(15);
/// A file that is written without end is looked at all the same.
const AT_MOST: Duration = Duration::from_millis(150);
/// How long an empty or missing file may be one that is being written.
const WRITING: Duration = Duration::from_millis(300);
/// What is run is the last text of several; after the second save within [`BURST`], the last of many.
const SETTLED: Duration = Duration::from_millis(120);
const SETTLED_IN_A_BURST: Duration = Duration::from_millis(400);
const BURST: Duration = Duration::from_millis(1500);
/// Where a file system tells nothing, files are looked at so often.
const LOOK: Duration = Duration::from_millis(1000);

/// What comes to pass outside.
enum WatchEvent {
    /// A file may be another one.
    Hint,
    /// Ctrl-C, `kill`, or a terminal that was closed.
    Interrupt,
    Key(view::Key),
    /// Of the worker with this number.
    Message {
        worker: u32,
        message: Box<WorkerMessage>,
    },
    Stderr(String),
    /// It is gone: how, or why that is not known.
    Gone {
        worker: u32,
        problem: Option<Problem>,
    },
}

pub fn watch(arguments: &WatchArgs) -> Result<Status, Problem> {
    if host::is_standard_input(&arguments.file) {
        let message = "`watch` waits for saves of a file, and standard input is none";
        return Err(Problem::usage("mixed-input", message).help("name the file"));
    }
    host::read(&arguments.file)?;
    if !arguments.check {
        worker::find()?;
    }
    let (sender, events) = channel();
    let hints = sender.clone();
    let interrupts = sender.clone();
    // Whoever would hear it is gone only at the end.
    let installed = on_termination(move || _ = interrupts.send(WatchEvent::Interrupt));
    if let Err(error) = installed {
        output::error(&format!("warning: Ctrl-C ends this at once: {error}\n"));
    }
    let session = WatchSession {
        arguments,
        ui: Ui::new(arguments, &sender),
        files: InputFiles::new(move || _ = hints.send(WatchEvent::Hint)),
        sender,
        check_at: Some(Instant::now()),
        hinted: None,
        unwritten_since: None,
        start_at: None,
        saved: Vec::new(),
        latest: None,
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

/// The runs under way: members of a sweep, one after the other. The one at work is the one behind those that
/// ended.
struct Running {
    started: StartedSweep,
    folder: PathBuf,
    /// Of each member that ended: what it left, none where it failed.
    ended: Vec<Option<Results>>,
    /// Whether the worker was asked for any of them.
    began: bool,
    stopping: bool,
}

/// The worker that is there.
struct WorkerHandle {
    number: u32,
    requests: Requests,
    kill: Kill,
}

struct WatchSession<'a> {
    arguments: &'a WatchArgs,
    ui: Ui,
    files: InputFiles,
    sender: Sender<WatchEvent>,
    /// When files are to be looked at, and when the first hint of this came.
    check_at: Option<Instant>,
    hinted: Option<Instant>,
    /// Since when the file is empty or missing.
    unwritten_since: Option<Instant>,
    /// When what waits begins.
    start_at: Option<Instant>,
    /// The last saves.
    saved: Vec<Instant>,
    /// The last clean text, which runs, has run or waits.
    latest: Option<Rc<Sweep>>,
    waiting: Option<Rc<Sweep>>,
    /// Files that runs read have changed since the last runs began: what is under way is of the old ones.
    data_changed: bool,
    job: Option<Running>,
    /// Of the member at work.
    written: Option<EventFile>,
    /// The runs before the next.
    before: Option<StartedSweep>,
    /// Of the folder of results that was written to last.
    lock: Option<RunLock>,
    /// Not all of the last runs ended well: what is the same may well be run again.
    retry: bool,
    worker: Option<WorkerHandle>,
    workers: u32,
    quits: u32,
}

impl WatchSession<'_> {
    fn follow(mut self, events: &Receiver<WatchEvent>) -> Result<Status, Problem> {
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
                return Ok(if self.retry { Status::Interrupted } else { Status::Good });
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
                if let Ui::View(view) = &mut self.ui
                    && view.key(key) == view::Action::Quit
                {
                    self.quit();
                }
            }
            WatchEvent::Stderr(line) => self.ui.note(&Note::Said(&output::printable(&line))),
            WatchEvent::Message { worker, message } if self.is_current(worker) => match *message {
                WorkerMessage::Event(event) => self.event(&event)?,
                WorkerMessage::Text(text) => self.ui.note(&Note::Said(&text)),
            },
            WatchEvent::Gone { worker, problem } if self.is_current(worker) => {
                self.worker = None;
                if let Some(problem) = problem {
                    self.ui.note(&Note::Problem(&problem));
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

    /// The first time, a run under way ends at its next step; the second time, at once.
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
            Some(worker) if self.quits > 1 => worker.kill.now(),
            // A request of one word can always be written down.
            Some(worker) => _ = worker.requests.send(&WorkerRequest::End),
            None => {}
        }
    }

    fn stop(&mut self) {
        if let (Some(job), Some(worker)) = (&mut self.job, &self.worker)
            && !job.stopping
        {
            job.stopping = true;
            // A stop can always be written down.
            let _ = worker.requests.send(&WorkerRequest::Stop);
            self.ui.note(&Note::Stopping);
        }
    }

    /// Looks whether files changed, and at what they say now.
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
                self.ui.note(&Note::Data(&data));
                self.waiting = self.latest.clone();
                self.settle();
            }
        }
        if first {
            let (sources, data) = self.files.count();
            self.ui.note(&Note::Watching { path: &self.arguments.file, sources, data });
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
        // What was read may be older than what is there by now: it is looked at once more.
        self.check_at = self.check_at.or(Some(Instant::now() + QUIET));
        self.files.follow_sources(sources);
        let Checked { analysis, refused, sweep } = match checked {
            Ok(checked) => checked,
            Err(problem) => {
                self.ui.note(&Note::Unreadable(&problem));
                return Ok(());
            }
        };
        let (clean, running) = (sweep.is_some(), self.job.is_some());
        self.ui.note(&Note::Checked { analysis: &analysis, refused: &refused, clean, running });
        let Some(sweep) = sweep else { return Ok(()) };
        self.files.follow_data(sweep.compiled().map(|(_, compiled)| &compiled.plan), &folder_of(path));
        self.clean(Rc::new(sweep));
        Ok(())
    }

    /// A text that can run.
    fn clean(&mut self, sweep: Rc<Sweep>) {
        let before = self.latest.replace(Rc::clone(&sweep));
        if self.arguments.check {
            if let Some(before) = before {
                self.said(&difference(&before, &sweep));
            }
            return;
        }
        let Some(before) = before else {
            self.waiting = Some(sweep);
            self.start_at = Some(Instant::now());
            return;
        };
        let edit = difference(&before, &sweep);
        self.said(&edit);
        // What ran last, or runs, is what counts: an edit that was taken back before it began is none.
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

    fn said(&mut self, edit: &PlanDifference) {
        self.ui.note(&if edit.is_empty() { Note::Nothing } else { Note::Edited(edit) });
    }

    /// The text beside the results is what it is now, where its meaning is that of the results.
    fn provenance(&mut self, sweep: &Sweep) {
        let folder = sweep.folder(self.arguments.out.as_deref());
        if let Err(problem) = self.hold(&folder) {
            return self.ui.note(&Note::Problem(&problem));
        }
        for (member, compiled) in sweep.compiled() {
            if let Err(problem) = run::provenance(&member.out(&folder), compiled) {
                self.ui.note(&Note::Problem(&problem));
            }
        }
    }

    /// Takes the right to write to a folder of results, where it is another one than before or was taken
    /// away.
    fn hold(&mut self, folder: &Path) -> Result<(), Problem> {
        if self.lock.as_ref().is_none_or(|lock| !lock.is_of(folder) || lock.check().is_err()) {
            self.lock = None;
            self.lock = Some(RunLock::take(folder)?);
        }
        Ok(())
    }

    /// What waits begins when no other save has followed for a while.
    fn settle(&mut self) {
        let now = Instant::now();
        self.saved.retain(|at| now - *at < BURST);
        self.saved.push(now);
        let quiet = if self.saved.len() > 1 { SETTLED_IN_A_BURST } else { SETTLED };
        self.start_at = Some(now + quiet);
    }
}

/// What an edit means for the runs of a file.
fn difference(before: &Sweep, after: &Sweep) -> PlanDifference {
    of_families(&before.plans(), &after.plans())
}
