//! `mopd completions`: shell completions for commands and options.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::output;
use crate::problem::{CommandStatus, Problem};

pub fn completions(arguments: &CompletionsArgs) -> Result<CommandStatus, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "mopd", &mut script);
    // Verbatim, since a shell reads it.
    output::verbatim(&String::from_utf8_lossy(&script));
    Ok(CommandStatus::Success)
}
