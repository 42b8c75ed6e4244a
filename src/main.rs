//! The command line. Results go to standard output, everything else to standard error. The exit status is
//! 0 for success, 1 if the experiment is wrong or the run failed, 2 if the command was used wrongly or a
//! file can't be read or written, 130 if a run was interrupted.

#![forbid(unsafe_code)]

mod archive;
mod args;
mod commands;
mod compile;
mod crash;
mod figures;
mod host;
mod intervals;
mod libtorch;
mod lsp;
mod metrics;
mod output;
mod paths;
mod problem;
mod progress;
mod provenance;
mod render;
mod run_events;
mod run_folder;
mod run_lock;
mod starter;
mod table;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::problem::{CommandStatus, Problem};

fn main() -> ExitCode {
    crash::install_hook();
    // If the handler can't be installed, a file that is too large ends the program, as by default.
    let _ = mopd_store::signals::ignore_sigxfsz();
    let arguments = args::Cli::parse_from(args::joined(std::env::args_os()));
    let begun = commands::begin(&arguments.output);
    let status = begun.and_then(|()| commands::dispatch(arguments.command)).unwrap_or_else(reported);
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
