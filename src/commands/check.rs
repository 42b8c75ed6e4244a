//! `mopd check`: diagnostics. Starts the worker only with `--files`, to read the data.

use std::path::Path;

use mopd_lang::Analysis;
use mopd_lang::diag::{Severity, apply_certain};
use mopd_lang::source::FileId;

use super::{files, plan_of};
use crate::args::{CheckArgs, CheckFormat};
use crate::output::{self, Style, counted};
use crate::problem::{CommandStatus, Problem};
use crate::{host, paths, render};

pub fn check(arguments: &CheckArgs) -> Result<CommandStatus, Problem> {
    let mut status = CommandStatus::Success;
    let mut json = Vec::new();
    let mut sarif = Vec::new();
    let mut all = Vec::new();
    for path in &arguments.files {
        let fixed = if arguments.fix { fix(path) } else { Ok(()) };
        let mut analysis = match fixed.and_then(|()| host::check_file(path)) {
            Ok(analysis) => analysis,
            Err(problem) => {
                // On standard error for people, and in the output for programs that read only that.
                problem.report();
                match arguments.format {
                    CheckFormat::Json => json.push(render::json::of_problem(&problem, path)),
                    CheckFormat::Sarif => sarif.push(render::sarif::of_problem(&problem, path)),
                    CheckFormat::Human | CheckFormat::Short => {}
                }
                status = CommandStatus::UsageError;
                continue;
            }
        };
        let plan = match arguments.with_files && !analysis.has_errors() {
            true => plan_of(&mut analysis),
            false => None,
        };
        let diagnostics = &analysis.diagnostics;
        match arguments.format {
            CheckFormat::Human => output::result(&render::human::diagnostics(
                diagnostics,
                &analysis.sources,
                Style::of_stdout(),
            )),
            CheckFormat::Short => output::result(&render::short::diagnostics(diagnostics, &analysis.sources)),
            CheckFormat::Json => json.extend(render::json::diagnostics(diagnostics, &analysis.sources)),
            CheckFormat::Sarif => {
                sarif.extend(
                    diagnostics.iter().map(|diagnostic| render::sarif::result(diagnostic, &analysis.sources)),
                );
            }
        }
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
            && status == CommandStatus::Success
        {
            status = CommandStatus::Failure;
        }
        let fetched = match (&plan, &analysis.experiment) {
            (Some(_), Some(experiment)) => paths::to_fetch(experiment, &host::folder_of(path)),
            _ => Vec::new(),
        };
        for name in fetched {
            let meant = paths::meant(&name, &host::folder_of(path));
            let meant = meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
            output::error(&format!(
                "note: there is no folder `{name}` beside the file, and no model of that name in the hub's cache: a \
                 run would fetch it from the hub{meant}\n"
            ));
        }
        let refused = match &plan {
            Some(plan) => files::refused(plan, path, 1)?,
            None => Vec::new(),
        };
        if let Some(plan) = plan.as_ref().filter(|_| !refused.is_empty()) {
            let sources = &analysis.sources;
            for failure in &refused {
                match arguments.format {
                    CheckFormat::Human => {
                        let report = render::of_failure(failure, plan, sources);
                        output::result(&render::human::report(&report, Style::of_stdout()));
                    }
                    CheckFormat::Short => output::result(&render::short::failure(failure, plan, sources)),
                    CheckFormat::Json => json.push(render::json::of_failure(failure, plan, sources)),
                    CheckFormat::Sarif => sarif.push(render::sarif::of_failure(failure, plan, sources)),
                }
            }
            output::error(&format!(
                "{} of {} cannot be used in a run\n",
                counted(refused.len(), "part"),
                path.display()
            ));
            status = if status == CommandStatus::Success { CommandStatus::Failure } else { status };
        } else if diagnostics.is_empty() && arguments.format == CheckFormat::Human {
            output::note(&clean(&analysis, plan.is_some(), Style::of_stderr()));
        }
        all.extend(analysis.diagnostics);
    }
    match arguments.format {
        CheckFormat::Json => output::result(&render::json::list(&json)),
        CheckFormat::Sarif => {
            let codes = all.iter().map(|diagnostic| diagnostic.code).collect();
            output::result(&render::sarif::log(&sarif, &codes));
        }
        CheckFormat::Human if !all.is_empty() => {
            output::error(&render::human::summary(&all, Style::of_stderr()))
        }
        CheckFormat::Human | CheckFormat::Short => {}
    }
    Ok(status)
}

/// Applies the certain fixes of a file in place, and reports on standard error how many. Imported modules are
/// not changed: they are separate files.
fn fix(path: &Path) -> Result<(), Problem> {
    if host::is_standard(path) {
        return Ok(());
    }
    if host::is_standard_input(path) {
        let message = "`--fix` changes files in place, but standard input is not a file";
        return Err(Problem::usage("mixed-input", message).help("leave `--fix` out, or name the file"));
    }
    let text = host::read_text(path)?;
    let mut failed = None;
    let fixed = apply_certain(&text, FileId(0), |text| match host::analyse_text(path, text) {
        Ok(analysis) => analysis.diagnostics,
        Err(problem) => {
            failed.get_or_insert(problem);
            Vec::new()
        }
    });
    if let Some(problem) = failed {
        return Err(problem);
    }
    if let Some((fixed, count)) = fixed {
        host::replace(path, &fixed)?;
        output::note(&format!(
            "{}: {}: {}\n",
            Style::of_stderr().green("fixed"),
            path.display(),
            counted_fixes(count)
        ));
    }
    Ok(())
}

fn counted_fixes(count: usize) -> String {
    format!("{count} fix{}", if count == 1 { "" } else { "es" })
}

/// `ok: quickstart: 14 models, 3 domains, 1 table`
fn clean(analysis: &Analysis, with_files: bool, style: Style) -> String {
    let what = match &analysis.experiment {
        Some(experiment) => format!(
            "{}: {}, {}, {}",
            experiment.name,
            counted(experiment.models.len(), "model"),
            counted(experiment.domains.len(), "domain"),
            counted(experiment.comparisons.len(), "table"),
        ),
        None => {
            let entry = analysis.sources.files().next().map_or("", |(_, file)| file.path.as_str());
            format!("{entry}: no `experiment`, for use by other files")
        }
    };
    let files = if with_files { "; its files and rewards can be used" } else { "" };
    format!("{}: {what}{files}\n", style.green("ok"))
}
