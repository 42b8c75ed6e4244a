//! The command line. The program `mopd` calls [`main`], and the fuzz target `server` calls [`talk`]. Results
//! go to standard output, everything else to standard error. The exit status is 0 for success, 1 if the
//! experiment is wrong or the run failed, 2 if the command was used wrongly or a file can't be read or
//! written, 130 if a run was interrupted.

#![forbid(unsafe_code)]

mod answers;
mod archive;
mod args;
mod clock;
mod commands;
mod compile;
mod crash;
mod data;
mod engine_python;
mod figures;
mod headline;
mod host;
mod intervals;
mod libtorch;
mod lsp;
mod metrics;
mod model_argument;
mod named_python;
mod output;
mod paths;
mod problem;
mod progress;
mod provenance;
mod render;
mod run_events;
mod run_folder;
mod run_lock;
mod run_settings;
mod run_status;
mod run_time;
mod standalone;
mod starter;
mod sweep_folder;
mod table;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use crate::problem::{CommandStatus, Problem};

pub use crate::lsp::talk;

/// Runs the command in the arguments of the process.
pub fn main() -> ExitCode {
    crash::install_hook();
    // A check needs more stack than the system gives to the first thread, which may have hardly any.
    match mopd_experiment::stack::on_new_thread(run) {
        Ok(status) => status.unwrap_or(ExitCode::FAILURE),
        Err(error) => reported(no_stack(&error)).into(),
    }
}

fn no_stack(error: &std::io::Error) -> Problem {
    let message = format!(
        "can't reserve {} MiB of address space for the stack: {}",
        mopd_experiment::stack::RESERVED >> 20,
        host::reason(error)
    );
    Problem::usage("no-memory", message)
        .help("raise the limits of address space and of threads: `ulimit -v` of at least 1 GiB, `ulimit -u`")
}

fn run() -> ExitCode {
    // If the handler can't be installed, a file that is too large ends the program, as by default.
    let _ = mopd_store::signals::ignore_sigxfsz();
    let run = args::parsed(std::env::args_os()).and_then(|arguments| {
        commands::begin(&arguments.output)?;
        commands::dispatch(arguments.command)
    });
    let status = run.unwrap_or_else(reported);
    let unwritten = output::unwritten().map(|error| Problem::unwritten(Path::new("standard output"), error));
    match (status, unwritten.map(reported)) {
        (CommandStatus::Success, Some(unwritten)) => unwritten.into(),
        (status, _) => status.into(),
    }
}

fn reported(problem: Problem) -> CommandStatus {
    problem.report();
    problem.status()
}
