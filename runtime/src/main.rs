//! `mopd-worker`: reads one job from standard input, answers with events on standard output.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use mopd_compiler::plan::events::{Event, FailureKind, Job, Versions};
use mopd_runtime::control::Control;
use mopd_runtime::failure::{Error, Result};
use mopd_runtime::memory::peak_memory;
use mopd_runtime::report::read;
use mopd_runtime::schedule::Progress;
use mopd_runtime::{bench, device, sample, schedule};

fn main() -> ExitCode {
    // A panic is reported as a failure of the job; its trace would only hide that message.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let control = Arc::new(Control::new(std::io::stdout()));
    let mut progress = Progress::default();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&control, &mut progress)))
        .unwrap_or_else(|panic| Err(Error::from_panic(panic.as_ref())));
    match outcome {
        Ok(finished) => {
            if finished {
                let (seconds, peak_memory) = (started.elapsed().as_secs_f64(), peak_memory());
                control.emit(&Event::Finished { seconds, peak_memory });
            }
            ExitCode::SUCCESS
        }
        Err(Error::Failed(failure)) => {
            control.emit(&Event::Failed(*failure));
            ExitCode::from(1)
        }
        Err(Error::Interrupted) => {
            let Progress { finished, tasks } = progress;
            control.emit(&Event::Interrupted { finished, tasks });
            ExitCode::from(130)
        }
    }
}

/// Whether there was a job to finish.
fn work(control: &Arc<Control>, progress: &mut Progress) -> Result<bool> {
    let on_signal = Arc::clone(control);
    let handler = move || {
        // Asked twice, it does not even finish the step.
        if on_signal.interrupted() {
            std::process::exit(130);
        }
        on_signal.interrupt();
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Error::new(FailureKind::Runtime, format!("signals cannot be handled: {error}")))?;

    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string());
    let job: Job = read
        .and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string()))
        .map_err(|error| Error::new(FailureKind::Runtime, format!("standard input holds no job: {error}")))?;

    let cuda = device::open_cuda();
    let device = match &job {
        Job::Run(job) | Job::Predict(job) => cuda.wanted(job.plan.experiment.device)?,
        Job::Probe | Job::Sample(_) | Job::Read(_) | Job::Bench(_) => cuda.device(),
    };
    tch::set_num_threads(1);
    let versions = Versions { mopd: env!("CARGO_PKG_VERSION").to_owned(), libtorch: env!("MOPD_LIBTORCH_VERSION").to_owned() };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    control.emit(&Event::Ready { versions: versions.clone(), device: device::name(device), threads });
    if let Some(warning) = cuda.warning() {
        control.warn(warning);
    }
    match job {
        Job::Probe => return Ok(false),
        Job::Sample(job) => sample::sample(&job, device, control)?,
        Job::Read(job) => read::read(&job, control)?,
        Job::Predict(job) => schedule::predict(&job, device, control)?,
        Job::Bench(job) => bench::bench(&job, device, control)?,
        Job::Run(job) => schedule::run(&job, &versions, device, control, progress)?,
    }
    Ok(true)
}
