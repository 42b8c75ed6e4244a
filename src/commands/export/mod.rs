//! `mopd export`: a run in the files of another program.

mod tensorboard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopd_store::files::folder_of_model;

use self::tensorboard::{Events, Scalar};
use crate::args::Export;
use crate::host::reason;
use crate::output;
use crate::problem::{Problem, Status};
use crate::run_folder::{METRICS, RunFolder, Table};

/// What each domain has of its own, then what the whole step has.
const OF_DOMAIN: [&str; 10] = [
    "reward",
    "divergence",
    "divergence_floor",
    "entropy",
    "length",
    "signal_mean",
    "signal_share",
    "token_share",
    "prompt_share",
    "clipped_fraction",
];
const OF_STEP: [&str; 6] = ["loss", "learning_rate", "gradient_norm", "expert_entropy", "expert_largest_share", "seconds"];

pub fn export(arguments: &Export) -> Result<Status, Problem> {
    if let Some(engine) = &arguments.engine {
        return Err(
            Problem::not_supported(&format!("`--engine {engine}`")).help("`mopd export --tensorboard RUN` writes event files")
        );
    }
    let run = RunFolder::open(&arguments.run)?;
    let [Some(metrics)] = run.tables([METRICS])? else {
        return Err(Problem::usage("no-results", format!("{} has no {METRICS}: nothing was trained yet", run.path.display())));
    };
    let out = arguments.out.clone().unwrap_or_else(|| run.path.join("tensorboard"));
    for (series, events) in series(&metrics) {
        write(&out.join(series), &events)?;
    }
    output::result(&format!("{}\n", out.display()));
    Ok(Status::Good)
}

/// The events of every stage and seed, by the folder that TensorBoard shows as their name.
fn series(metrics: &Table) -> BTreeMap<String, Events> {
    let mut all: BTreeMap<String, Events> = BTreeMap::new();
    for row in 0..metrics.rows() {
        let name = folder_of_model(metrics.text("stage", row), metrics.whole("seed", row));
        let (step, domain) = (metrics.whole("step", row), metrics.text("domain", row));
        let events = all.entry(name).or_default();
        let numbers = |names: &[&str], suffix: &str| {
            let number = |name: &&str| Some(Scalar { tag: format!("{name}{suffix}"), value: metrics.number(name, row)? });
            names.iter().filter_map(number).collect::<Vec<_>>()
        };
        // The rows of a step follow each other, and each says what the whole step had.
        if events.begins(step) {
            events.step(step, metrics.number("seconds", row).unwrap_or(0.0), numbers(&OF_STEP, ""));
        }
        events.add(numbers(&OF_DOMAIN, &format!("/{domain}")));
    }
    all
}

fn write(folder: &Path, events: &Events) -> Result<(), Problem> {
    let path: PathBuf = folder.join("events.out.tfevents.0.mopd");
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, events.bytes())).map_err(|error| {
        Problem::usage("can't-write", format!("can't write {}: {}", path.display(), reason(&error)))
            .help("`--out DIR` names another place")
    })
}
