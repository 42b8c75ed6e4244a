//! Errors outside an experiment: a file that can't be read, a missing worker, an unsupported option.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use mopd_plan::events::Failure;
use mopd_store::WriteError;
use mopd_store::files::reason;

use crate::output::{self, Style};

/// The exit status, as documented for the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandStatus {
    Success,
    /// The experiment or its run is wrong.
    Failure,
    /// The command was used wrongly, or a file can't be read or written.
    UsageError,
    /// Interrupted; the same command resumes it.
    Interrupted,
    /// That of a program that the command was asked to start.
    Program(u8),
}

impl CommandStatus {
    pub fn number(self) -> u8 {
        match self {
            CommandStatus::Success => 0,
            CommandStatus::Failure => 1,
            CommandStatus::UsageError => 2,
            CommandStatus::Interrupted => 130,
            CommandStatus::Program(number) => number,
        }
    }
}

impl From<CommandStatus> for ExitCode {
    fn from(status: CommandStatus) -> ExitCode {
        ExitCode::from(status.number())
    }
}

impl From<&Failure> for Problem {
    /// What ended a job of the worker that has no place in a program.
    fn from(failure: &Failure) -> Problem {
        let problem = Problem::run(failure.kind.name(), failure.message.clone());
        match &failure.help {
            Some(help) => problem.help(help.clone()),
            None => problem,
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Problem {
        let problem = Problem::unwritten(&error.path, &error.source);
        match error.help() {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

/// An error of the command itself, not of a place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable name in kebab case.
    name: &'static str,
    /// One line that is understandable on its own.
    message: String,
    help: Option<String>,
    status: CommandStatus,
}

impl Problem {
    /// Wrong use, or an input that can't be read: exit status 2.
    pub fn usage(name: &'static str, message: impl Into<String>) -> Problem {
        Problem { name, message: message.into(), help: None, status: CommandStatus::UsageError }
    }

    /// The run failed: exit status 1.
    pub fn run(name: &'static str, message: impl Into<String>) -> Problem {
        Problem { status: CommandStatus::Failure, ..Problem::usage(name, message) }
    }

    /// Stopped by a signal.
    pub fn interrupted() -> Problem {
        Problem { status: CommandStatus::Interrupted, ..Problem::usage("interrupted", "interrupted") }
    }

    /// A documented feature that this version lacks.
    pub fn not_supported(what: &str) -> Problem {
        Problem::usage("not-supported-yet", format!("{what} is not supported yet"))
    }

    /// A file that can't be written: exit status 2.
    pub fn unwritten(path: &Path, error: &io::Error) -> Problem {
        Problem::usage("can't-write", format!("can't write {}: {}", path.display(), reason(error)))
    }

    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    pub fn status(&self) -> CommandStatus {
        self.status
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub fn text(&self, style: Style) -> String {
        if self.status == CommandStatus::Interrupted {
            return format!("{}\n", output::printable(&self.message));
        }
        let mut text = format!(
            "{}{}\n",
            style.red(&format!("error[{}]", self.name)),
            style.bold(&format!(": {}", output::printable(&self.message)))
        );
        if let Some(help) = &self.help {
            text += &output::hanging(&style.cyan("  help: "), "        ", &output::printable(help));
        }
        text
    }

    pub fn report(&self) {
        output::error(&self.text(Style::of_stderr()));
    }
}
