//! `mopd try`: evaluates an objective on given numbers.

use std::path::Path;

use mopd_compiler::trial::{self, TrialError, TrialNumbers, UnmetExpectation};
use mopd_experiment::{Objective, Rollout, Stage};
use mopd_lang::Analysis;
use mopd_lang::diag::Diagnostic;
use serde_json::json;

use super::{expr, report};
use crate::args::{Format, TryArgs};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render;

pub fn trial(arguments: &TryArgs) -> Result<CommandStatus, Problem> {
    let numbers = arguments.numbers.as_deref().map(read).transpose()?;
    let mut set = arguments.overrides.set.clone();
    set.extend(numbers.iter().flat_map(|numbers| numbers.settings(&arguments.name)));
    let mut analysis = host::analyse_file(&arguments.file, &set)?;
    analysis.diagnostics.extend(host::refused_alone(&arguments.file, &analysis, Some(&arguments.name))?);
    report(&analysis);
    if analysis.has_errors() {
        return Ok(CommandStatus::Failure);
    }
    let (objective, rollout) = objective(&analysis, &arguments.name)?;
    let open = open_parameters(&analysis, &arguments.name, &set);
    let (Some(path), Some(numbers)) = (&arguments.numbers, &numbers) else {
        return Ok(match trial::example(&objective, &analysis.origins) {
            Ok(mut example) => {
                if !open.is_empty() {
                    let values = open.iter().map(|(name, kind)| (name.clone(), some_value(kind)));
                    example["arguments"] = values.collect();
                }
                output::result(&format!("{}\n", render::trial::numbers(&example)));
                CommandStatus::Success
            }
            Err(diagnostic) => refused(&mut analysis, *diagnostic),
        });
    };
    // The checker gives them an arbitrary value, which must not be used.
    if !open.is_empty() {
        let faults: Vec<String> = open
            .iter()
            .map(|(name, _)| {
                format!("the parameter `{name}` has no default, and `arguments` gives it no value")
            })
            .collect();
        return Err(unfit(path, &arguments.name, &faults));
    }
    let trial = match trial::run(&objective, rollout.as_ref(), &analysis.origins, numbers) {
        Ok(trial) => trial,
        Err(TrialError::Objective(diagnostic)) => return Ok(refused(&mut analysis, *diagnostic)),
        Err(TrialError::Numbers(faults)) => return Err(unfit(path, &arguments.name, &faults)),
    };
    let differences = trial::differences(&trial, numbers);
    match arguments.format {
        Format::Human => output::result(&render::trial::text(&trial, Style::of_stdout())),
        Format::Json => output::result(&format!("{}\n", json!(trial))),
    }
    for name in &trial.unread {
        output::error(&format!("note: `{name}` is given but not read\n"));
    }
    let as_expected = expected(numbers, &differences);
    if let Some(not_finite) = render::trial::not_finite(&trial) {
        output::error(&format!("{not_finite}\n"));
        return Ok(CommandStatus::Failure);
    }
    let Some(unlike) = render::trial::unlike(&trial) else { return Ok(as_expected) };
    // JSON writes null for every value that is not finite.
    if matches!(arguments.format, Format::Json) {
        output::error(&format!("differs: {unlike}\n"));
    }
    Ok(CommandStatus::Failure)
}

/// An objective of the file by name, or that of a trained model with its rollout.
fn objective(analysis: &Analysis, name: &str) -> Result<(Objective, Option<Rollout>), Problem> {
    let models = analysis.experiment.iter().flat_map(|experiment| &experiment.models);
    let trained = models.filter(|model| model.name == name).find_map(|model| match &model.stage {
        Stage::Train(train) => Some((train.objective.clone(), Some(train.rollout.clone()))),
        _ => None,
    });
    match trained {
        Some(trained) => Ok(trained),
        None => expr::objective(analysis, name).map(|named| (named.objective.clone(), None)),
    }
}

/// Parameters of an objective without a value, with their types. Teachers and rollouts need none: their
/// outputs are given as numbers.
fn open_parameters(analysis: &Analysis, name: &str, set: &[(String, String)]) -> Vec<(String, String)> {
    let Some(named) = analysis.objectives.iter().find(|named| named.objective.name == name) else {
        return Vec::new();
    };
    let parameters = named.parameters.iter().filter(|parameter| !parameter.contains('='));
    let parameters = parameters.map(|parameter| {
        let (name, kind) = parameter.split_once(':').unwrap_or((parameter, ""));
        (name.trim().to_owned(), kind.trim().to_owned())
    });
    let numbers = parameters.filter(|(_, kind)| {
        !["teacher", "teachers", "panel", "rollout", "template", "model", "domain"].contains(&kind.as_str())
    });
    numbers
        .filter(|(parameter, _)| !set.iter().any(|(known, _)| *known == format!("{name}.{parameter}")))
        .collect()
}

/// An example value for a parameter of a type.
fn some_value(kind: &str) -> serde_json::Value {
    match kind {
        "count" => json!(2),
        "counts" => json!([1]),
        "bool" => json!(true),
        _ => json!(0.4),
    }
}

fn read(path: &Path) -> Result<TrialNumbers, Problem> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin().lock()).map_err(|error| {
            Problem::usage("unreadable-file", format!("can't read standard input: {error}"))
        })?
    } else {
        host::read_text(path)?
    };
    serde_json::from_str(&text).map_err(|error| {
        Problem::usage("unfit-numbers", format!("{}: {error}", shown(path)))
            .help("`mopd try FILE OBJECTIVE` without numbers prints some to start with")
    })
}

fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

fn refused(analysis: &mut Analysis, diagnostic: Diagnostic) -> CommandStatus {
    analysis.diagnostics = vec![diagnostic];
    report(analysis);
    CommandStatus::Failure
}

fn unfit(path: &Path, name: &str, faults: &[String]) -> Problem {
    let message = format!("{} does not fit `{name}`: {}", shown(path), faults.join("; "));
    Problem::usage("unfit-numbers", message)
        .help("`mopd try FILE OBJECTIVE` without numbers prints some to start with")
}

fn expected(numbers: &TrialNumbers, differences: &[UnmetExpectation]) -> CommandStatus {
    for UnmetExpectation { name, what } in differences {
        output::error(&format!("differs: `{name}`: {what}\n"));
    }
    match (differences.is_empty(), numbers.expected.len()) {
        (false, _) => CommandStatus::Failure,
        (true, 0) => CommandStatus::Success,
        (true, count) => {
            output::error(&format!("{} as expected\n", output::counted(count, "value")));
            CommandStatus::Success
        }
    }
}
