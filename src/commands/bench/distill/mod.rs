//! `mopd bench distill`: the time of steps of on-policy distillation, compared with a lower bound for this
//! machine.
//!
//! An experiment is generated, compiled and sent to the worker, as in `mopd run`. Before and after it,
//! another process measures the machine, so that the memory of these measurements does not count.

mod experiment;
mod figures;

use std::ops::ControlFlow;

use mopd_plan::events::{Event, FloorJob, Job, Predict, RunJob, Seconds};

use self::figures::{DistillReport, Roofline};
use super::folder::TempFolder;
use crate::args::BenchDistillArgs;
use crate::commands::{Compiled, compile};
use crate::host::as_text;
use crate::output::{self, Style, printable};
use crate::problem::{CommandStatus, Problem};
use crate::progress::{LOG_EVERY, RunProgress, TICK};
use crate::render;
use crate::worker::interrupts::Interrupts;
use crate::worker::{self, Worker, WorkerMessage};

/// The measurements of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTimes {
    pub seconds: Seconds,
    /// Completion tokens.
    pub tokens: u64,
}

/// The measurements of the run.
#[derive(Default)]
pub struct RunMeasurements {
    device: String,
    steps: Vec<StepTimes>,
    /// Peak memory of the whole worker, and during the stage, in bytes; the latter where the system tells.
    peak_memory: u64,
    stage_memory: Option<u64>,
}

pub fn distill(arguments: &BenchDistillArgs) -> Result<CommandStatus, Problem> {
    worker::find()?;
    let folder = TempFolder::new()?;
    let file = folder.write("bench.mopd", &experiment::source(arguments)?)?;
    folder.write(experiment::PROMPTS, &experiment::prompts(arguments))?;
    let Some(compiled) = compile(&file, &[])? else { return Ok(CommandStatus::Failure) };
    let run = RunJob {
        plan: compiled.plan.clone(),
        base: as_text(&folder.0)?,
        store: as_text(&folder.0.join("store"))?,
        out: as_text(&folder.0.join("out"))?,
        fresh: true,
        from: Vec::new(),
        checkpoint_every: None,
        forks: Vec::new(),
        workers: Some(1),
        engine: None,
        predict: Predict::Full,
    };
    match measure(arguments, &run, &compiled)? {
        ControlFlow::Continue((floor, seen)) => {
            let figures = DistillReport::new(arguments, &floor, &seen);
            output::result(&if arguments.json { figures.json() } else { figures.table() });
            Ok(CommandStatus::Success)
        }
        ControlFlow::Break(status) => Ok(status),
    }
}

/// Measures the machine, the run, and the machine again: its other load may change in between.
fn measure(
    arguments: &BenchDistillArgs,
    run: &RunJob,
    compiled: &Compiled,
) -> Result<ControlFlow<CommandStatus, (Roofline, RunMeasurements)>, Problem> {
    let before = match floor(run, None, compiled)? {
        ControlFlow::Continue(floor) => floor,
        ControlFlow::Break(status) => return Ok(ControlFlow::Break(status)),
    };
    let mut seen = RunMeasurements::default();
    let note = |event: &Event| match event {
        Event::Ready { device, .. } => seen.device.clone_from(device),
        Event::Step { stage, tokens, seconds, .. } if stage == experiment::STAGE => {
            seen.steps.push(StepTimes { seconds: *seconds, tokens: *tokens });
        }
        Event::StageFinished { stage, peak_memory, .. } if stage == experiment::STAGE => {
            seen.stage_memory = *peak_memory
        }
        Event::Finished { peak_memory, .. } => seen.peak_memory = *peak_memory,
        _ => {}
    };
    if let ControlFlow::Break(status) = ask(&Job::Run(Box::new(run.clone())), compiled, note)? {
        return Ok(ControlFlow::Break(status));
    }
    let sequences = seen.steps.len() as f64 * f64::from(arguments.batch);
    let completion = seen.steps.iter().map(|step| step.tokens as f64).sum::<f64>() / sequences;
    Ok(match floor(run, Some(completion), compiled)? {
        ControlFlow::Continue(after) => ControlFlow::Continue((after.faster(&before), seen)),
        ControlFlow::Break(status) => ControlFlow::Break(status),
    })
}

/// The speed of the machine, and the work of a step with completions of this many tokens.
fn floor(
    run: &RunJob,
    completion: Option<f64>,
    compiled: &Compiled,
) -> Result<ControlFlow<CommandStatus, Roofline>, Problem> {
    let mut found = None;
    let note = |event: &Event| {
        if let Event::MeasuredFloor { rates, phases, prompt, threads } = event {
            found =
                Some(Roofline { rates: *rates, phases: phases.clone(), prompt: *prompt, threads: *threads });
        }
    };
    let job = Job::Floor(Box::new(FloorJob { run: run.clone(), completion }));
    if let ControlFlow::Break(status) = ask(&job, compiled, note)? {
        return Ok(ControlFlow::Break(status));
    }
    let unexpected = || {
        Problem::run(
            "worker-protocol",
            "unexpected reply from the worker: it is not the \
            measurement that was requested",
        )
    };
    found.map(ControlFlow::Continue).ok_or_else(unexpected)
}

/// Runs a job in a worker. `Break` if it did not finish, which is reported.
fn ask(
    job: &Job,
    compiled: &Compiled,
    mut note: impl FnMut(&Event),
) -> Result<ControlFlow<CommandStatus>, Problem> {
    let mut progress = RunProgress::new(false, false, LOG_EVERY);
    let printer = progress.printer();
    let mut worker = {
        let printer = printer.clone();
        Worker::start(job, move |line| printer.say(&format!("{}\n", printable(line))))?
    };
    let interrupts = Interrupts::handled();
    let forwarding = {
        let printer = printer.clone();
        interrupts.forward_to(&worker, move |text| printer.say(text))
    };
    let mut last = None;
    worker.each(TICK, |said| {
        match said {
            None => progress.tick(),
            Some(WorkerMessage::Event(event)) => {
                progress.note(&event);
                note(&event);
                if matches!(event, Event::Failed(_) | Event::Interrupted { .. } | Event::Finished { .. }) {
                    last = Some(event);
                }
            }
            Some(WorkerMessage::Text(text)) => printer.say(&format!("{text}\n")),
        }
        Ok(())
    })?;
    progress.close();
    let status = worker.wait()?;
    drop(forwarding);
    // After a signal, the signal is the reason for any other error.
    if interrupts.any() {
        return Ok(ControlFlow::Break(CommandStatus::Interrupted));
    }
    match last {
        Some(Event::Finished { .. }) => Ok(ControlFlow::Continue(())),
        Some(Event::Failed(failure)) => {
            let report = render::of_failure(&failure, &compiled.plan, &compiled.sources);
            output::error(&render::human::report(&report, Style::of_stderr()));
            Ok(ControlFlow::Break(CommandStatus::Failure))
        }
        Some(_) => Ok(ControlFlow::Break(CommandStatus::Interrupted)),
        None => Err(worker::death(status)),
    }
}
