//! `mopd audit`: which divergence the gradient of each term follows.

use mopd_compiler::audit::{self, Audit, Use};
use mopd_lang::Analysis;
use mopd_lang::experiment::{Experiment, Stage, Train};
use serde::Serialize;

use super::{no_experiment, report};
use crate::args::{Audit as Arguments, AuditFormat};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render;

/// An audited objective and where it is used. Fields are only ever added.
#[derive(Serialize)]
pub struct Entry {
    /// The models that are trained on it, in the order of the experiment; none for an objective of a library.
    pub models: Vec<String>,
    #[serde(flatten)]
    pub audit: Audit,
}

pub fn audit(arguments: &Arguments) -> Result<Status, Problem> {
    let mut analysis = host::analyse_file(&arguments.file, &arguments.overrides.set)?;
    let entries = entries(&analysis);
    if entries.is_empty() && !analysis.has_errors() && analysis.experiment.is_none() {
        analysis.diagnostics.push(no_experiment(&analysis.sources));
    }
    if !analysis.has_errors() {
        match arguments.format {
            AuditFormat::Human => output::result(&render::audit::text(&entries, Style::of_stdout())),
            AuditFormat::Json => output::result(&render::audit::json(&entries)),
        }
    }
    report(&analysis);
    Ok(if analysis.has_errors() { Status::Wrong } else { Status::Good })
}

/// Every objective of an experiment as its stages use it, or every public one of a library.
fn entries(analysis: &Analysis) -> Vec<Entry> {
    match &analysis.experiment {
        Some(experiment) => of_experiment(experiment),
        None => {
            let public = analysis.objectives.iter().filter(|named| named.public);
            public.map(|named| Entry { models: Vec::new(), audit: audit::audit(&named.objective, &Use::on_policy()) }).collect()
        }
    }
}

fn of_experiment(experiment: &Experiment) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut add = |name: String, train: &Train| {
        let audit = audit::audit(&train.objective, &Use::of(train));
        match found.iter_mut().find(|known| known.audit == audit) {
            Some(known) => known.models.push(name),
            None => found.push(Entry { models: vec![name], audit }),
        }
    };
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => add(model.name.clone(), train),
            Stage::Joint(joint) => {
                for step in &joint.steps {
                    add(format!("{}, step {}", model.name, step.name), &step.train);
                }
            }
            _ => {}
        }
    }
    found
}
