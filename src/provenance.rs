//! The circumstances of a run's start, besides its text: `provenance.json` in its folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

pub use mopd_store::results_folder::PROVENANCE;

/// The provenance of a run. Other programs read this file, so fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunProvenance {
    /// The words of the command line, the program first.
    pub command: Vec<String>,
    /// The values that were set from outside, by name: with `--set`, or as a member of a sweep. Empty in
    /// files of older versions.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// When the run was last started, in UTC.
    pub started: String,
    /// The repository of the experiment's folder; `None` if there is none, or no git.
    pub git: Option<Git>,
    pub machine: Machine,
    /// What ran before that, of the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<EarlierPieces>,
}

/// The pieces of a run before the last one, of the same plan in the same folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlierPieces {
    /// Seconds up to the last results, and the `keys` of those: with others, they are of another run.
    pub finished: f64,
    pub keys: Option<String>,
    /// Seconds after that, of pieces that did not finish: those in the events file, as long as it exists.
    pub unfinished: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    pub commit: String,
    /// Whether tracked files had uncommitted changes.
    pub dirty: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: Option<String>,
    pub cores: Option<usize>,
    /// In bytes.
    pub memory: Option<u64>,
}

impl RunProvenance {
    /// The provenance of a run that starts now, of an experiment in this folder with values set from outside.
    pub fn now(folder: &Path, set: &[(String, String)], started: String) -> RunProvenance {
        let mut command = vec!["mopd".to_owned()];
        command.extend(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()));
        RunProvenance {
            command,
            set: set.iter().cloned().collect(),
            started,
            git: git(folder),
            machine: machine(),
            earlier: None,
        }
    }

    /// The options of `mopd run` that set these values, for a shell.
    pub fn set_options(&self) -> String {
        let option = |(name, value): (&String, &String)| {
            // Only a value with a NUL character can't be quoted, and none comes from a command line.
            let value = shlex::try_quote(value).unwrap_or(value.into());
            format!(" --set {name}={value}")
        };
        self.set.iter().map(option).collect()
    }
}

fn git(folder: &Path) -> Option<Git> {
    let said = |words: &[&str]| {
        let mut git = Command::new("git");
        // Read-only: takes no lock, and starts no program that a repository configures.
        git.env("GIT_OPTIONAL_LOCKS", "0").args(["-c", "core.fsmonitor=false"]);
        git.current_dir(folder).args(words).stdin(Stdio::null()).stderr(Stdio::null());
        let output = git.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let commit = said(&["rev-parse", "HEAD"])?.trim().to_owned();
    let dirty = !said(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Some(Git { commit, dirty })
}

fn machine() -> Machine {
    let value = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kilobytes = value("/proc/meminfo", "MemTotal");
    Machine {
        processor: value("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().ok().map(usize::from),
        memory: kilobytes
            .and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_of_a_shell() {
        let set =
            [("seed", "10"), ("name", "it's $HOME")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let provenance = RunProvenance::now(Path::new("."), &set, String::new());
        let options = provenance.set_options();
        assert!(options.ends_with(" --set seed=10"), "{options}");
        let words = shlex::split(&options).expect("words of a shell");
        assert_eq!(words, ["--set", "name=it's $HOME", "--set", "seed=10"]);
        // A file of an older version.
        let old = r#"{"command": ["mopd"], "started": "", "git": null, "machine": {}}"#;
        assert_eq!(serde_json::from_str::<RunProvenance>(old).unwrap().set_options(), "");
    }

    #[test]
    fn changes_that_are_not_committed_are_dirty() {
        let folder = tempfile::tempdir().unwrap();
        let git_says = |words: &[&str]| {
            let mut git = Command::new("git");
            git.current_dir(folder.path()).args(["-c", "user.name=a", "-c", "user.email=a@example.com"]);
            git.args(words).output().is_ok_and(|output| output.status.success())
        };
        if !git_says(&["init"]) {
            return;
        }
        assert_eq!(git(folder.path()), None, "no commit yet");
        std::fs::write(folder.path().join("a.mopd"), "1").unwrap();
        assert!(git_says(&["add", "."]) && git_says(&["commit", "-m", "a"]));
        let clean = git(folder.path()).unwrap();
        assert!(clean.commit.len() >= 40 && !clean.dirty, "{clean:?}");
        // An untracked file is not a change.
        std::fs::write(folder.path().join("notes"), "1").unwrap();
        assert_eq!(git(folder.path()), Some(clean.clone()));
        std::fs::write(folder.path().join("a.mopd"), "2").unwrap();
        assert_eq!(git(folder.path()), Some(Git { dirty: true, ..clean }));
    }
}
