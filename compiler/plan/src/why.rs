//! What a run would do with the stages of a plan, and why. For `mopd plan --why`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run would do with a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageFate {
    pub stage: String,
    pub seed: u64,
    /// Whether its result is in the store.
    pub kept: bool,
    /// Why the stored result can't be used, if it was changed since it was written: "incomplete: ...".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// The number of steps of the last checkpoint under the stage's key.
    pub checkpoint: Option<u32>,
    /// The earlier run whose dependencies of the stage are most similar. `None` if no run had a stage of its
    /// name and seed.
    pub before: Option<EarlierRun>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlierRun {
    /// The run's folder of results.
    pub out: String,
    /// The parts of the key that differ; empty if the key is the same.
    pub changed: Vec<KeyPart>,
}

/// A dependency of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum KeyPart {
    Settings,
    Tokenizer,
    /// The rows of a domain that the stage trains on, validates on, or is judged by.
    Data {
        domain: String,
    },
    /// The program or files of a domain's reward.
    Program {
        domain: String,
        /// The files that changed, were added or were removed; empty if they are not known.
        files: Vec<String>,
    },
    /// The same data in another order, since the stage lists its domains in another one.
    DomainOrder,
    /// The date, which a chat template contains.
    Day {
        domain: String,
    },
    /// The programs that the stage's rollouts start.
    RolloutPrograms {
        files: Vec<String>,
    },
    /// The model that serves a teacher.
    Served,
    Input {
        model: String,
    },
    /// The arithmetic of the machine, mopd and libtorch, or the number of cores.
    Arithmetic,
    Fork,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            KeyPart::Settings => formatter.write_str("its settings"),
            KeyPart::Tokenizer => formatter.write_str("its tokenizer"),
            KeyPart::Data { domain } => write!(formatter, "the data of `{domain}`"),
            KeyPart::DomainOrder => formatter.write_str("the order of its domains' data"),
            KeyPart::Program { domain, files } if files.is_empty() => {
                write!(formatter, "the program of the reward of `{domain}`")
            }
            KeyPart::Program { domain, files } => {
                write!(formatter, "{} of the reward of `{domain}`", quoted(files))
            }
            KeyPart::Day { domain } => write!(formatter, "the day, which a template of `{domain}` writes"),
            KeyPart::Served => formatter.write_str("a teacher on a server"),
            KeyPart::RolloutPrograms { files } if files.is_empty() => {
                formatter.write_str("a program of its rollouts")
            }
            KeyPart::RolloutPrograms { files } => {
                write!(formatter, "{} of the programs of its rollouts", quoted(files))
            }
            KeyPart::Input { model } => write!(formatter, "`{model}`"),
            KeyPart::Arithmetic => formatter.write_str("the arithmetic"),
            KeyPart::Fork => formatter.write_str("the checkpoint that it goes on from"),
        }
    }
}

/// `` `judge.py`, `rules/math.py` and 3 more ``
fn quoted(files: &[String]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = files.iter().take(SHOWN).map(|file| format!("`{file}`")).collect();
    match files.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
