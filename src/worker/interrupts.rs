//! Forwards signals to the worker. The first one (Ctrl-C, `kill`, a closed terminal) makes the worker end
//! its step and write a checkpoint; the second ends it at once.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use mopd_plan::events::WorkerRequest;
use mopd_store::signals::on_termination;

use super::{Kill, Requests, Worker};
use crate::output;
use crate::problem::CommandStatus;

#[derive(Default)]
pub struct Interrupts(Mutex<SignalState>);

#[derive(Default)]
struct SignalState {
    count: u32,
    worker: Option<ActiveWorker>,
}

/// The current worker.
struct ActiveWorker {
    requests: Requests,
    kill: Kill,
    say: Box<dyn Fn() + Send>,
}

/// Signals reach the worker until this is dropped.
pub struct ForwardGuard(&'static Interrupts);

impl Interrupts {
    /// The handler of this process. From the first call on, signals no longer end the process.
    pub fn handled() -> &'static Interrupts {
        static INTERRUPTS: OnceLock<Interrupts> = OnceLock::new();
        let mut new = false;
        let interrupts = INTERRUPTS.get_or_init(|| {
            new = true;
            Interrupts::default()
        });
        if new && let Err(error) = on_termination(|| interrupts.heard()) {
            output::error(&format!("warning: Ctrl-C will stop this without a report: {error}\n"));
        }
        interrupts
    }

    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        let mut state = self.lock();
        state.count += 1;
        match (&state.worker, state.count) {
            (Some(worker), 1) => worker.stop(),
            (Some(worker), _) => worker.kill.kill(),
            // The next job is not started.
            (None, 1) => {}
            (None, _) => std::process::exit(CommandStatus::Interrupted.number().into()),
        }
    }

    /// Forwards signals to a worker that trains: it stops after its step, which `say` reports. An earlier
    /// signal is also forwarded.
    pub fn forward_to(&'static self, worker: &Worker, say: impl Fn(&str) + Send + 'static) -> ForwardGuard {
        self.forward(worker, move || say("stopping after this step; Ctrl-C or SIGTERM again stops at once\n"))
    }

    /// Forwards signals to a worker without results to keep, which ends at once.
    pub fn end_with(&'static self, worker: &Worker) -> ForwardGuard {
        self.forward(worker, || ())
    }

    fn forward(&'static self, worker: &Worker, say: impl Fn() + Send + 'static) -> ForwardGuard {
        let worker = ActiveWorker { requests: worker.requests(), kill: worker.killer(), say: Box::new(say) };
        let mut state = self.lock();
        if state.count > 0 {
            worker.stop();
        }
        state.worker = Some(worker);
        ForwardGuard(self)
    }

    pub fn any(&self) -> bool {
        self.lock().count > 0
    }
}

impl ActiveWorker {
    fn stop(&self) {
        // A request without data can always be serialised.
        let _ = self.requests.send(&WorkerRequest::End);
        (self.say)();
    }
}

impl Drop for ForwardGuard {
    fn drop(&mut self) {
        self.0.lock().worker = None;
    }
}
