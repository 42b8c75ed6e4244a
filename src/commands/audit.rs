//! `mopd audit`: which divergence the gradient of each term follows.

use mopd_compiler::audit;

use super::{no_experiment, report};
use crate::args::{AuditArgs, AuditFormat};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render;

pub fn audit(arguments: &AuditArgs) -> Result<CommandStatus, Problem> {
    let mut analysis = host::analyse_file(&arguments.file, &arguments.overrides.set)?;
    let entries = audit::of_file(&analysis);
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
    Ok(if analysis.has_errors() { CommandStatus::Failure } else { CommandStatus::Success })
}
