//! The command line. Results go to standard output, everything else to standard error; the exit status is 0
//! for good, 1 where the experiment or its run is wrong, 2 where the command was used wrongly or a file can't
//! be read, 130 where a run was interrupted.

mod args;
mod commands;
mod crash;
mod figures;
mod host;
mod lsp;
mod metrics;
mod output;
mod paths;
mod problem;
mod progress;
mod render;
mod run_folder;
mod run_lock;
mod starter;
mod table;
mod worker;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    crash::install_hook();
    let arguments = args::Cli::parse();
    match commands::dispatch(arguments.command) {
        Ok(status) => status.into(),
        Err(problem) => {
            problem.report();
            problem.status().into()
        }
    }
}
