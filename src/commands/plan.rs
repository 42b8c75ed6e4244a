//! `mopd plan`: what a run would do, and what that costs.

use mopd_lang::Analysis;
use mopd_lang::check::NamedObjective;

use super::{plan_json, plan_of, report};
use crate::args::{Plan, PlanFormat};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render::{self, outline};

pub fn plan(arguments: &Plan) -> Result<Status, Problem> {
    if arguments.why {
        return Err(Problem::not_supported("`mopd plan --why`"));
    }
    if arguments.format == PlanFormat::Dot {
        return Err(Problem::not_supported("`--format dot`").help("the formats are tree and json"));
    }
    let mut analysis = host::analyse_file(&arguments.file, &arguments.overrides.set)?;
    let plan = plan_of(&mut analysis);
    // What is known is shown, even of an experiment that can't run.
    match (&analysis.experiment, &plan) {
        (Some(_), Some(plan)) if arguments.format == PlanFormat::Json => output::result(&plan_json(plan)?),
        (Some(experiment), plan) if arguments.format == PlanFormat::Tree => {
            output::result(&outline::tree(experiment, plan.as_ref(), Style::of_stdout()));
        }
        (None, _) if !analysis.has_errors() => {
            let objectives: Vec<&NamedObjective> = analysis.objectives.iter().filter(|named| named.public).collect();
            if !objectives.is_empty() {
                library(&analysis, &objectives, arguments.format);
                report(&analysis);
                return Ok(Status::Good);
            }
            analysis.diagnostics.push(super::no_experiment(&analysis.sources));
        }
        _ => {}
    }
    report(&analysis);
    Ok(if plan.is_some() { Status::Good } else { Status::Wrong })
}

/// What a file without an experiment has to offer.
fn library(analysis: &Analysis, objectives: &[&NamedObjective], format: PlanFormat) {
    match format {
        PlanFormat::Json => output::result(&render::library::json(objectives)),
        PlanFormat::Tree | PlanFormat::Dot => {
            let path = analysis.sources.files().next().map_or("", |(_, file)| file.path.as_str());
            output::result(&render::library::tree(path, objectives, Style::of_stdout()));
        }
    }
}
