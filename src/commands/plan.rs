//! `mopd plan`: what a run would do, and what that costs.

use crate::args::{Plan, PlanFormat};
use crate::commands::compile;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render::outline;

pub fn plan(arguments: &Plan) -> Result<Status, Problem> {
    if arguments.why {
        return Err(Problem::not_supported("`mopd plan --why`"));
    }
    if arguments.format == PlanFormat::Dot {
        return Err(Problem::not_supported("`--format dot`").help("the formats are tree and json"));
    }
    let Some(compiled) = compile(&arguments.file, &arguments.overrides.set)? else { return Ok(Status::Wrong) };
    match arguments.format {
        PlanFormat::Json => output::result(&super::plan_json(&compiled.plan)?),
        PlanFormat::Tree | PlanFormat::Dot => output::result(&outline::tree(&compiled.plan, Style::of_stdout())),
    }
    Ok(Status::Good)
}
