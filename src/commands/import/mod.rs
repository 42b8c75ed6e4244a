//! `mopd import`: a configuration of verl or TRL as an experiment. What has no counterpart is a comment with
//! the reason.

mod draft;
mod given;
mod python;
mod secrets;
mod shell;
mod trl;
mod verl;

use std::path::Path;

use serde_json::Value;

use self::given::{GivenSetting, GivenSettings, SettingUse, SourceTool};
use crate::args::ImportArgs;
use crate::host;
use crate::output;
use crate::problem::{CommandStatus, Problem};

pub fn import(arguments: &ImportArgs) -> Result<CommandStatus, Problem> {
    if let Some(path) = arguments.out.as_ref().filter(|path| path.exists()) {
        let message = format!("{} exists already; nothing was written", path.display());
        return Err(Problem::usage("already-there", message).help("choose another name"));
    }
    let given = GivenSettings::read(&arguments.file)?;
    let mut draft = match &given.origin {
        SourceTool::Verl => verl::draft(&given),
        SourceTool::Trl { class } => trl::draft(&given, class),
    };
    let left = given.settings.iter().filter_map(|setting| Some((setting.text(), left_out(setting, &given)?)));
    draft.left_out.extend(left);
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
    Ok(CommandStatus::Success)
}

/// The reason why a setting was not imported, or `None` for one that was. No setting is dropped silently.
fn left_out(setting: &GivenSetting, given: &GivenSettings) -> Option<String> {
    let default = match &given.origin {
        SourceTool::Verl => verl::default(&setting.path),
        SourceTool::Trl { class } => trl::default(class, &setting.path),
    };
    let default = default.filter(|default| !default.is_null());
    let reason = || match given.origin {
        SourceTool::Verl => verl::reason(&setting.path),
        SourceTool::Trl { .. } => trl::reason(&setting.path),
    };
    match setting.state() {
        SettingUse::Used => None,
        // Null is what the engine has there anyway.
        SettingUse::Unread if setting.is_null() && default.is_none() => None,
        SettingUse::Unread => {
            let what = if setting.is_null() { "has no counterpart" } else { "could not be read" };
            Some(match default {
                None => format!("{what}; written as if it were not given"),
                Some(Value::String(text)) => format!("{what}; the engine's default {text} is written"),
                Some(default) => format!("{what}; the engine's default {default} is written"),
            })
        }
        SettingUse::Unasked if setting.path.ends_with("_target_") => None,
        SettingUse::Unasked => Some(reason().to_owned()),
    }
}

/// In the canonical style. What is written here parses and checks: anything else is a fault of this command.
fn formatted(text: &str) -> Result<String, Problem> {
    let analysis = host::analyse_text(Path::new("imported.mopd"), text)?;
    if let Some(fault) =
        analysis.diagnostics.iter().find(|found| found.severity == mopd_lang::diag::Severity::Error)
    {
        let message = format!("what was imported does not check: {}", fault.message);
        return Err(Problem::run("import-failed", message)
            .help("change that setting; where the engine takes it, please report the file"));
    }
    Ok(mopd_lang::fmt::format(text).text)
}
