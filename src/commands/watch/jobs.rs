//! The runs of a sweep on the worker: they run one after the other, and their events become notes.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use mopd_plan::events::{Event, Fork, Job, Predict, RunJob, WorkerRequest};
use mopd_plan::results::Results;

use super::fork::StartedSweep;
use super::ui::WatchMessage;
use super::{RunningSweep, WatchEvent, WatchSession, WorkerHandle};
use crate::commands::Compiled;
use crate::commands::run;
use crate::commands::sweep::SweepRun;
use crate::problem::Problem;
use crate::run_events::EventFile;
use crate::run_time::pieces_before;
use crate::worker::{self, Worker};
use mopd_store::WriteError;

impl WatchSession<'_> {
    /// Starts the waiting sweep, now or when the current one has stopped.
    pub(super) fn start(&mut self) {
        if self.job.is_some() {
            return self.stop();
        }
        let Some(sweep) = self.waiting.take() else { return };
        self.data_changed = false;
        let forks = match &self.before {
            Some(before) => before.forks(&sweep, self.arguments.fork),
            None => sweep.members.iter().map(|_| Vec::new()).collect(),
        };
        // A fork that several members share is reported once.
        let mut said: Vec<&Fork> = Vec::new();
        for fork in forks.iter().flatten() {
            if !said.contains(&fork) {
                self.ui.note(&WatchMessage::Forked { stage: &fork.stage, seed: fork.seed, step: fork.step });
                said.push(fork);
            }
        }
        self.retry = false;
        let folder = sweep.folder(self.arguments.out.as_deref());
        if let Err(problem) = self.hold(&folder).and_then(|()| sweep.make_room(&folder)) {
            self.ui.note(&WatchMessage::Problem(&problem));
            self.retry = true;
            return;
        }
        let started = StartedSweep::new(sweep, forks);
        let (held, ended) = (None, Vec::new());
        self.go_through(RunningSweep { started, folder, held, ended, began: false, stopping: false });
    }

    /// Starts the next member of a sweep, or ends the sweep after the last one.
    fn go_through(&mut self, mut job: RunningSweep) {
        let sweep = Rc::clone(&job.started.sweep);
        job.held = None;
        while let (index, false) = (job.ended.len(), job.stopping)
            && let Some(member) = sweep.members.get(index)
        {
            let Some(compiled) = &member.compiled else {
                job.ended.push(None);
                continue;
            };
            let forks = job.started.forks[index].clone();
            let begun = sweep.hold(member, &job.folder).and_then(|held| {
                self.begin(compiled, &member.out(&job.folder), forks)?;
                Ok(held)
            });
            match begun {
                Ok(held) => {
                    job.held = held;
                    self.ui.note(&WatchMessage::Began { sweep: &sweep, member: index });
                    job.began = true;
                    self.job = Some(job);
                    return;
                }
                Err(problem) => {
                    self.ui.note(&WatchMessage::Problem(&problem));
                    self.retry = true;
                    job.ended.push(None);
                }
            }
        }
        self.close(job);
    }

    /// Ends a sweep: the waiting one starts if it has settled.
    fn close(&mut self, mut job: RunningSweep) {
        job.held = None;
        let sweep = Rc::clone(&job.started.sweep);
        let whole = job.ended.len() == sweep.members.len();
        self.retry |= !whole;
        if whole && sweep.is_swept() {
            match sweep.combined(&job.folder, &job.ended) {
                Ok(together) => self.ui.note(&WatchMessage::SweepEnded {
                    sweep: &sweep,
                    folder: &job.folder,
                    together: &together,
                }),
                Err(problem) => self.ui.note(&WatchMessage::Problem(&problem)),
            }
        }
        // An edit of comments meanwhile changed only places.
        if let Some(latest) = self.latest.clone()
            && whole
            && self.waiting.is_none()
        {
            self.provenance(&latest);
        }
        // If none of these runs began, the stages that were running before can still be forked.
        if job.began {
            self.before = Some(job.started);
        }
        if self.waiting.is_some() && self.start_at.is_none() {
            self.start_at = Some(Instant::now());
        }
    }

    /// The current member ended, with results or without: starts the next one.
    pub(super) fn ended(&mut self, mut job: RunningSweep, results: Option<Results>) {
        self.retry |= results.is_none();
        self.check_merged(&job);
        job.ended.push(results);
        self.go_through(job);
    }

    /// Moves merged tables away that the current member's results do not belong to.
    fn check_merged(&mut self, job: &RunningSweep) {
        if let Err(problem) = job.started.sweep.check_merged(&job.folder, job.ended.len()) {
            self.ui.note(&WatchMessage::Problem(&problem));
        }
    }

    fn begin(&mut self, compiled: &Compiled, out: &Path, forks: Vec<Fork>) -> Result<(), Problem> {
        run::provenance(out, compiled, pieces_before(out, &compiled.plan.hash))?;
        let job = Job::Run(Box::new(RunJob {
            checkpoint_every: self.arguments.checkpoint_every,
            forks,
            workers: self.arguments.workers,
            // An edit's first step should come soon, so there are no trials.
            predict: Predict::Never,
            ..run::job_of(&compiled.plan, &self.arguments.file, out)?
        }));
        if self.worker.is_none() {
            self.worker = Some(self.attach()?);
        }
        self.written = self.or_report(EventFile::open(out));
        match &self.worker {
            Some(worker) => worker.requests.send(&WorkerRequest::Begin { job }),
            None => Ok(()),
        }
    }

    fn attach(&mut self) -> Result<WorkerHandle, Problem> {
        self.workers += 1;
        let number = self.workers;
        let (stderr, sender) = (self.sender.clone(), self.sender.clone());
        let mut worker =
            Worker::start_server(move |line| _ = stderr.send(WatchEvent::Stderr(line.to_owned())))?;
        let (requests, kill) = (worker.requests(), worker.killer());
        std::thread::spawn(move || {
            let problem = loop {
                match worker.next() {
                    Ok(Some(message)) => {
                        if sender
                            .send(WatchEvent::Message { worker: number, message: Box::new(message) })
                            .is_err()
                        {
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
            let _ = sender.send(WatchEvent::Gone { worker: number, problem });
        });
        Ok(WorkerHandle { number, requests, kill })
    }

    /// The result of writing a run's events; `None` after an error, which is reported.
    fn or_report<T>(&mut self, done: Result<T, WriteError>) -> Option<T> {
        let said = |WriteError { path, source }: WriteError| {
            self.ui.note(&WatchMessage::Problem(&Problem::unwritten(&path, &source)));
        };
        done.map_err(said).ok()
    }

    pub(super) fn event(&mut self, event: &Event) -> Result<(), Problem> {
        self.ui.note(&match self.standing.repeats(event) {
            true => WatchMessage::Repeated(event),
            false => WatchMessage::Event(event),
        });
        if let Some(mut file) = self.written.take() {
            self.written = self.or_report(file.note(event)).map(|()| file);
        }
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
                        let more = !job.stopping && job.ended.len() + 1 < job.started.sweep.members.len();
                        self.ui.note(&WatchMessage::Failed { compiled, failure, more });
                    }
                    self.ended(job, None);
                }
            }
            Event::Interrupted { .. } => {
                if let Some(job) = self.job.take() {
                    self.check_merged(&job);
                    self.close(job);
                }
            }
            event => {
                if let Some(job) = &mut self.job {
                    job.started.note(job.ended.len(), event);
                }
            }
        }
        Ok(())
    }

    /// The results of the current member; `None` if they can't be read.
    fn finished(&mut self, job: &RunningSweep, seconds: f64, peak_memory: u64) -> Option<Results> {
        let (member, compiled) = job.at_work()?;
        let out = member.out(&job.folder);
        match run::results(&out) {
            Ok(results) => {
                let single = !job.started.sweep.is_swept();
                self.ui.note(&WatchMessage::Finished {
                    compiled,
                    single,
                    out: &out,
                    results: &results,
                    seconds,
                    peak_memory,
                });
                Some(results)
            }
            Err(problem) => {
                self.ui.note(&WatchMessage::Problem(&problem));
                None
            }
        }
    }
}

impl RunningSweep {
    fn at_work(&self) -> Option<(&SweepRun, &Compiled)> {
        let member = self.started.sweep.members.get(self.ended.len())?;
        Some((member, member.compiled.as_deref()?))
    }
}
