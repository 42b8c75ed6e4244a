//! The environments of `turns`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checked::commands::without_absolute_paths;

/// The program that replies to the student's turns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentProgram {
    /// A class of Python, an instance of which plays an episode, in a process of mopd.
    Python {
        /// Relative to the source file.
        file: String,
        class: String,
    },
    /// A command that reads and writes JSON lines.
    #[serde(untagged)]
    Command(String),
}

impl EnvironmentProgram {
    /// The text that names its files, as in a command line.
    pub fn command(&self) -> &str {
        match self {
            EnvironmentProgram::Command(command) => command,
            EnvironmentProgram::Python { file, .. } => file,
        }
    }

    /// The same without paths that only locate files.
    pub fn without_paths(&self) -> EnvironmentProgram {
        let mut program = self.clone();
        let (EnvironmentProgram::Command(text) | EnvironmentProgram::Python { file: text, .. }) =
            &mut program;
        *text = without_absolute_paths(text);
        program
    }
}

/// As in messages.
impl fmt::Display for EnvironmentProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvironmentProgram::Command(command) => f.write_str(command),
            EnvironmentProgram::Python { file, class } => write!(f, "{file}:{class}"),
        }
    }
}
