//! `mopd import`: a configuration of verl or TRL as an experiment. What has no counterpart is a comment with
//! the reason.

mod draft;
mod given;
mod trl;
mod verl;

use std::path::Path;

use self::given::{GivenSettings, SourceTool};
use crate::args::ImportArgs;
use crate::host;
use crate::output;
use crate::problem::{Problem, Status};

pub fn import(arguments: &ImportArgs) -> Result<Status, Problem> {
    let given = GivenSettings::read(&arguments.file)?;
    let mut draft = match given.origin {
        SourceTool::Verl => verl::draft(&given),
        SourceTool::Trl { .. } => trl::draft(&given),
    };
    draft.left_out.extend(given.unused().map(|setting| {
        let why = match given.origin {
            SourceTool::Verl => verl::reason(&setting.path),
            SourceTool::Trl { .. } => trl::reason(&setting.path),
        };
        (setting.text(), why.to_owned())
    }));
    let text = formatted(&draft.text(&arguments.file))?;
    match &arguments.out {
        None => output::result(&text),
        Some(path) => {
            std::fs::write(path, &text).map_err(|error| Problem::unwritten(path, &error))?;
            let (came, left) =
                (given.settings.len() - draft.left_out.len().min(given.settings.len()), draft.left_out.len());
            output::note(&format!(
                "wrote {}: {came} settings came over, {left} are comments\n",
                path.display()
            ));
        }
    }
    Ok(Status::Good)
}

/// In the canonical style. What is written here parses and checks: anything else is a fault of this command.
fn formatted(text: &str) -> Result<String, Problem> {
    let analysis = host::analyse_text(Path::new("imported.mopd"), text)?;
    if let Some(fault) =
        analysis.diagnostics.iter().find(|found| found.severity == mopd_lang::diag::Severity::Error)
    {
        let message = format!("what was imported does not check: {}", fault.message);
        return Err(
            Problem::run("import-failed", message).help("this is a fault of mopd: please report the file")
        );
    }
    Ok(mopd_lang::fmt::format(text).text)
}
