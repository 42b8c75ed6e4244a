//! `mopd setup`: downloads libtorch, where there is none that the worker can use.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mopd_store::programs::python;

use crate::args::SetupArgs;
use crate::host::reason;
use crate::libtorch::{self, Libtorch, LibtorchSource, PINS};
use crate::output;
use crate::problem::{CommandStatus, Problem};

/// The download script, which `./x` also uses.
const FETCH: &str = include_str!("../../tools/setup/libtorch.py");

/// A device file that the driver of a GPU creates.
const GPU: &str = "/dev/nvidia0";

/// Prints the folder on standard output, so that a shell can assign it to `LIBTORCH`.
pub fn setup(arguments: &SetupArgs) -> Result<CommandStatus, Problem> {
    let cuda = arguments.cuda || Path::new(GPU).exists();
    let found = libtorch::find()?;
    if let Some(ignored) = found.ignored {
        output::error(&format!("setup: {ignored}\n"));
    }
    // A libtorch that the user chose is not replaced.
    let chosen = |libtorch: &Libtorch| libtorch.source != LibtorchSource::Setup;
    if let Some(libtorch) = found.libtorch.filter(|libtorch| chosen(libtorch) || !cuda || libtorch.has_cuda())
    {
        if cuda && !libtorch.has_cuda() {
            output::error("warning: this libtorch has no CUDA libraries, so the CPU is used\n");
        }
        let (version, source) = (libtorch::version(), libtorch.source.text());
        output::error(&format!("setup: libtorch {version} is here already ({source})\n"));
        output::result(&format!("{}\n", libtorch.folder.display()));
        return Ok(CommandStatus::Success);
    }
    if cuda {
        output::note("setup: for a GPU, all of torch and NVIDIA's libraries are fetched, some 5 GB\n");
    }
    let folder = fetch(if cuda { "fetch-cuda" } else { "fetch" })?;
    output::result(&folder);
    Ok(CommandStatus::Success)
}

/// `what` is the script's argument.
fn fetch(what: &str) -> Result<String, Problem> {
    let program = python();
    let failed = |error: std::io::Error| {
        Problem::usage("no-libtorch", format!("cannot start {program}: {}", reason(&error)))
            .help(format!("the download needs Python 3 with pip. Otherwise: {}", libtorch::how_to_get()))
    };
    // Script on standard input, pins as an argument: an installed mopd has no files of its own.
    let mut child = Command::new(&program)
        .args(["-", what, PINS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // If the script stopped reading, its own error says why.
        let _ = input.write_all(FETCH.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let folder = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(folder),
        false => Err(Problem::run("no-libtorch", "libtorch could not be downloaded")
            .help("the lines above have the reason. The same command continues with the missing files")),
    }
}
