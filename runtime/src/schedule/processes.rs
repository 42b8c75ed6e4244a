//! The processes that train the stages of a run together. The first one is the worker that `mopd` started. It
//! starts the others, which read the same plan, models and data, and makes them join each stage in turn. Only
//! the first one evaluates and writes results, checkpoints and events.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, Command as Program, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mopd_plan::events::{FailureKind, RunJob, Versions, WorkerRequest};
use mopd_plan::{ModelId, Stage};
use serde::{Deserialize, Serialize};

use super::Work;
use super::memory_budget::DeviceMemoryBudget;
use super::prepared::{PreparedPlan, cores, keys_of, prepared};
use super::run::{Scheduler, lock};
use crate::control::Control;
use crate::failure::{Error, Result, caught};
use crate::machine::arithmetic::Arithmetic;
use crate::machine::memory::{peak_of, reset_peak_of};
use crate::machine::place::Place;
use crate::model::Weights;
use crate::peers::{Peers, Rendezvous, RunSecret, unreadable};
use crate::program::orphans;
use crate::store::{Lookup, Store};
use crate::train::{LearnerTurn, RestoreMode};

/// The worker's command-line argument that makes it a process other than the first.
pub const PEER: &str = "peer";

/// Time that a process gets to end by itself.
const LEAVES: Duration = Duration::from_secs(5);

/// The job of a process other than the first, sent to its standard input.
#[derive(Serialize, Deserialize)]
pub struct PeerJob {
    run: RunJob,
    /// Its rank.
    rank: usize,
    /// Port on which the first process listens.
    port: u16,
    secret: RunSecret,
}

impl PeerJob {
    /// Reads the job from one line.
    pub fn read(input: &mut impl BufRead) -> Result<PeerJob> {
        let mut text = String::new();
        let read = input.read_line(&mut text).map_err(|error| error.to_string());
        read.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string())).map_err(|error| {
            failed(format!(
                "cannot read a job of a process from standard input: \
                {error}"
            ))
        })
    }

    pub fn run(&self) -> &RunJob {
        &self.run
    }
}

/// A command of the first process to the others.
#[derive(Serialize, Deserialize)]
enum Command {
    Train {
        task: usize,
        /// Key of the result: a process with another key would train something else.
        key: String,
        /// Step of the checkpoint to resume from.
        from: Option<u32>,
    },
    End,
}

/// The processes of a run, as one of them sees them.
pub(super) struct Processes {
    pub peers: Peers,
    /// Processes that this one has started.
    children: Mutex<ChildProcesses>,
}

impl Processes {
    /// Starts the others, and waits until they have read plan, models and data.
    pub fn start(job: &RunJob, control: &Control) -> Result<Processes> {
        let (size, secret) = (job.processes as usize, RunSecret::new());
        if size > cores() {
            control.warn(format!("{size} processes share {} cores, so they wait for each other", cores()));
        }
        let meeting = Rendezvous::new(size, secret)?;
        let mut started = ChildProcesses::default();
        for rank in 1..size {
            started.add(&PeerJob { run: job.clone(), rank, port: meeting.port(), secret })?;
        }
        // A signal may reach this process alone, which then waits for the others in a collective.
        let inputs = started.inputs.clone();
        control.on_interrupt(move || inputs.send(&WorkerRequest::End));
        let children = RefCell::new(&mut started);
        let peers = meeting.first(|| {
            control.check()?;
            match children.borrow_mut().find_ended() {
                Some((rank, status)) => Err(died(rank, size, status)),
                None => Ok(()),
            }
        })?;
        let processes = Processes { peers, children: Mutex::new(started) };
        let ready = processes.peers.all_or_none(control, Ok(()));
        ready.map_err(|error| processes.explained(error))?;
        Ok(processes)
    }

    /// Makes the others join a stage.
    pub fn train(&self, control: &Control, task: usize, key: &str, from: Option<u32>) -> Result<()> {
        self.send(&Command::Train { task, key: key.to_owned(), from })?;
        self.peers.all_or_none(control, Ok(()))
    }

    /// Tells the others to end.
    pub fn end(&self) {
        // A process that is gone need not be told.
        let _ = self.send(&Command::End);
    }

    fn send(&self, command: &Command) -> Result<()> {
        let command = serde_json::to_vec(command).expect("a command is plain data");
        self.peers.broadcast(0, &command).map(|_| ())
    }

    /// Sum of the peak memory of the other processes in a finished stage; to be called by all processes.
    pub fn memory_of_others(&self, own: Option<u64>) -> u64 {
        let own = if self.peers.is_first() { 0 } else { own.unwrap_or(0) };
        // The stage is finished: a process lost now is an error of the next stage.
        self.peers.all_reduce(&[own as f64]).map_or(0, |all| all[0] as u64)
    }

    /// Replaces an error by its cause, where that is a process that ended.
    pub fn explained(&self, error: Error) -> Error {
        if self.peers.lost().is_none() || matches!(error, Error::Interrupted) {
            return error;
        }
        let began = Instant::now();
        let mut children = lock(&self.children);
        // Connections close a little before the system reports how the process ended.
        while began.elapsed() < Duration::from_secs(2) {
            if let Some((rank, status)) = children.find_ended() {
                return died(rank, self.peers.size(), status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        error.help(AGAIN)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Before the children are waited for.
        self.peers.close();
    }
}

/// The standard inputs of child processes. Their end tells the children that this process is gone.
#[derive(Clone, Default)]
struct ChildInputs(Arc<Mutex<Vec<ChildStdin>>>);

impl ChildInputs {
    fn send(&self, request: &WorkerRequest) {
        let line = serde_json::to_string(request).expect("a request is plain data") + "\n";
        for input in &mut *lock(&self.0) {
            // A process that is gone need not be told.
            let _ = input.write_all(line.as_bytes());
        }
    }
}

/// Child processes from rank 1 on, killed on drop if they do not end by themselves.
#[derive(Default)]
struct ChildProcesses {
    children: Vec<Child>,
    inputs: ChildInputs,
}

impl ChildProcesses {
    fn add(&mut self, job: &PeerJob) -> Result<()> {
        let failed = |error: std::io::Error| {
            failed(format!("cannot start process {} of {}: {error}", job.rank, job.run.processes))
        };
        let mut peer = Program::new(std::env::current_exe().map_err(failed)?);
        peer.arg(PEER).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = orphans::spawn(&mut peer, false).map_err(failed)?;
        let mut input = child.stdin.take().expect("it is piped");
        self.children.push(child);
        let mut text = serde_json::to_vec(job).expect("a job is plain data");
        text.push(b'\n');
        input.write_all(&text).map_err(failed)?;
        lock(&self.inputs.0).push(input);
        Ok(())
    }

    /// A process that ended, with its status; preferably one killed by a signal, as others end in
    /// consequence.
    fn find_ended(&mut self) -> Option<(usize, ExitStatus)> {
        let ended = (1..).zip(&mut self.children).filter_map(|(rank, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some((rank, status))
        });
        ended.min_by_key(|(rank, status)| (status.code().is_some(), *rank))
    }
}

impl Drop for ChildProcesses {
    fn drop(&mut self) {
        lock(&self.inputs.0).clear();
        let began = Instant::now();
        for child in &mut self.children {
            while began.elapsed() < LEAVES && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            // It has usually ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const AGAIN: &str = "run the same command again: finished stages are kept, and the active stage resumes \
    from its last checkpoint";

fn died(rank: usize, size: usize, status: ExitStatus) -> Error {
    let (how, why) = match status.signal() {
        Some(9) => ("was killed (signal 9)".to_owned(), "; if memory ran out, use fewer processes"),
        Some(signal) => (format!("was killed by signal {signal}"), ""),
        None => (format!("ended ({status})"), ""),
    };
    failed(format!("process {rank} of {size} {how}")).help(format!("{AGAIN}{why}"))
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(FailureKind::Runtime, message)
}

/// The work of a process other than the first: it reads what the run reads, and joins its stages.
pub fn follow(job: &PeerJob, versions: &Versions, place: Place, control: &Control) -> Result<()> {
    let run = &job.run;
    let peers = Rendezvous::join(job.port, job.rank, run.processes as usize, job.secret)?;
    control.begin_work();
    let read = || {
        let store = Store::open(std::path::Path::new(&run.store))?;
        Ok((prepared(run, None, Some(&store), control)?, store))
    };
    let (prepared, store) = peers.all_or_none(control, read())?;
    let keys = keys_of(run, &prepared, &Arithmetic::of_this_machine(&versions.libtorch), place);
    let device_memory = DeviceMemoryBudget::detect(1, place).per_process(run.processes);
    let processes = Processes { peers, children: Mutex::default() };
    let mut scheduler = Scheduler::new(run, &prepared, keys, store, device_memory, place, control);
    scheduler.processes = Some(&processes);
    loop {
        let command = processes.peers.broadcast(0, &[])?;
        match serde_json::from_slice(&command).map_err(|error| unreadable(0, &error))? {
            Command::End => return Ok(()),
            Command::Train { task, key, from } => {
                let joined = caught(|| scheduler.join_in(&prepared, task, &key, from));
                joined.inspect_err(|error| {
                    // The first process only sees that this one is gone, so the reason is printed here.
                    eprintln!("process {} of {}: {error}", job.rank, run.processes);
                })??;
            }
        }
    }
}

impl Scheduler<'_> {
    /// Trains a stage together with the first process, which stores the result.
    fn join_in(&self, prepared: &PreparedPlan, task: usize, key: &str, from: Option<u32>) -> Result<()> {
        let processes = self.processes.expect("there is a first one");
        let read = || {
            if self.keys.of(task) != key {
                let message = "a process has read other models or data than the first one: files \
                    have changed in between, or the date has";
                return Err(failed(message).help("run the same command again"));
            }
            let state = match from {
                None => None,
                Some(step) => match self.store.state(key, step) {
                    Lookup::Found(state) => Some((state, RestoreMode::Resume)),
                    Lookup::Absent | Lookup::Damaged(_) => {
                        let message = format!("a process cannot read the checkpoint of step {step}");
                        return Err(failed(message).help("run the same command again"));
                    }
                },
            };
            let mut inputs: HashMap<usize, Arc<Weights>> = HashMap::new();
            for need in &prepared.tasks[task].needs {
                inputs.insert(*need, Arc::new(self.made_by(prepared, *need)?));
            }
            Ok((state, inputs))
        };
        let (state, inputs) = processes.peers.all_or_none(self.control, read())?;
        let Work::Stage(id) = prepared.tasks[task].work else {
            unreachable!("the keys are the same, so that the tasks are");
        };
        let Stage::Train(settings) = &self.plan.experiment.model(id).stage else {
            unreachable!("other stages are not trained by several processes");
        };
        tch::set_num_threads(self.widths[task] as i32);
        let _ = reset_peak_of(self.place);
        let steps = super::steps(&self.plan.experiment.model(id).stage, self.domains);
        let job = self.job(task, id, &inputs);
        let trained = self.train_from(&job, &[(settings, LearnerTurn::ALONE)], steps, state);
        trained.map_err(|stopped| stopped.error)?;
        processes.memory_of_others(peak_of(self.place));
        Ok(())
    }

    /// The weights of an earlier task.
    fn made_by(&self, prepared: &PreparedPlan, task: usize) -> Result<Weights> {
        let Work::Stage(ModelId(id)) = prepared.tasks[task].work else {
            unreachable!("only stages are needed by others");
        };
        match &prepared.specs[id as usize].loaded {
            Some(loaded) => Ok(loaded.weights.clone()),
            None => self.store.weights(self.keys.of(task)),
        }
    }
}
