//! `mopd man`: the manual, generated from the definition of the command line.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use mopd_lang::diag::nearest;

use crate::args::{Cli, ManArgs};
use crate::output;
use crate::problem::{CommandStatus, Problem};

pub fn man(arguments: &ManArgs) -> Result<CommandStatus, Problem> {
    let mut mopd = Cli::command();
    mopd.build();
    if let Some(folder) = &arguments.out {
        pages(&mopd, folder)?;
        return Ok(CommandStatus::Success);
    }
    let command = match &arguments.command {
        None => mopd,
        Some(name) => command(&mopd, name)?,
    };
    // Verbatim, since `man` reads it.
    output::verbatim(&page(command)?);
    Ok(CommandStatus::Success)
}

/// Writes the page of mopd and those of all commands, including subcommands; returns the names of the files.
fn pages(command: &Command, folder: &Path) -> Result<(), Problem> {
    let unwritten = |path: &Path, error| Problem::unwritten(path, &error);
    std::fs::create_dir_all(folder).map_err(|error| unwritten(folder, error))?;
    let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or(command.get_name())));
    std::fs::write(&path, page(command.clone())?).map_err(|error| unwritten(&path, error))?;
    output::result(&format!("{}\n", path.display()));
    shown(command).try_for_each(|command| pages(command, folder))
}

/// The commands within one that have a page.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn command(mopd: &Command, name: &str) -> Result<Command, Problem> {
    if let Some(found) = shown(mopd).find(|command| command.get_name() == name) {
        return Ok(found.clone());
    }
    let problem = Problem::usage("unknown-command", format!("mopd has no command `{name}`"));
    Err(match nearest(name, shown(mopd).map(Command::get_name)) {
        Some(meant) => problem.help(format!("did you mean `mopd man {meant}`?")),
        None => problem.help("`mopd --help` lists the commands"),
    })
}

fn page(command: Command) -> Result<String, Problem> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command)
        .title(name)
        .render(&mut page)
        .map_err(|error| Problem::run("can't-write", format!("the page can't be made: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
