//! `mopd-worker`: reads one job from standard input and writes events to standard output. `mopd-worker serve`
//! reads one request a line and runs one job after the other, keeping libtorch and the data it has read in
//! memory. Either ends when standard input does.

#![forbid(unsafe_code)]

use std::io::BufRead;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mopd_kernels::os::{disable_trim, exit_at_once};
use mopd_plan::Plan;
use mopd_plan::events::{Event, FailureKind, Job, SERVE, Versions, WorkerRequest};
use mopd_runtime::control::Control;
use mopd_runtime::failure::{Error, Result, caught, install_hook};
use mopd_runtime::machine::device;
use mopd_runtime::machine::device::Cuda;
use mopd_runtime::machine::memory::{peak_memory, release_free};
use mopd_runtime::machine::place::Place;
use mopd_runtime::prepare::cache::DataCache;
use mopd_runtime::program::orphans;
use mopd_runtime::report::{delta, read};
use mopd_runtime::schedule::{JobProgress, sample};
use mopd_runtime::{bench, schedule, serve, store};
use mopd_store::signals::{ignore_sigxfsz, on_termination};
use tch::Device;

/// Exit statuses of this program and of each of its jobs.
const SUCCESS: u8 = 0;
const FAILED: u8 = 1;
const USAGE_ERROR: u8 = 2;
/// The job was stopped.
const INTERRUPTED: u8 = 130;

/// Bytes of stack of the thread that runs jobs. The system may give the first thread hardly any.
const STACK: usize = 64 << 20;

fn main() {
    let thread = std::thread::Builder::new().name("worker".to_owned()).stack_size(STACK);
    match thread.spawn(run) {
        // It ends the process itself.
        Ok(running) => drop(running.join()),
        Err(error) => eprintln!("mopd-worker: the system refuses a thread of {} MiB: {error}", STACK >> 20),
    }
    exit_at_once(FAILED)
}

fn run() {
    install_hook();
    disable_trim();
    orphans::adopt();
    let current = Current::default();
    let on_signal = current.clone();
    let handled = ignore_sigxfsz().and_then(|()| on_termination(move || on_signal.signal()));
    let handled = handled
        .map_err(|error| Error::new(FailureKind::Runtime, format!("signals cannot be handled: {error}")));
    let mut arguments = std::env::args().skip(1);
    let status = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => once(&current, handled),
        (Some(SERVE), None) => serve(&current, handled),
        _ => {
            eprintln!("mopd-worker is started by mopd; its only argument is `{SERVE}`");
            USAGE_ERROR
        }
    };
    end(status)
}

/// Ends this process. Each event was flushed when emitted, and whatever else must be cleaned up belongs to a
/// job.
fn end(status: u8) -> ! {
    orphans::kill_all();
    exit_at_once(status)
}

/// The job under way, shared with the threads and signal handlers that may stop it.
#[derive(Clone, Default)]
struct Current(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    control: Option<Arc<Control>>,
    /// Standard input has ended.
    abandoned: bool,
    /// No job is to begin any more.
    ending: bool,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Arc<Control> {
        let control = Arc::new(Control::new(std::io::stdout()));
        let mut state = self.lock();
        if state.abandoned {
            control.abandon();
        }
        if state.ending {
            control.interrupt();
        }
        state.control = Some(control.clone());
        control
    }

    fn finish(&self) {
        self.lock().control = None;
    }

    /// Asks the current job to end at its next step. Does nothing if no job runs.
    fn stop(&self) {
        if let Some(control) = &self.lock().control {
            control.interrupt();
        }
    }

    /// Stops the current job, and no job follows it.
    fn end(&self) {
        let mut state = self.lock();
        state.ending = true;
        if let Some(control) = &state.control {
            control.interrupt();
            exit_if_idle(control);
        }
    }

    /// Stops the current job because the process that reads the events is gone.
    fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        if let Some(control) = &state.control {
            control.abandon();
            exit_if_idle(control);
        }
    }

    /// Handles a signal. The first lets the job finish its step; the second ends the process at once, as does
    /// one while no job runs.
    fn signal(&self) {
        match &self.lock().control {
            Some(control) if control.signal() => exit_if_idle(control),
            _ => end(INTERRUPTED),
        }
    }
}

/// Ends the process if the job has no work to save: reading or hashing data and models may take minutes,
/// and need not be waited for.
fn exit_if_idle(control: &Control) {
    if !control.at_work() {
        control.emit(&Event::Interrupted { finished: 0, tasks: 0 });
        end(INTERRUPTED);
    }
}

/// Runs the job on the first line of standard input.
fn once(current: &Current, handled: Result<()>) -> u8 {
    let read = || {
        handled?;
        let mut text = String::new();
        let read = std::io::stdin().read_line(&mut text).map_err(|error| error.to_string());
        read.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string())).map_err(|error| {
            Error::new(
                FailureKind::Runtime,
                format!(
                    "cannot read a job from standard input: \
                {error}"
                ),
            )
        })
    };
    let job = read();
    let stopping = current.clone();
    std::thread::spawn(move || listen(None, &stopping));
    finish(current, |control, progress| work(&job?, &device::open_cuda(), None, control, progress))
}

/// Runs jobs until standard input ends.
fn serve(current: &Current, handled: Result<()>) -> u8 {
    let (sender, requests) = channel();
    let stopping = current.clone();
    std::thread::spawn(move || listen(Some(sender), &stopping));
    let cuda = device::open_cuda();
    let cache = DataCache::default();
    let mut handled = Some(handled);
    for job in requests {
        finish(current, |control, progress| {
            handled.take().unwrap_or(Ok(()))?;
            work(&job?, &cuda, Some(&cache), control, progress)
        });
        release_free();
    }
    SUCCESS
}

/// Reads requests to the end of standard input, and sends jobs to `jobs` if there is one.
fn listen(mut jobs: Option<Sender<Result<Job>>>, current: &Current) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let job = match serde_json::from_str(&line) {
            Ok(WorkerRequest::Begin { job }) => Ok(job),
            Ok(WorkerRequest::Stop) => {
                current.stop();
                continue;
            }
            Ok(WorkerRequest::End) => {
                current.end();
                jobs = None;
                continue;
            }
            Err(error) => Err(Error::new(
                FailureKind::Runtime,
                format!(
                    "cannot read a request from standard \
                    input: {error}"
                ),
            )),
        };
        // The receiver is gone if the worker is ending.
        if let Some(jobs) = &jobs {
            let _ = jobs.send(job);
        }
    }
    current.abandon();
}

/// Runs a job, emits how it ended, and returns the exit status.
fn finish(current: &Current, work: impl FnOnce(&Control, &mut JobProgress) -> Result<Option<u64>>) -> u8 {
    let started = Instant::now();
    let control = current.begin();
    let mut progress = JobProgress::default();
    let outcome = caught(|| work(&control, &mut progress)).flatten();
    // First of all: a client that sees the final event may send the next job, and then stop that one.
    current.finish();
    match outcome {
        Ok(finished) => {
            if let Some(peak_memory) = finished {
                let seconds = started.elapsed().as_secs_f64();
                control.emit(&Event::Finished { seconds, peak_memory });
            }
            SUCCESS
        }
        Err(Error::Failed(failure)) => {
            control.emit(&Event::Failed(*failure));
            FAILED
        }
        Err(Error::Interrupted) => {
            let JobProgress { finished, tasks } = progress;
            control.emit(&Event::Interrupted { finished, tasks });
            INTERRUPTED
        }
    }
}

/// Runs the job. Returns the most memory that was held, if there was a job to finish.
fn work(
    job: &Job,
    cuda: &Cuda,
    cache: Option<&DataCache>,
    control: &Control,
    progress: &mut JobProgress,
) -> Result<Option<u64>> {
    // The job may have been stopped before it began.
    control.check()?;
    let wanted = |plan: &Plan| -> Result<Place> {
        let place = cuda.wanted(plan.experiment.device, plan.experiment.gpu)?;
        if place.device == Device::Cpu && !plan.experiment.gpu.is_default() {
            control.warn("`deterministic` and `tf32` are settings of a GPU: on the CPU they change nothing");
        }
        Ok(place)
    };
    let place = match job {
        Job::Run(job) | Job::Predict(job) | Job::Why(job) => wanted(&job.plan)?,
        Job::Floor(job) => wanted(&job.run.plan)?,
        Job::Files(_)
        | Job::Servers(_)
        | Job::Probe
        | Job::Sample(_)
        | Job::Serve(_)
        | Job::Rewards(_)
        | Job::Read(_)
        | Job::Compare(_)
        | Job::Differences(_)
        | Job::Delta(_)
        | Job::Merged(_)
        | Job::Generate(_)
        | Job::Bench(_) => cuda.place(),
    };
    let versions = versions();
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    // A run's tasks have their own numbers of threads. Serving and sampling do one thing at a time, on all.
    let alone = matches!(job, Job::Serve(_) | Job::Sample(_));
    tch::set_num_threads(if alone { threads as i32 } else { 1 });
    control.emit(&Event::Ready { versions: versions.clone(), device: place.name(), threads });
    if let Some(warning) = cuda.warning() {
        control.warn(warning);
    }
    match job {
        Job::Probe => return Ok(None),
        Job::Sample(job) => sample::sample(job, place, control)?,
        Job::Serve(job) => serve::serve(job, place, control)?,
        Job::Rewards(job) => serve::rewards(job, control)?,
        Job::Read(job) => read::read(job, control)?,
        Job::Compare(job) => read::compare(job, control)?,
        Job::Differences(job) => read::differences(job, control)?,
        Job::Delta(job) => delta::delta(job, control)?,
        Job::Merged(job) => store::write_merged(job)?,
        Job::Files(job) => schedule::files(job, &versions, place, control)?,
        Job::Servers(job) => schedule::servers(job, control)?,
        Job::Predict(job) => schedule::predict(job, &versions, place, control)?,
        Job::Why(job) => schedule::explain_reruns(job, &versions, place, control)?,
        Job::Bench(job) => bench::divergence::bench(job, place, control)?,
        Job::Generate(job) => bench::generate::generate(job, place, control)?,
        Job::Floor(job) => bench::floor::floor(job, place, control)?,
        Job::Run(job) => schedule::run(job, &versions, place, cache, control, progress)?,
    }
    Ok(Some(peak_memory(place)))
}

fn versions() -> Versions {
    Versions {
        mopd: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch: env!("MOPD_LIBTORCH_VERSION").to_owned(),
    }
}
