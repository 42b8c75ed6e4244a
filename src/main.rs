//! The command line. Results go to standard output, everything else to standard error. The exit status is
//! 0 for success, 1 if the experiment is wrong or the run failed, 2 if the command was used wrongly or a
//! file can't be read, 130 if a run was interrupted.

#![forbid(unsafe_code)]

mod archive;
mod args;
mod commands;
mod crash;
mod figures;
mod host;
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

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    crash::install_hook();
    // If the handler can't be installed, a file that is too large ends the program, as by default.
    let _ = mopd_store::signals::ignore_sigxfsz();
    let arguments = args::Cli::parse_from(args::joined(std::env::args_os()));
    let begun = commands::begin(&arguments.output);
    match begun.and_then(|()| commands::dispatch(arguments.command)) {
        Ok(status) => status.into(),
        Err(problem) => {
            problem.report();
            problem.status().into()
        }
    }
}
