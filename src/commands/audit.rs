//! `mopd audit`: which divergence the gradient of each term follows.

use std::cell::RefCell;

use mopd_compiler::audit::{self, AuditedObjective};

use super::{no_experiment, report};
use crate::args::{AuditArgs, AuditFormat};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render;

pub fn audit(arguments: &AuditArgs) -> Result<CommandStatus, Problem> {
    // The verdicts are of an experiment whose text is sound, also if the audit itself finds errors in it.
    let verdicts: RefCell<Option<Vec<AuditedObjective>>> = RefCell::new(None);
    let mut analysis =
        host::analyse_with(&arguments.file, &arguments.overrides.set, &|experiment, origins| {
            *verdicts.borrow_mut() = Some(audit::of_experiment(experiment));
            audit::diagnostics(experiment, origins)
        })?;
    let judged = verdicts.into_inner();
    let is_sound = judged.is_some() || !analysis.has_errors();
    let entries = audit::with_unused(judged.unwrap_or_default(), &analysis);
    if entries.is_empty() && !analysis.has_errors() && analysis.experiment.is_none() {
        analysis.diagnostics.push(no_experiment(&analysis.sources));
    }
    analysis.diagnostics.extend(host::refused_alone(&arguments.file, &analysis, None)?);
    if is_sound {
        match arguments.format {
            AuditFormat::Human => output::result(&render::audit::text(&entries, Style::of_stdout())),
            AuditFormat::Json => output::result(&render::audit::json(&entries)),
        }
    }
    report(&analysis);
    Ok(if analysis.has_errors() { CommandStatus::Failure } else { CommandStatus::Success })
}
