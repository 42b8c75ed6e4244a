//! `mopd run --engine`: which stages the engine trains, and with what.

use std::collections::BTreeMap;

use mopd_compiler::export::coverage::Coverage;
use mopd_compiler::export::stage::{ExportRequest, ExportSettings, trained};
use mopd_compiler::export::{Export, ExportEngine, export, reference_of};
use mopd_plan::{EngineJob, EngineModel, EngineStage, ModelId, Plan, Pretrained, Teacher, keys};

use crate::args::{EngineName, RunArgs};
use crate::commands::export::located;
use crate::engine_python::{self, EnginePython};
use crate::host::folder_of;
use crate::output;
use crate::problem::Problem;

/// The engine of a run, if it has one, with the stages that it trains. Says which ones train here.
pub fn engine(arguments: &RunArgs, plan: &Plan) -> Result<Option<EngineJob>, Problem> {
    let Some(name) = arguments.engine else { return Ok(None) };
    if name == EngineName::Verl {
        return Err(Problem::not_supported("`mopd run --engine verl`")
            .help("`mopd export --engine verl` writes a stage's folder, which `launch.sh` in it trains"));
    }
    let (engine, processes) = (ExportEngine::from(name), arguments.processes);
    let EnginePython { python, versions, gpus, engine: _ } =
        engine_python::find(arguments.python.as_ref(), engine)?;
    if gpus > 0 && processes > gpus {
        let message = format!("{processes} processes need a GPU each, but there are {gpus}");
        return Err(Problem::usage("no-engine", message).help("use as many processes as there are GPUs"));
    }
    let base = folder_of(&arguments.file);
    let (folder, located) =
        (|name: &str| (name.to_owned(), true), |weights: &Pretrained| located(weights, &base));
    let mut job =
        EngineJob { name: engine.name().to_owned(), python, versions, processes, stages: Vec::new() };
    let mut here = Vec::new();
    for (model, named) in trained(plan) {
        let request =
            ExportRequest { by_run: true, ..ExportRequest::new(plan, None, model, &folder, &located) };
        let (coverage, files) = export(engine, request);
        match files {
            None => here.push(refused(&named.name, &coverage)),
            Some((export, settings)) => {
                let rows = settings.groups * settings.samples;
                if !rows.is_multiple_of(processes) {
                    return Err(indivisible(&named.name, rows, processes));
                }
                output::note(&format!("{} trains {} ({})\n", engine.name(), named.name, coverage.whole()));
                approximations(&coverage);
                job.stages.push(stage(plan, model, &export, &settings));
            }
        }
    }
    for why in here {
        output::note(&why);
    }
    if job.stages.is_empty() {
        let message = format!("{} {} can't train any stage of this file", engine.name(), engine.version());
        return Err(Problem::usage("nothing-for-engine", message)
            .help("run it without `--engine`; `mopd export --engine trl FILE` says why, stage by stage"));
    }
    Ok(Some(job))
}

fn stage(plan: &Plan, model: ModelId, export: &Export, settings: &ExportSettings) -> EngineStage {
    let files: BTreeMap<String, String> =
        export.files.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
    // `stage.json` has the places of weights, and otherwise what is in the stage's own key.
    let code: Vec<_> = files.iter().filter(|(name, _)| *name != "stage.json").collect();
    let program = keys::hash("mopd engine program", keys::VERSION, &code).to_hex().to_string();
    let others = settings.beside.iter().map(|of| &of.teacher);
    let models = settings.teachers.iter().chain(others).map(|of| EngineModel {
        teacher: of.teacher.clone(),
        name: of.key.clone(),
        model: of.model,
    });
    let references = settings.train.scorers.references().map(|(domain, id)| EngineModel {
        teacher: Teacher::Model(id),
        name: match settings.reference {
            Some(_) => "reference".to_owned(),
            None => reference_of(&plan.experiment.domain(domain).name),
        },
        model: id,
    });
    let models = models.chain(references).collect();
    EngineStage { model, files, program, completions: settings.completions, models }
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
    let fits: Vec<String> = (1..=rows.min(64))
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
