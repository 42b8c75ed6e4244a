//! `mopd watch`: checks at every save and, where the file is clean, says what changed in meaning and runs
//! just that. What is under way goes on until a text that is clean takes its place, and a stage that the edit
//! leaves as it is loses no step.

mod face;
mod files;
mod fork;
mod lines;
#[cfg(unix)]
mod view;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mopd_compiler::plan::difference::{Difference, of_families};
use mopd_compiler::plan::events::{Event, Fork, Job, Request, RunJob};
use mopd_compiler::plan::results::Results;
use mopd_store::signals::on_termination;

use self::face::{Face, Note};
use self::files::{Changed, Files};
use self::fork::Begun;
use super::Compiled;
use super::family::{self, Checked, Family, Member};
use super::run::{self, STORE, as_text};
use crate::args::Watch;
use crate::host::{self, folder_of};
use crate::output;
use crate::problem::{Problem, Status};
use crate::run_lock::RunLock;
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
    /// Ctrl-C, `kill`, or a terminal that was closed.
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

pub fn watch(arguments: &Watch) -> Result<Status, Problem> {
    host::read(&arguments.file)?;
    if !arguments.check {
        worker::find()?;
    }
    let (sender, happenings) = channel();
    let hints = sender.clone();
    let interrupts = sender.clone();
    // Whoever would hear it is gone only at the end.
    let installed = on_termination(move || _ = interrupts.send(Happening::Interrupt));
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
        lock: None,
        retry: false,
        worker: None,
        workers: 0,
        quits: 0,
    };
    session.follow(&happenings)
}

/// The runs under way: members of a family, one after the other. The one at work is the one behind those that
/// ended.
struct Running {
    begun: Begun,
    folder: PathBuf,
    /// Of each member that ended: what it left, none where it failed.
    ended: Vec<Option<Results>>,
    /// Whether the worker was asked for any of them.
    began: bool,
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
    latest: Option<Rc<Family>>,
    waiting: Option<Rc<Family>>,
    job: Option<Running>,
    /// The runs before the next.
    before: Option<Begun>,
    /// Of the folder of results that was written to last.
    lock: Option<RunLock>,
    /// Not all of the last runs ended well: what is the same may well be run again.
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
                self.start();
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
                    self.ended(job, None);
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
        if self.quits == 1 {
            self.stop();
        }
        match &self.worker {
            Some(worker) if self.quits > 1 => worker.kill.now(),
            // A request of one word can always be written down.
            Some(worker) => _ = worker.requests.send(&Request::End),
            None => {}
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
        let Changed { sources, data } =
            if first { Changed { sources: true, data: Vec::new() } } else { self.files.changed() };
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
        let files = &mut self.files;
        let checked = family::check(path, &self.arguments.overrides.set, &mut |file| {
            files.look_at(file);
            sources.insert(file.to_owned());
        });
        // What was read may be older than what is there by now: it is looked at once more.
        self.check_at = self.check_at.or(Some(Instant::now() + QUIET));
        self.files.follow_sources(sources);
        let Checked { analysis, refused, family } = match checked {
            Ok(checked) => checked,
            Err(problem) => {
                self.face.note(&Note::Unreadable(&problem));
                return Ok(());
            }
        };
        let (clean, running) = (family.is_some(), self.job.is_some());
        self.face.note(&Note::Checked { analysis: &analysis, refused: &refused, clean, running });
        let Some(family) = family else { return Ok(()) };
        self.files.follow_data(family.compiled().map(|(_, compiled)| &compiled.plan), &folder_of(path));
        self.clean(Rc::new(family));
        Ok(())
    }

    /// A text that can run.
    fn clean(&mut self, family: Rc<Family>) {
        let before = self.latest.replace(Rc::clone(&family));
        if self.arguments.check {
            if let Some(before) = before {
                self.said(&difference(&before, &family));
            }
            return;
        }
        let Some(before) = before else {
            self.waiting = Some(family);
            self.start_at = Some(Instant::now());
            return;
        };
        let edit = difference(&before, &family);
        self.said(&edit);
        // What ran last, or runs, is what counts: an edit that was taken back before it began is none.
        let idle = self.job.is_none();
        let same_as_running = match &self.job {
            Some(job) => !job.stopping && difference(&job.begun.family, &family).is_empty(),
            None => edit.is_empty() && self.waiting.is_none() && !self.retry,
        };
        if same_as_running {
            self.waiting = None;
            self.start_at = None;
            if idle {
                self.provenance(&family);
            }
            return;
        }
        self.waiting = Some(family);
        self.settle();
    }

    fn said(&mut self, edit: &Difference) {
        self.face.note(&if edit.is_empty() { Note::Nothing } else { Note::Edited(edit) });
    }

    /// The text beside the results is what it is now, where its meaning is that of the results.
    fn provenance(&mut self, family: &Family) {
        let folder = family.folder(self.arguments.out.as_deref());
        if let Err(problem) = self.hold(&folder) {
            return self.face.note(&Note::Problem(&problem));
        }
        for (member, compiled) in family.compiled() {
            if let Err(problem) = run::provenance(&member.out(&folder), compiled) {
                self.face.note(&Note::Problem(&problem));
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

    /// Begins what waits, now or when what is under way has stopped.
    fn start(&mut self) {
        if self.job.is_some() {
            return self.stop();
        }
        let Some(family) = self.waiting.take() else { return };
        let forks = match &self.before {
            Some(before) => before.forks(&family, self.arguments.fork),
            None => family.members.iter().map(|_| Vec::new()).collect(),
        };
        // What several members share is said once.
        let mut said: Vec<&Fork> = Vec::new();
        for fork in forks.iter().flatten() {
            if !said.contains(&fork) {
                self.face.note(&Note::Forked { stage: &fork.stage, seed: fork.seed, step: fork.step });
                said.push(fork);
            }
        }
        self.retry = false;
        let folder = family.folder(self.arguments.out.as_deref());
        if let Err(problem) = self.hold(&folder).and_then(|()| family.make_room(&folder)) {
            self.face.note(&Note::Problem(&problem));
            self.retry = true;
            return;
        }
        let begun = Begun::new(family, forks);
        self.go_through(Running { begun, folder, ended: Vec::new(), began: false, stopping: false });
    }

    /// Begins the next member of a family, or closes it behind its last.
    fn go_through(&mut self, mut job: Running) {
        let family = Rc::clone(&job.begun.family);
        while let (index, false) = (job.ended.len(), job.stopping)
            && let Some(member) = family.members.get(index)
        {
            let Some(compiled) = &member.compiled else {
                job.ended.push(None);
                continue;
            };
            match self.begin(compiled, &member.out(&job.folder), job.begun.forks[index].clone()) {
                Ok(()) => {
                    self.face.note(&Note::Began { family: &family, member: index });
                    job.began = true;
                    self.job = Some(job);
                    return;
                }
                Err(problem) => {
                    self.face.note(&Note::Problem(&problem));
                    self.retry = true;
                    job.ended.push(None);
                }
            }
        }
        self.close(job);
    }

    /// Nothing of a family runs any more: what waits, and has settled, begins.
    fn close(&mut self, job: Running) {
        let family = Rc::clone(&job.begun.family);
        let whole = job.ended.len() == family.members.len();
        self.retry |= !whole;
        if whole && family.is_sweep() {
            match family.together(&job.folder, &job.ended) {
                Ok(together) => self.face.note(&Note::Together {
                    family: &family,
                    folder: &job.folder,
                    together: &together,
                }),
                Err(problem) => self.face.note(&Note::Problem(&problem)),
            }
        }
        // A comment that was written meanwhile has changed places only.
        if let Some(latest) = self.latest.clone()
            && whole
            && self.waiting.is_none()
        {
            self.provenance(&latest);
        }
        // What was under way before them is under way still where none of them began.
        if job.began {
            self.before = Some(job.begun);
        }
        if self.waiting.is_some() && self.start_at.is_none() {
            self.start_at = Some(Instant::now());
        }
    }

    /// The member at work ended, with results or without, and the next one begins.
    fn ended(&mut self, mut job: Running, results: Option<Results>) {
        self.retry |= results.is_none();
        job.ended.push(results);
        self.go_through(job);
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
        let mut worker = Worker::stay(move |line| _ = stderr.send(Happening::Stderr(line.to_owned())))?;
        let (requests, kill) = (worker.requests(), worker.killer());
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
                    let results = self.finished(&job, *seconds, *peak_memory);
                    self.ended(job, results);
                }
            }
            Event::Failed(failure) => {
                if let Some(job) = self.job.take() {
                    if let Some((_, compiled)) = job.at_work() {
                        let more = !job.stopping && job.ended.len() + 1 < job.begun.family.members.len();
                        self.face.note(&Note::Failed { compiled, failure, more });
                    }
                    self.ended(job, None);
                }
            }
            Event::Interrupted { .. } => {
                if let Some(job) = self.job.take() {
                    self.close(job);
                }
            }
            event => {
                if let Some(job) = &mut self.job {
                    job.begun.note(job.ended.len(), event);
                }
            }
        }
        Ok(())
    }

    /// What the member at work left; none where that can't be read.
    fn finished(&mut self, job: &Running, seconds: f64, peak_memory: u64) -> Option<Results> {
        let (member, compiled) = job.at_work()?;
        let out = member.out(&job.folder);
        match run::results(&out) {
            Ok(results) => {
                let alone = !job.begun.family.is_sweep();
                self.face.note(&Note::Finished {
                    compiled,
                    alone,
                    out: &out,
                    results: &results,
                    seconds,
                    peak_memory,
                });
                Some(results)
            }
            Err(problem) => {
                self.face.note(&Note::Problem(&problem));
                None
            }
        }
    }
}

impl Running {
    fn at_work(&self) -> Option<(&Member, &Compiled)> {
        let member = self.begun.family.members.get(self.ended.len())?;
        Some((member, member.compiled.as_deref()?))
    }
}

/// What an edit means for the runs of a file.
fn difference(before: &Family, after: &Family) -> Difference {
    of_families(&before.plans(), &after.plans())
}
