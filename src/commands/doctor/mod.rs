//! `mopd doctor`: versions, device and memory of this machine, and what is missing; with an experiment, also
//! the state of its servers.

mod servers;

use std::path::Path;
use std::process::Command;

use mopd_plan::events::{Event, Failure, Job, ServerReport};
use mopd_store::host_memory;
use serde::Serialize;

use self::servers::{FoundServer, ServersFound};
use super::run::STORE;
use crate::args::{DoctorArgs, Format};
use crate::engine_python::{self, EnginePython};
use crate::figures::bytes;
use crate::libtorch;
use crate::output::{self, Style, counted, hanging};
use crate::problem::{CommandStatus, Problem};
use crate::worker;

/// The report. Scripts read it, so fields are only ever added.
#[derive(Serialize)]
struct SystemReport {
    mopd: &'static str,
    worker: Option<String>,
    libtorch: Option<String>,
    /// Its folder, if `mopd` knows it: a worker may have a built-in path.
    libtorch_folder: Option<String>,
    device: Option<String>,
    /// The CPU threads that the worker would use.
    threads: Option<u32>,
    cores: Option<usize>,
    /// In bytes; in a container, within its limit.
    memory: Option<u64>,
    memory_available: Option<u64>,
    python: Option<String>,
    /// The Python with an engine, if one was asked for and it has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EnginePython>,
    store: &'static str,
    store_bytes: u64,
    /// Missing requirements, and how to get them.
    missing: Vec<MissingRequirement>,
    /// The servers of an experiment, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<NamedServer>>,
    /// Why its students could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Failure>,
}

#[derive(Serialize)]
struct NamedServer {
    #[serde(flatten)]
    report: ServerReport,
    /// The most that stages need for each token: `top_k(5)`.
    needed: Option<String>,
}

#[derive(Serialize)]
struct MissingRequirement {
    what: String,
    help: String,
}

pub fn doctor(arguments: &DoctorArgs) -> Result<CommandStatus, Problem> {
    let mut missing = Vec::new();
    let path = worker::find();
    let ready = match &path {
        Ok(_) => probe(&mut missing),
        Err(problem) => {
            missing.push(as_missing(problem));
            None
        }
    };
    // If a worker needs it and `$LIBTORCH` is wrong, the worker did not start, which is reported already.
    let libtorch = libtorch::find().unwrap_or_default().libtorch;
    let folder = libtorch.as_ref().map(|libtorch| libtorch.folder.display().to_string());
    let python = python();
    if python.is_none() {
        let help = "install Python 3; only rewards that are Python programs need it";
        missing.push(MissingRequirement { what: "no python3 on the PATH".to_owned(), help: help.to_owned() });
    }
    let mut able = ready.is_some();
    let engine =
        match arguments.engine.map(|name| engine_python::find(arguments.python.as_ref(), name.into())) {
            Some(Err(problem)) => {
                missing.push(as_missing(&problem));
                able = false;
                None
            }
            found => found.transpose()?,
        };
    // Only a worker can contact servers.
    let found = match &arguments.file {
        Some(file) if able => {
            let found = servers::servers(file)?;
            able = found.as_ref().is_some_and(ServersFound::are_usable);
            found
        }
        _ => None,
    };
    let (libtorch, device, threads) = ready.map_or((None, None, None), |(libtorch, device, threads)| {
        (Some(libtorch), Some(device), Some(threads))
    });
    let text = found.as_ref().map(|found| servers::human(found, Style::of_stdout()));
    let (servers, refused) = match found {
        Some(ServersFound { servers, refused }) => (Some(servers), refused),
        None => (None, Vec::new()),
    };
    let servers = servers.map(|servers| servers.into_iter().map(named).collect());
    let system = SystemReport {
        mopd: env!("CARGO_PKG_VERSION"),
        worker: path.ok().map(|path| path.display().to_string()),
        libtorch,
        libtorch_folder: folder,
        device,
        threads,
        cores: std::thread::available_parallelism().ok().map(usize::from),
        memory: host_memory::total(),
        memory_available: host_memory::available(),
        python,
        engine,
        store: STORE,
        store_bytes: size(Path::new(STORE)),
        missing,
        servers,
        refused,
    };
    match arguments.format {
        Format::Human => {
            output::result(&(human(&system, Style::of_stdout()) + &text.unwrap_or_default()));
        }
        Format::Json => {
            let text = serde_json::to_string_pretty(&system)
                .expect("strings and whole numbers can always be written");
            output::result(&(text + "\n"));
        }
    }
    Ok(if able { CommandStatus::Success } else { CommandStatus::Failure })
}

fn named(FoundServer { report, needed }: FoundServer) -> NamedServer {
    NamedServer { report, needed: needed.map(|needed| needed.to_string()) }
}

/// Starts the worker and asks for libtorch's version, the device, and the threads.
fn probe(missing: &mut Vec<MissingRequirement>) -> Option<(String, String, u32)> {
    let response = ask();
    let problem = match response {
        Ok((mopd, libtorch, device, threads)) if mopd == env!("CARGO_PKG_VERSION") => {
            return Some((libtorch, device, threads));
        }
        Ok((mopd, ..)) => {
            let what =
                format!("mopd is version {}, but mopd-worker is version {mopd}", env!("CARGO_PKG_VERSION"));
            Problem::run("worker-protocol", what).help("build both with `./x build`")
        }
        Err(problem) => problem,
    };
    missing.push(as_missing(&problem));
    None
}

fn ask() -> Result<(String, String, String, u32), Problem> {
    let mut response = None;
    let failed = |failure: &Failure| Problem::run("worker-failed", failure.message.clone());
    let status = worker::ask(&Job::Probe, failed, |event| {
        if let Event::Ready { versions, device, threads } = event {
            response = Some((versions.mopd, versions.libtorch, device, threads));
        }
    })?;
    response.ok_or_else(|| worker::death(status))
}

fn as_missing(problem: &Problem) -> MissingRequirement {
    MissingRequirement {
        what: problem.message().to_owned(),
        help: problem.help_text().unwrap_or_default().to_owned(),
    }
}

fn human(system: &SystemReport, style: Style) -> String {
    let unknown = || style.yellow("unknown");
    let or_missing = |value: &Option<String>| value.clone().unwrap_or_else(|| style.red("missing"));
    let cores = match (system.cores, system.threads) {
        (Some(cores), Some(threads)) => format!("{cores}, of which the worker uses {threads}"),
        (Some(cores), None) => cores.to_string(),
        (None, _) => unknown(),
    };
    let memory = match (system.memory, system.memory_available) {
        (Some(all), Some(free)) => format!("{}, {} available", bytes(all), bytes(free)),
        (Some(all), None) => bytes(all),
        (None, _) => unknown(),
    };
    let libtorch = match (&system.libtorch, &system.libtorch_folder) {
        (Some(version), Some(folder)) => format!("{version}, {folder}"),
        (version, folder) => version.clone().or(folder.clone()).unwrap_or_else(unknown),
    };
    let engine = system.engine.as_ref().map(|EnginePython { engine, python, versions, gpus }| {
        let versions: Vec<String> =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        (*engine, format!("{python}: {}, {}", versions.join(", "), counted(*gpus as usize, "GPU")))
    });
    let rows = [
        ("mopd", system.mopd.to_owned()),
        ("worker", or_missing(&system.worker)),
        ("libtorch", libtorch),
        ("device", system.device.clone().unwrap_or_else(unknown)),
        ("cores", cores),
        ("memory", memory),
        ("python", or_missing(&system.python)),
        ("store", format!("{} in {}", bytes(system.store_bytes), system.store)),
    ];
    let mut out: String = rows
        .iter()
        .chain(&engine)
        .map(|(name, value)| format!("{} {value}\n", style.cyan(&format!("{name:9}"))))
        .collect();
    for missing in &system.missing {
        out += &format!("\n{}: {}\n", style.red("missing"), missing.what);
        out += &hanging("  help: ", "        ", &missing.help);
    }
    out
}

fn python() -> Option<String> {
    let output = Command::new("python3").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Bytes of all files below a folder; unreadable ones count as 0.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |data| data.len()),
            _ => 0,
        })
        .sum()
}
