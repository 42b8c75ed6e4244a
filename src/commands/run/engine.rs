//! `mopd run --engine`: which stages the engine trains, and with what.

use std::collections::BTreeMap;
use std::process::Command;

use mopd_compiler::export::coverage::Coverage;
use mopd_compiler::export::stage::{ExportRequest, ExportSettings, trained};
use mopd_compiler::export::{Export, ExportEngine, export};
use mopd_plan::{EngineJob, EngineStage, ModelId, Plan, Pretrained, keys};
use serde_json::Value;

use crate::args::{EngineName, RunArgs};
use crate::commands::export::located;
use crate::host::{as_text, folder_of};
use crate::output;
use crate::problem::Problem;

/// The Python with the engine, where no option names it.
const PYTHON: &str = "MOPD_PYTHON";

/// Prints what it imports, as JSON.
const PROBE: &str = "\
import importlib.metadata as m, json
found = {}
for name in ('trl', 'torch', 'transformers', 'accelerate', 'datasets', 'peft'):
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

/// The engine of a run, if it has one, with the stages that it trains. Says which ones train here.
pub fn engine(arguments: &RunArgs, plan: &Plan) -> Result<Option<EngineJob>, Problem> {
    let Some(name) = arguments.engine else { return Ok(None) };
    if name == EngineName::Verl {
        return Err(Problem::not_supported("`mopd run --engine verl`")
            .help("`mopd export --engine verl` writes a stage's folder, which `launch.sh` in it trains"));
    }
    let (engine, processes) = (ExportEngine::from(name), arguments.processes);
    let python = python(arguments)?;
    let versions = versions(&python, engine, processes)?;
    let base = folder_of(&arguments.file);
    let (folder, located) =
        (|name: &str| (name.to_owned(), true), |weights: &Pretrained| located(weights, &base));
    let mut job =
        EngineJob { name: engine.name().to_owned(), python, versions, processes, stages: Vec::new() };
    let mut kept = Vec::new();
    for (model, named) in trained(plan) {
        let request = ExportRequest {
            plan,
            checked: None,
            model,
            folder: &folder,
            located: &located,
            rows: None,
            by_run: true,
        };
        let (coverage, files) = export(engine, request);
        match files {
            None => kept.push(refused(&named.name, &coverage)),
            Some((export, settings)) => {
                let rows = settings.groups * settings.samples;
                if !rows.is_multiple_of(processes) {
                    return Err(indivisible(&named.name, rows, processes));
                }
                output::note(&format!("{} trains {} ({})\n", engine.name(), named.name, coverage.whole()));
                approximations(&coverage);
                job.stages.push(stage(model, &export, &settings));
            }
        }
    }
    for why in kept {
        output::note(&why);
    }
    if job.stages.is_empty() {
        let message = format!("{} {} can't train any stage of this file", engine.name(), engine.version());
        return Err(Problem::usage("nothing-for-engine", message)
            .help("run it without `--engine`; `mopd export --engine trl FILE` says why, stage by stage"));
    }
    Ok(Some(job))
}

/// The Python that an option or the environment names.
fn python(arguments: &RunArgs) -> Result<String, Problem> {
    if let Some(python) = &arguments.python {
        return as_text(python);
    }
    match std::env::var(PYTHON) {
        Ok(python) if !python.is_empty() => Ok(python),
        _ => Ok("python3".to_owned()),
    }
}

/// The versions of the packages of a Python, and its device.
fn versions(python: &str, engine: ExportEngine, processes: u32) -> Result<BTreeMap<String, String>, Problem> {
    let (name, version) = (engine.name(), engine.version());
    let install = format!(
        "make an environment, `python3 -m venv ENV && ENV/bin/pip install {name}=={version} peft`, and name its \
         Python: `--python ENV/bin/python`, or {PYTHON} in the environment"
    );
    let problem = |message: String| Problem::usage("no-engine", message).help(install.clone());
    let output = Command::new(python).args(["-c", PROBE]).output();
    let output = output.map_err(|error| {
        problem(format!("can't start `{python}`, the Python with {name}: {}", crate::host::reason(&error)))
    })?;
    let found: Option<BTreeMap<String, Value>> = serde_json::from_slice(&output.stdout).ok();
    let Some(found) = found.filter(|_| output.status.success()) else {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it prints nothing");
        return Err(problem(format!("`{python}` can't import torch: {last}")));
    };
    let missing: Vec<&str> =
        found.iter().filter(|(_, version)| version.is_null()).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        return Err(problem(format!("`{python}` has no {}", missing.join(", "))));
    }
    let found: BTreeMap<String, String> =
        found.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect();
    if found.get(name).map(String::as_str) != Some(version) {
        let theirs = found.get(name).map_or("another version", String::as_str);
        let message = format!("`{python}` has {name} {theirs}, and mopd's program is for {version}");
        return Err(problem(message));
    }
    let devices: u32 = found.get("devices").and_then(|count| count.parse().ok()).unwrap_or(0);
    if devices > 0 && processes > devices {
        let message = format!("{processes} processes need a GPU each, but there are {devices}");
        return Err(Problem::usage("no-engine", message).help("use as many processes as there are GPUs"));
    }
    Ok(found.into_iter().filter(|(name, _)| name != "devices").collect())
}

fn stage(model: ModelId, export: &Export, settings: &ExportSettings) -> EngineStage {
    let files: BTreeMap<String, String> =
        export.files.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
    // `stage.json` has the places of weights, and otherwise what is in the stage's own key.
    let code: Vec<_> = files.iter().filter(|(name, _)| *name != "stage.json").collect();
    let program = keys::hash("mopd engine program", keys::VERSION, &code).to_hex().to_string();
    let teachers = settings.teachers.iter().map(|teacher| (teacher.model, teacher.key.clone())).collect();
    EngineStage { model, files, program, teachers }
}

fn refused(stage: &str, coverage: &Coverage) -> String {
    let mut lines = coverage.refused();
    let first = lines.next().map_or("", |line| line.construct.as_str());
    let more = match lines.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{stage} trains here: the engine can't express {first}{more}\n")
}

fn approximations(coverage: &Coverage) {
    for line in &coverage.lines {
        if let (Some(how), "approximate") = (line.verdict.detail(), line.verdict.word()) {
            output::note(&format!("  approximate: {}: {how}\n", line.construct));
        }
    }
}

fn indivisible(stage: &str, rows: u32, processes: u32) -> Problem {
    let fits: Vec<String> = (2..=rows.min(64))
        .filter(|count| rows.is_multiple_of(*count))
        .map(|count| count.to_string())
        .collect();
    Problem::usage(
        "not-divisible",
        format!(
            "`{stage}` trains on {rows} completions a step, which {processes} processes can't share evenly"
        ),
    )
    .help(format!("use another number of processes: {}", fits.join(", ")))
}
