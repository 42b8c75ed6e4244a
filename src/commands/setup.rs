//! `mopd setup`: downloads libtorch, where there is none that the worker can use.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mopd_store::programs::python;

use crate::host::reason;
use crate::libtorch::{self, PINS};
use crate::output;
use crate::problem::{Problem, Status};

/// The program that `./x` uses too.
const FETCH: &str = include_str!("../../setup/libtorch.py");

/// Its folder goes to standard output, so that a shell can take it for `LIBTORCH`.
pub fn setup() -> Result<Status, Problem> {
    let found = libtorch::find()?;
    if let Some(ignored) = found.ignored {
        output::error(&format!("setup: {ignored}\n"));
    }
    if let Some(libtorch) = found.libtorch {
        let (version, source) = (libtorch::version(), libtorch.source.text());
        output::error(&format!("setup: libtorch {version} is here already ({source})\n"));
        output::result(&format!("{}\n", libtorch.folder.display()));
        return Ok(Status::Good);
    }
    if Path::new("/proc/driver/nvidia/version").exists() {
        let version = libtorch::version();
        output::error(&format!(
            "setup: this machine has a GPU, and what is downloaded is for the processor only: to use the \
             GPU, `pip install torch=={version}` where mopd is installed, instead of `mopd setup`\n"
        ));
    }
    let folder = fetch()?;
    output::result(&folder);
    Ok(Status::Good)
}

fn fetch() -> Result<String, Problem> {
    let program = python();
    let failed = |error: std::io::Error| {
        Problem::usage("no-libtorch", format!("{program} can't be started: {}", reason(&error)))
            .help(format!("the download needs Python 3 with pip. Otherwise: {}", libtorch::how_to_get()))
    };
    // The program on its standard input, the pins as an argument: an installed mopd has no files of its own.
    let mut child = Command::new(&program)
        .args(["-", "fetch", PINS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that stopped reading says why itself.
        let _ = input.write_all(FETCH.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let folder = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(folder),
        false => Err(Problem::run("no-libtorch", "libtorch could not be downloaded")
            .help("what is above says why. The same command goes on with what is missing")),
    }
}
