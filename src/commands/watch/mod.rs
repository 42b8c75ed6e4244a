//! `mopd watch`: checks at every save and, where the file is clean, says what changed in meaning and runs just that. What is under
//! way goes on until a text that is clean takes its place, and a stage that the edit leaves as it is loses no step.

mod files;
mod fork;
mod lines;
#[cfg(unix)]
mod view;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mopd_compiler::plan::difference::{Difference, difference};
use mopd_compiler::plan::events::{Event, Failure, Fork, Job, Request, RunJob};
use mopd_compiler::plan::results::Results;
use mopd_lang::Analysis;

use self::files::{Changed, Files};
use self::fork::Begun;
use self::lines::Lines;
use super::run::{self, STORE, as_text};
use super::{Compiled, no_experiment, plan_of};
use crate::args::{Format, Watch};
use crate::host::{self, folder_of};
use crate::output;
use crate::problem::{Problem, Status};
use crate::worker::{self, Kill, Requests, Said, Worker};

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
enum Happening {
    /// A file may be another one.
    Hint,
    /// Ctrl-C.
    Interrupt,
    #[cfg(unix)]
    Key(view::Key),
    /// Of the worker with this number.
    Said {
        worker: u32,
        said: Box<Said>,
    },
    Stderr(String),
    /// It is gone: how, or why that is not known.
    Gone {
        worker: u32,
        problem: Option<Problem>,
    },
}

/// What is told to the author.
enum Note<'a> {
    Watching {
        path: &'a Path,
        sources: usize,
        data: usize,
    },
    /// A text was checked; `clean` is whether it can run.
    Checked {
        analysis: &'a Analysis,
        clean: bool,
        running: bool,
    },
    Unreadable(&'a Problem),
    /// What the last clean text changed.
    Edited(&'a Difference),
    Data(&'a [PathBuf]),
    Nothing,
    Stopping,
    Forked {
        stage: &'a str,
        seed: u64,
        step: u32,
    },
    Began {
        compiled: &'a Compiled,
    },
    Event(&'a Event),
    Finished {
        compiled: &'a Compiled,
        out: &'a Path,
        results: &'a Results,
        seconds: f64,
        peak_memory: u64,
    },
    Failed {
        compiled: &'a Compiled,
        failure: &'a Failure,
    },
    Problem(&'a Problem),
    Said(&'a str),
}

/// How it is told.
enum Face {
    Lines(Lines),
    #[cfg(unix)]
    View(Box<view::View>),
}

impl Face {
    fn new(arguments: &Watch, sender: &Sender<Happening>) -> Face {
        #[cfg(unix)]
        if !arguments.plain && arguments.format == Format::Human {
            let keys = sender.clone();
            let title = arguments.file.display().to_string();
            if let Some(view) = view::View::new(&title, move |key| _ = keys.send(Happening::Key(key))) {
                return Face::View(Box::new(view));
            }
        }
        Face::Lines(Lines::new(arguments.format))
    }

    fn note(&mut self, note: &Note) {
        match self {
            Face::Lines(lines) => lines.note(note),
            #[cfg(unix)]
            Face::View(view) => view.note(note),
        }
    }

    /// How long it is until it wants to be refreshed again.
    fn refresh(&mut self) -> Result<Option<Duration>, Problem> {
        match self {
            Face::Lines(_) => Ok(None),
            #[cfg(unix)]
            Face::View(view) => view.refresh(),
        }
    }

    fn close(self) {
        match self {
            Face::Lines(_) => {}
            #[cfg(unix)]
            Face::View(view) => view.close(),
        }
    }
}

pub fn watch(arguments: &Watch) -> Result<Status, Problem> {
    host::read(&arguments.file)?;
    if !arguments.check {
        worker::find()?;
    }
    let (sender, happenings) = channel();
    let hints = sender.clone();
    let interrupts = sender.clone();
    // Whoever would hear it is gone only at the end.
    let installed = ctrlc::set_handler(move || _ = interrupts.send(Happening::Interrupt));
    if let Err(error) = installed {
        output::error(&format!("warning: Ctrl-C ends this at once: {error}\n"));
    }
    let session = Session {
        arguments,
        face: Face::new(arguments, &sender),
        files: Files::new(move || _ = hints.send(Happening::Hint)),
        sender,
        check_at: Some(Instant::now()),
        hinted: None,
        unwritten_since: None,
        start_at: None,
        saved: Vec::new(),
        latest: None,
        waiting: None,
        job: None,
        before: None,
        retry: false,
        worker: None,
        workers: 0,
        quits: 0,
    };
    session.follow(&happenings)
}

/// The run under way.
struct Running {
    run: Begun,
    out: PathBuf,
    stopping: bool,
}

/// The worker that is there.
struct Attached {
    number: u32,
    requests: Requests,
    kill: Kill,
}

struct Session<'a> {
    arguments: &'a Watch,
    face: Face,
    files: Files,
    sender: Sender<Happening>,
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
    latest: Option<Rc<Compiled>>,
    waiting: Option<Rc<Compiled>>,
    job: Option<Running>,
    /// The run before the next.
    before: Option<Begun>,
    /// The last run did not end well: what is the same may well be run again.
    retry: bool,
    worker: Option<Attached>,
    workers: u32,
    quits: u32,
}

impl Session<'_> {
    fn follow(mut self, happenings: &Receiver<Happening>) -> Result<Status, Problem> {
        loop {
            let now = Instant::now();
            if self.check_at.is_some_and(|at| at <= now) {
                self.check_at = None;
                self.hinted = None;
                self.look()?;
            }
            if self.start_at.is_some_and(|at| at <= Instant::now()) {
                self.start_at = None;
                self.start()?;
            }
            if self.quits > 0 && self.job.is_none() {
                self.face.close();
                return Ok(if self.retry { Status::Interrupted } else { Status::Good });
            }
            let frame = self.face.refresh()?;
            let deadline = [self.check_at, self.start_at].into_iter().flatten().min();
            let wait = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK));
            let wait = frame.map_or(wait, |frame| frame.min(wait));
            match happenings.recv_timeout(wait) {
                Ok(happening) => self.heard(happening)?,
                Err(RecvTimeoutError::Timeout) if wait == LOOK => self.check_at = Some(Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the session holds a sender itself"),
            }
        }
    }

    fn heard(&mut self, happening: Happening) -> Result<(), Problem> {
        match happening {
            Happening::Hint => {
                let now = Instant::now();
                let first = *self.hinted.get_or_insert(now);
                self.check_at = Some((now + QUIET).min(first + AT_MOST));
            }
            Happening::Interrupt => self.quit(),
            #[cfg(unix)]
            Happening::Key(key) => {
                if let Face::View(view) = &mut self.face
                    && view.key(key) == view::Asked::Quit
                {
                    self.quit();
                }
            }
            Happening::Stderr(line) => self.face.note(&Note::Said(&output::printable(&line))),
            Happening::Said { worker, said } if self.is_current(worker) => match *said {
                Said::Event(event) => self.event(&event)?,
                Said::Text(text) => self.face.note(&Note::Said(&text)),
            },
            Happening::Gone { worker, problem } if self.is_current(worker) => {
                self.worker = None;
                if let Some(problem) = problem {
                    self.face.note(&Note::Problem(&problem));
                }
                if let Some(job) = self.job.take() {
                    self.retry = true;
                    self.before = Some(job.run);
                    self.go_on();
                }
            }
            Happening::Said { .. } | Happening::Gone { .. } => {}
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
        match &self.worker {
            Some(worker) if self.quits > 1 => worker.kill.now(),
            _ => self.stop(),
        }
    }

    fn stop(&mut self) {
        if let (Some(job), Some(worker)) = (&mut self.job, &self.worker)
            && !job.stopping
        {
            job.stopping = true;
            // A stop can always be written down.
            let _ = worker.requests.send(&Request::Stop);
            self.face.note(&Note::Stopping);
        }
    }

    /// Looks whether files changed, and at what they say now.
    fn look(&mut self) -> Result<(), Problem> {
        let first = self.latest.is_none() && self.files.count() == (0, 0);
        let Changed { sources, data } = if first { Changed { sources: true, data: Vec::new() } } else { self.files.changed() };
        if self.quits > 0 || (!sources && data.is_empty() && self.unwritten_since.is_none()) {
            return Ok(());
        }
        if sources || self.unwritten_since.is_some() {
            self.check(first)?;
        }
        if !data.is_empty() && self.waiting.is_none() && !self.arguments.check {
            self.face.note(&Note::Data(&data));
            self.waiting = self.latest.clone();
            self.settle();
        }
        if first {
            let (sources, data) = self.files.count();
            self.face.note(&Note::Watching { path: &self.arguments.file, sources, data });
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
        let analysed = host::analyse_noting(path, &self.arguments.overrides.set, &mut |file| _ = sources.insert(file.to_owned()));
        // What was read may be older than what is there by now: it is looked at once more.
        self.check_at = self.check_at.or(Some(Instant::now() + QUIET));
        self.files.follow_sources(sources);
        let mut analysis = match analysed {
            Ok(analysis) => analysis,
            Err(problem) => {
                self.face.note(&Note::Unreadable(&problem));
                return Ok(());
            }
        };
        let plan = plan_of(&mut analysis);
        if analysis.experiment.is_none() && !analysis.has_errors() {
            analysis.diagnostics.push(no_experiment(&analysis.sources));
        }
        self.face.note(&Note::Checked { analysis: &analysis, clean: plan.is_some(), running: self.job.is_some() });
        let Some(plan) = plan else { return Ok(()) };
        self.files.follow_data(&plan, &folder_of(path));
        self.clean(Rc::new(Compiled { sources: analysis.sources, plan }));
        Ok(())
    }

    /// A text that can run.
    fn clean(&mut self, compiled: Rc<Compiled>) {
        let before = self.latest.replace(Rc::clone(&compiled));
        if self.arguments.check {
            if let Some(before) = before {
                self.said(&difference(&before.plan, &compiled.plan));
            }
            return;
        }
        let Some(before) = before else {
            self.waiting = Some(compiled);
            self.start_at = Some(Instant::now());
            return;
        };
        let edit = difference(&before.plan, &compiled.plan);
        self.said(&edit);
        // What ran last, or runs, is what counts: an edit that was taken back before it began is none.
        let idle = self.job.is_none();
        let same_as_running = match &self.job {
            Some(job) => !job.stopping && difference(&job.run.compiled.plan, &compiled.plan).is_empty(),
            None => edit.is_empty() && self.waiting.is_none() && !self.retry,
        };
        if same_as_running {
            self.waiting = None;
            self.start_at = None;
            if idle && let Err(problem) = run::provenance(&self.out(&compiled), &compiled) {
                self.face.note(&Note::Problem(&problem));
            }
            return;
        }
        self.waiting = Some(compiled);
        self.settle();
    }

    fn said(&mut self, edit: &Difference) {
        self.face.note(&if edit.is_empty() { Note::Nothing } else { Note::Edited(edit) });
    }

    fn out(&self, compiled: &Compiled) -> PathBuf {
        run::out_folder(self.arguments.out.as_deref(), compiled)
    }

    /// What waits begins when no other save has followed for a while.
    fn settle(&mut self) {
        let now = Instant::now();
        self.saved.retain(|at| now - *at < BURST);
        self.saved.push(now);
        let quiet = if self.saved.len() > 1 { SETTLED_IN_A_BURST } else { SETTLED };
        self.start_at = Some(now + quiet);
    }

    /// Begins what waits, now or when what is under way has stopped.
    fn start(&mut self) -> Result<(), Problem> {
        if self.job.is_some() {
            self.stop();
            return Ok(());
        }
        let Some(compiled) = self.waiting.take() else { return Ok(()) };
        let out = self.out(&compiled);
        let forks = self.before.as_ref().map(|before| before.forks(&compiled, self.arguments.fork)).unwrap_or_default();
        for Fork { stage, seed, step, .. } in &forks {
            self.face.note(&Note::Forked { stage, seed: *seed, step: *step });
        }
        if let Err(problem) = self.begin(&compiled, &out, forks.clone()) {
            self.face.note(&Note::Problem(&problem));
            self.retry = true;
            return Ok(());
        }
        self.retry = false;
        self.face.note(&Note::Began { compiled: &compiled });
        self.job = Some(Running { out, stopping: false, run: Begun { compiled, forks, checkpoints: HashMap::new() } });
        Ok(())
    }

    fn begin(&mut self, compiled: &Compiled, out: &Path, forks: Vec<Fork>) -> Result<(), Problem> {
        run::provenance(out, compiled)?;
        let job = Job::Run(Box::new(RunJob {
            plan: compiled.plan.clone(),
            base: as_text(&folder_of(&self.arguments.file))?,
            store: STORE.to_owned(),
            out: as_text(out)?,
            fresh: false,
            from: Vec::new(),
            checkpoint_every: self.arguments.checkpoint_every,
            forks,
            workers: self.arguments.workers,
        }));
        if self.worker.is_none() {
            self.worker = Some(self.attach()?);
        }
        match &self.worker {
            Some(worker) => worker.requests.send(&Request::Begin { job }),
            None => Ok(()),
        }
    }

    fn attach(&mut self) -> Result<Attached, Problem> {
        self.workers += 1;
        let number = self.workers;
        let (stderr, sender) = (self.sender.clone(), self.sender.clone());
        let (mut worker, requests) = Worker::stay(move |line| _ = stderr.send(Happening::Stderr(line.to_owned())))?;
        let kill = worker.killer();
        std::thread::spawn(move || {
            let problem = loop {
                match worker.next() {
                    Ok(Some(said)) => {
                        if sender.send(Happening::Said { worker: number, said: Box::new(said) }).is_err() {
                            return;
                        }
                    }
                    Ok(None) => {
                        break match worker.wait() {
                            Ok(status) => (!status.success()).then(|| worker::death(status)),
                            Err(problem) => Some(problem),
                        };
                    }
                    Err(problem) => break Some(problem),
                }
            };
            let _ = sender.send(Happening::Gone { worker: number, problem });
        });
        Ok(Attached { number, requests, kill })
    }

    fn event(&mut self, event: &Event) -> Result<(), Problem> {
        self.face.note(&Note::Event(event));
        match event {
            Event::Ready { versions, .. } => {
                if let Some(worker) = &self.worker {
                    run::check_version(&versions.mopd, &worker.kill)?;
                }
            }
            Event::Finished { seconds, peak_memory } => {
                if let Some(job) = self.job.take() {
                    self.finished(&job, *seconds, *peak_memory);
                    self.before = Some(job.run);
                    self.go_on();
                }
            }
            Event::Failed(failure) => {
                if let Some(job) = self.job.take() {
                    self.retry = true;
                    self.face.note(&Note::Failed { compiled: &job.run.compiled, failure });
                    self.before = Some(job.run);
                    self.go_on();
                }
            }
            Event::Interrupted { .. } => {
                if let Some(job) = self.job.take() {
                    self.retry = true;
                    self.before = Some(job.run);
                    self.go_on();
                }
            }
            event => {
                if let Some(job) = &mut self.job {
                    job.run.note(event);
                }
            }
        }
        Ok(())
    }

    fn finished(&mut self, job: &Running, seconds: f64, peak_memory: u64) {
        match run::results(&job.out) {
            Ok(results) => {
                let (compiled, out) = (&*job.run.compiled, &*job.out);
                self.face.note(&Note::Finished { compiled, out, results: &results, seconds, peak_memory });
            }
            Err(problem) => self.face.note(&Note::Problem(&problem)),
        }
        // A comment that was written meanwhile has changed places only.
        if let Some(latest) = self.latest.clone()
            && self.waiting.is_none()
            && let Err(problem) = run::provenance(&job.out, &latest)
        {
            self.face.note(&Note::Problem(&problem));
        }
    }

    /// Nothing runs any more: what waits, and has settled, begins.
    fn go_on(&mut self) {
        if self.waiting.is_some() && self.start_at.is_none() {
            self.start_at = Some(Instant::now());
        }
    }
}
