//! A stage that another engine trains: its folder, its program, and the program's steps as this run's own
//! events. The folder is among the stage's checkpoints, so it is deleted, listed and pruned with them.

mod failures;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, FailureKind};
use mopd_plan::{EngineJob, EngineModel, EngineStage, ModelId, Objective, Stage, Train, Trainable};
use mopd_store::{Lookup, read_json, write_whole};
use serde::Serialize;
use serde_json::{Value, json};

use super::Work;
use super::run::{Scheduler, TaskStopped};
use super::stage::{StageJob, StageOutput};
use crate::failure::{Error, Result};
use crate::formats::{huggingface, peft};
use crate::model::{Merged, Weights};
use crate::program::{ChildProcess, ProcessEnd, Received};
use crate::report::Record;
use crate::train::{
    self, Completed, EngineSteps, LearnerTurn, Pace, ReportedStep, RolloutCache, RolloutsBySource,
};

/// The file that the program's processes leave together after everything else. One that ends badly after it
/// has done its work.
const FINISHED: &str = "finished";

/// How often the folder is looked at.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a program that is asked to stop may take for its step and its checkpoint.
const LAST_STEP: Duration = Duration::from_secs(60);
/// What the program prints, and the record of the steps before a checkpoint.
const LOG: &str = "log.txt";
const RECORD: &str = "record.json";
/// The adapter that training begins with, so that the engine begins as a run without it.
const INITIAL_ADAPTER: &str = "initial_adapter";

/// A program of an engine at work.
struct EngineProgram<'a> {
    scheduler: &'a Scheduler<'a>,
    engine: &'a EngineJob,
    job: &'a StageJob<'a>,
    stage: &'a train::Stage<'a>,
    steps: EngineSteps<'a>,
    folder: PathBuf,
    record: Record,
    /// The next step that is reported.
    next: u32,
}

impl Scheduler<'_> {
    /// The engine and its program, if a stage is not trained here.
    pub(super) fn engine_of(&self, model: ModelId) -> Option<(&EngineJob, &EngineStage)> {
        self.engine.and_then(|engine| Some((engine, engine.stage(model)?)))
    }

    pub(super) fn train_on(
        &self,
        engine: &EngineJob,
        program: &EngineStage,
        job: &StageJob,
        settings: &Train<Objective>,
        steps: u32,
    ) -> Result<StageOutput, TaskStopped> {
        if self.forced[job.index] {
            self.store.drop_states(job.key)?;
        }
        let stage = [self.learner(job, settings, LearnerTurn::ALONE, 0, steps)?];
        let writing = RefCell::new(None);
        let find = || self.rollouts(job.index, &mut writing.borrow_mut());
        let keep = |written: &RolloutsBySource| {
            self.keep_rollouts(job.index, written)?;
            writing.take();
            Ok(())
        };
        let steps = EngineSteps::draw(&stage, program, Some(RolloutCache { find: &find, keep: &keep }))?;
        let stage = &stage[0];
        let folder = self.store.engine_folder(job.key);
        let mut running = EngineProgram {
            scheduler: self,
            engine,
            job,
            stage,
            steps,
            folder: std::path::absolute(&folder).unwrap_or(folder),
            record: Record::default(),
            next: 0,
        };
        match running.prepare(program, settings).and_then(|()| running.run()) {
            Ok(()) => {}
            Err(error) => return Err(TaskStopped { error, record: running.record }),
        }
        let weights = running.weights("trained", "trained/adapter")?;
        let record = Record { names: self.record_names(job.id), ..std::mem::take(&mut running.record) };
        let mut output = StageOutput::new(weights);
        output.record = record;
        Ok(output)
    }
}

impl EngineProgram<'_> {
    /// Writes the folder, and finds the checkpoint to resume from.
    fn prepare(&mut self, program: &EngineStage, settings: &Train<Objective>) -> Result<()> {
        let resume = self.last_checkpoint()?;
        for left in ["steps", "asks", "trained", "weights"] {
            let _ = fs::remove_dir_all(self.folder.join(left));
        }
        for left in ["stop", FINISHED] {
            let _ = fs::remove_file(self.folder.join(left));
        }
        for (name, text) in &program.files {
            let text = match name.as_str() {
                "stage.json" => self.placed(text, program, settings),
                "config.json" => changed(text, |config| {
                    config["max_steps"] = self.steps.steps().into();
                    config["seed"] = self.job.seed.into();
                    config["data_seed"] = self.job.seed.into();
                }),
                _ => text.clone(),
            };
            write_whole(&self.folder.join(name), text.as_bytes())?;
        }
        let rows: String = self.steps.rows().iter().map(|row| format!("{row}\n")).collect();
        write_whole(&self.folder.join("train.jsonl"), rows.as_bytes())?;
        if let Some(adapter) = train::initial_adapter(self.stage)? {
            for (name, bytes) in peft::files(&adapter, "")? {
                write_whole(&self.folder.join(INITIAL_ADAPTER).join(name), &bytes)?;
            }
        }
        let run = json!({
            "draws": self.steps.has_state(),
            "resume": resume.as_ref().map(|(step, _)| self.checkpoint(*step).display().to_string()),
        });
        self.write_json("run.json", &run)?;
        if let Some((step, record)) = resume {
            let Work::Stage(id) = self.scheduler.tasks[self.job.index].work else { unreachable!("a stage") };
            (self.next, self.record) = (step, self.scheduler.renamed(id, record));
            let (stage, seed) = (self.job.name.to_owned(), self.job.seed);
            self.scheduler.control.emit(&Event::StageResumed { stage, seed, step });
        }
        Ok(())
    }

    /// `stage.json` with the places of weights that this run has made.
    fn placed(&self, text: &str, program: &EngineStage, settings: &Train<Objective>) -> String {
        let plan = self.scheduler.plan;
        let made = |id: ModelId| {
            let loaded = matches!(plan.experiment.model(id).stage, Stage::Load(_));
            (!loaded).then(|| json!(self.scheduler.found_at(self.job, id)))
        };
        let place = |slot: &mut Value, id: ModelId| {
            if let Some(made) = made(id) {
                (slot["path"], slot["revision"]) = (made, Value::Null);
            }
        };
        let seconds = match self.scheduler.pace {
            Pace::Every(interval) => interval.as_secs_f64(),
            Pace::Sparing => 60.0,
        };
        changed(text, |file| {
            place(&mut file["start"], settings.start);
            for EngineModel { teacher: _, name, model } in &program.models {
                place(&mut file["models"][name], *model);
            }
            file["steps"] = self.stage.steps.into();
            file["checkpoint_seconds"] = seconds.into();
            if matches!(settings.trainable, Trainable::Adapter(_)) {
                file["initial_adapter"] = INITIAL_ADAPTER.into();
            }
        })
    }

    fn run(&mut self) -> Result<()> {
        let EngineJob { python, processes, .. } = self.engine;
        let quoted = python.replace('\'', r"'\''");
        let command = format!("MOPD_PYTHON='{quoted}' MOPD_PROCESSES={processes} exec sh launch.sh 2>&1");
        let failed = |error: std::io::Error| {
            Error::new(FailureKind::Runtime, format!("cannot start {}: {error}", self.engine.name))
        };
        let mut log = File::create(self.folder.join(LOG))
            .map_err(|error| Error::storage(&self.folder.join(LOG), error))?;
        let child = ChildProcess::start(&command, &self.folder).map_err(failed)?;
        let (mut looked, mut asked) = (Instant::now(), None);
        loop {
            let closed = match child.receive(Some(Instant::now() + PAUSE)) {
                // The log is for people: a full disk shows in what matters.
                Received::Line(line) => {
                    let _ = log.write_all(&line);
                    false
                }
                Received::Closed => true,
                Received::TimedOut => false,
            };
            if closed || looked.elapsed() >= PAUSE {
                if let Err(error) = self.attend() {
                    child.kill();
                    return Err(error);
                }
                looked = Instant::now();
            }
            if closed {
                return self.ended(child.post_mortem().0);
            }
            if self.scheduler.control.check().is_err() {
                let since = *asked.get_or_insert_with(|| {
                    let _ = fs::write(self.folder.join("stop"), "");
                    Instant::now()
                });
                if since.elapsed() > LAST_STEP {
                    child.kill();
                    return Err(Error::Interrupted);
                }
            }
        }
    }

    /// Answers what the program asks for, and notes its steps and checkpoints.
    fn attend(&mut self) -> Result<()> {
        loop {
            // Before the next step is drawn, which changes the state.
            self.keep_checkpoint()?;
            let step = self.next;
            if self.is_asked("draw") {
                let weights = self.weights("weights", "weights")?;
                let rows = self.steps.draw_step(step, &weights).map_err(|error| error.at_step(step))?;
                self.answer("draw", &rows)?;
            }
            if self.is_asked("known") {
                let asked: Completed =
                    read_json(&self.ask("known", "json")).map_err(|why| self.unreadable(&why))?;
                let known = self.steps.known(&asked).map_err(|error| error.at_step(step))?;
                self.answer("known", &known)?;
            }
            let path = self.folder.join(format!("steps/{}.json", self.next));
            if !path.exists() {
                return Ok(());
            }
            let reported: ReportedStep = read_json(&path).map_err(|why| self.unreadable(&why))?;
            let event = self.steps.note(&reported, &mut self.record);
            self.scheduler.control.emit(&event.map_err(|error| error.at_step(self.next))?);
            let _ = fs::remove_file(path);
            self.next += 1;
        }
    }

    fn ask(&self, kind: &str, end: &str) -> PathBuf {
        self.folder.join(format!("asks/{}.{kind}.{end}", self.next))
    }

    /// Whether the program waits for an answer.
    fn is_asked(&self, kind: &str) -> bool {
        self.ask(kind, "json").exists() && !self.ask(kind, "answer").exists()
    }

    fn answer(&self, kind: &str, value: &impl Serialize) -> Result<()> {
        self.write_json(&format!("asks/{}.{kind}.answer", self.next), value)
    }

    /// Stores the record of the steps before a checkpoint beside it: only then it can be resumed from.
    fn keep_checkpoint(&self) -> Result<()> {
        let folder = self.checkpoint(self.next);
        if !folder.join("complete.json").exists() || folder.join(RECORD).exists() {
            return Ok(());
        }
        let names = self.scheduler.record_names(self.job.id);
        let record = Record { names, ..self.record.clone() };
        if let Some(state) = self.steps.state(self.next, &record) {
            self.scheduler.store.keep_named_state(self.job.key, self.job.name, &state, &record.names)?;
        }
        self.write_json(&format!("checkpoints/checkpoint-{}/{RECORD}", self.next), &record)?;
        let StageJob { name, seed, key, .. } = *self.job;
        let (stage, key) = (name.to_owned(), key.to_owned());
        self.scheduler.control.emit(&Event::Checkpoint { stage, seed, key, step: self.next });
        Ok(())
    }

    fn ended(&self, end: ProcessEnd) -> Result<()> {
        let done = self.next == self.steps.steps();
        let good = matches!(end, ProcessEnd::Status(status) if status.success());
        if done && (good || self.folder.join(FINISHED).exists()) {
            return Ok(());
        }
        self.scheduler.control.check()?;
        let log = self.folder.join(LOG);
        let text = fs::read(&log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        let after = self.next.checked_sub(1);
        Err(failures::of_program(self.engine, self.job.name, &text, after, &log))
    }

    /// The student's weights in a folder of the program, or the adapter in another one.
    fn weights(&self, whole: &str, adapter: &str) -> Result<Weights> {
        let start = &self.stage.start;
        if let Trainable::Adapter(_) = self.stage.train.trainable {
            let adapters = peft::read(&self.folder.join(adapter), &start.config)?;
            return Ok(Weights::merged(Merged::new(start.clone(), adapters)));
        }
        let parts = huggingface::parts(&self.folder.join(whole), &start.config)?;
        Ok(Weights::stored(start.config.clone(), start.tokenizer.clone(), parts))
    }

    fn checkpoint(&self, step: u32) -> PathBuf {
        self.folder.join(format!("checkpoints/checkpoint-{step}"))
    }

    /// The last checkpoint with a record, and with the state of the steps where they have one, which is
    /// restored.
    fn last_checkpoint(&mut self) -> Result<Option<(u32, Record)>> {
        let folders = fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten().flatten();
        let step = |name: &str| name.strip_prefix("checkpoint-")?.parse().ok();
        let mut steps: Vec<u32> = folders.filter_map(|folder| step(folder.file_name().to_str()?)).collect();
        steps.sort_unstable();
        for step in steps.into_iter().rev() {
            let Ok(record) = read_json(&self.checkpoint(step).join(RECORD)) else { continue };
            if !self.steps.has_state() {
                return Ok(Some((step, record)));
            }
            let Lookup::Found(state) = self.scheduler.store.state(self.job.key, step) else { continue };
            let StageJob { name, .. } = *self.job;
            self.steps.restore(&state).map_err(|why| {
                let message = format!("the checkpoint of `{name}` at step {step} cannot be restored: {why}");
                Error::new(FailureKind::Runtime, message)
            })?;
            return Ok(Some((step, record)));
        }
        Ok(None)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value).expect("it is plain data");
        write_whole(&self.folder.join(name), &bytes)?;
        Ok(())
    }

    fn unreadable(&self, why: &str) -> Error {
        let message =
            format!("cannot read what {} wrote to {}: {why}", self.engine.name, self.folder.display());
        Error::new(FailureKind::Runtime, message)
    }
}

/// A file of JSON after a change.
fn changed(text: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value = serde_json::from_str(text).expect("the exporter writes JSON");
    change(&mut value);
    format!("{value:#}\n")
}
