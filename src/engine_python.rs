//! The Python with another training engine: its packages, and whether they are those that mopd's programs for
//! the engine are written for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use mopd_compiler::export::ExportEngine;
use serde::Serialize;
use serde_json::Value;

use crate::host::reason;
use crate::named_python::{VARIABLE, named_python};
use crate::problem::Problem;

/// Prints the versions of the packages that follow, and the devices, as JSON.
const PROBE: &str = "\
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        found[name] = None
if found['torch']:
    import torch
    found['device'] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'cpu'
    found['devices'] = str(torch.cuda.device_count())
print(json.dumps(found))
";

/// A Python that has an engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EnginePython {
    pub engine: &'static str,
    pub python: String,
    /// The versions of its packages, and the kind of device under `device`.
    pub versions: BTreeMap<String, String>,
    pub gpus: u32,
}

/// What an engine needs.
fn packages(engine: ExportEngine) -> &'static [&'static str] {
    match engine {
        ExportEngine::Trl => &["trl", "torch", "transformers", "accelerate", "datasets", "peft"],
        ExportEngine::Verl => {
            &["verl", "torch", "transformers", "ray", "tensordict", "TransferQueue", "vllm"]
        }
    }
}

fn install(engine: ExportEngine) -> String {
    let what = match engine {
        ExportEngine::Trl => format!("trl=={} peft", engine.version()),
        ExportEngine::Verl => format!("'verl[vllm]=={}'", engine.version()),
    };
    format!(
        "make an environment, `python3 -m venv ENV && ENV/bin/pip install {what}`, and name its Python: `--python \
         ENV/bin/python`, or {VARIABLE} in the environment"
    )
}

/// The Python that an option or the environment names, if it has the engine in the right version.
pub fn find(option: Option<&PathBuf>, engine: ExportEngine) -> Result<EnginePython, Problem> {
    let python = named_python(option)?.unwrap_or_else(|| "python3".to_owned());
    let (name, version) = (engine.name(), engine.version());
    let problem = |message: String| Problem::usage("no-engine", message).help(install(engine));
    let output = Command::new(&python).args(["-c", PROBE]).args(packages(engine)).output();
    let output = output.map_err(|error| {
        problem(format!("can't start `{python}`, the Python with {name}: {}", reason(&error)))
    })?;
    let reported: Option<BTreeMap<String, Value>> = serde_json::from_slice(&output.stdout).ok();
    let Some(reported) = reported.filter(|_| output.status.success()) else {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it prints nothing");
        return Err(problem(format!("`{python}` can't import torch: {last}")));
    };
    let mut versions: BTreeMap<String, String> =
        reported.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect();
    let missing: Vec<&str> =
        packages(engine).iter().copied().filter(|package| !versions.contains_key(*package)).collect();
    if !missing.is_empty() {
        return Err(problem(format!("`{python}` has no {}", missing.join(", "))));
    }
    if versions.get(name).map(String::as_str) != Some(version) {
        let theirs = versions.get(name).map_or("another version", String::as_str);
        let message = format!("`{python}` has {name} {theirs}, and mopd's program is for {version}");
        return Err(problem(message));
    }
    let gpus = versions.remove("devices").and_then(|count| count.parse().ok()).unwrap_or(0);
    if gpus == 0 && engine == ExportEngine::Verl {
        let help = "verl's rollouts need GPUs; TRL also trains on CPUs: `--engine trl`";
        return Err(problem(format!("`{python}` finds no GPU, and verl needs them")).help(help));
    }
    Ok(EnginePython { engine: name, python, versions, gpus })
}
