//! `mopd check`: diagnostics. Starts the worker only with `--files`, to read all data and ask the rewards.

use std::path::Path;

use mopd_experiment::Experiment;
use mopd_lang::Analysis;
use mopd_lang::diag::{Code, Diagnostic, Severity, apply_certain};
use mopd_lang::source::{FileId, Sources};
use mopd_plan::Plan;
use mopd_plan::events::Failure;
use serde_json::Value;

use super::files;
use crate::args::{CheckArgs, CheckFormat};
use crate::output::{self, Style, counted};
use crate::problem::{CommandStatus, Problem};
use crate::render::json::JsonDiagnostic;
use crate::{data, host, paths, render};

pub fn check(arguments: &CheckArgs) -> Result<CommandStatus, Problem> {
    let mut report = CheckReport {
        format: arguments.format,
        status: CommandStatus::Success,
        json: Vec::new(),
        sarif: Vec::new(),
        diagnostics: Vec::new(),
    };
    for path in &arguments.files {
        let fixed = if arguments.fix { fix(path) } else { Ok(()) };
        match fixed.and_then(|()| host::check_file(path, &arguments.overrides.set)) {
            Ok((analysis, plan)) => report.file(path, analysis, plan.as_ref(), arguments.with_files)?,
            Err(problem) => report.unreadable(path, &problem),
        }
    }
    report.end();
    Ok(report.status)
}

/// What was found so far, in the format of the output. Formats for people are printed as it is found.
struct CheckReport {
    format: CheckFormat,
    status: CommandStatus,
    json: Vec<JsonDiagnostic>,
    sarif: Vec<Value>,
    diagnostics: Vec<Diagnostic>,
}

impl CheckReport {
    fn unreadable(&mut self, path: &Path, problem: &Problem) {
        // On standard error for people, and in the output for programs that read only that.
        problem.report();
        match self.format {
            CheckFormat::Json => self.json.push(render::json::of_problem(problem, path)),
            CheckFormat::Sarif => self.sarif.push(render::sarif::of_problem(problem, path)),
            CheckFormat::Human | CheckFormat::Short => {}
        }
        self.status = CommandStatus::UsageError;
    }

    fn file(
        &mut self,
        path: &Path,
        mut analysis: Analysis,
        plan: Option<&Plan>,
        with_files: bool,
    ) -> Result<(), Problem> {
        // The worker reads all of the data.
        let of_beginnings = plan.filter(|_| !with_files);
        let beginnings = of_beginnings.map(|plan| data::check(&mut analysis, plan, &host::folder_of(path)));
        let used = plan.filter(|_| with_files);
        match (used, &analysis.experiment) {
            (Some(_), Some(experiment)) => note_fetched(experiment, path),
            // The worker fetches data to read all of it.
            (None, Some(experiment)) if plan.is_some() => note_unread(experiment, path),
            _ => {}
        }
        let refused = match used {
            Some(plan) => files::refused(plan, path)?,
            None => Vec::new(),
        };
        analysis.diagnostics.retain(|diagnostic| !is_said_by(diagnostic, &refused));
        self.found(&analysis);
        match used.filter(|_| !refused.is_empty()) {
            Some(plan) => self.refused(path, &refused, plan, &analysis.sources),
            None if analysis.diagnostics.is_empty() && self.format == CheckFormat::Human => {
                output::note(&clean(&analysis, used.is_some(), Style::of_stderr()));
                for read in beginnings.iter().flatten() {
                    output::note(&format!("note: only {read} were read; `--files` reads all\n"));
                }
            }
            None => {}
        }
        self.diagnostics.extend(analysis.diagnostics);
        Ok(())
    }

    /// The diagnostics of a file.
    fn found(&mut self, analysis: &Analysis) {
        let Analysis { diagnostics, sources, .. } = analysis;
        match self.format {
            CheckFormat::Human => {
                output::result(&render::human::diagnostics(diagnostics, sources, Style::of_stdout()));
            }
            CheckFormat::Short => output::result(&render::short::diagnostics(diagnostics, sources)),
            CheckFormat::Json => self.json.extend(render::json::diagnostics(diagnostics, sources)),
            CheckFormat::Sarif => {
                let results = diagnostics.iter().map(|diagnostic| render::sarif::result(diagnostic, sources));
                self.sarif.extend(results);
            }
        }
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            self.fail();
        }
    }

    /// The files and rewards that a run could not use.
    fn refused(&mut self, path: &Path, refused: &[Failure], plan: &Plan, sources: &Sources) {
        for failure in refused {
            match self.format {
                CheckFormat::Human => {
                    let report = render::of_failure(failure, plan, sources);
                    output::result(&render::human::report(&report, Style::of_stdout()));
                }
                CheckFormat::Short => output::result(&render::short::failure(failure, plan, sources)),
                CheckFormat::Json => self.json.push(render::json::of_failure(failure, plan, sources)),
                CheckFormat::Sarif => self.sarif.push(render::sarif::of_failure(failure, plan, sources)),
            }
        }
        output::error(&format!(
            "{} of {} cannot be used in a run\n",
            counted(refused.len(), "part"),
            path.display()
        ));
        self.fail();
    }

    fn fail(&mut self) {
        if self.status == CommandStatus::Success {
            self.status = CommandStatus::Failure;
        }
    }

    fn end(&self) {
        match self.format {
            CheckFormat::Json => output::result(&render::json::list(&self.json)),
            CheckFormat::Sarif => {
                let codes = self.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
                output::result(&render::sarif::log(&self.sarif, &codes));
            }
            CheckFormat::Human if !self.diagnostics.is_empty() => {
                output::error(&render::human::summary(&self.diagnostics, Style::of_stderr()));
            }
            CheckFormat::Human | CheckFormat::Short => {}
        }
    }
}

/// Whether a warning of a missing file is about a file that the worker could not read either.
fn is_said_by(diagnostic: &Diagnostic, refused: &[Failure]) -> bool {
    let Some(path) = diagnostic.message.strip_prefix("there is no ") else { return false };
    let path = path.trim_start_matches("./");
    diagnostic.code == Code::MissingFile
        && refused.iter().any(|failure| failure.message.trim_start_matches("./").starts_with(path))
}

/// Says which models a run would fetch from the hub.
fn note_fetched(experiment: &Experiment, path: &Path) {
    let folder = host::folder_of(path);
    for name in paths::to_fetch(experiment, &folder) {
        let meant = paths::meant(&name, &folder);
        let meant = meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
        output::error(&format!(
            "note: there is no folder `{name}` beside the file, and no model of that name in the hub's cache: a \
             run would fetch it from the hub{meant}\n"
        ));
    }
}

/// Says which data sets are not here yet, so that their fields are not checked.
fn note_unread(experiment: &Experiment, path: &Path) {
    for name in paths::data_to_fetch(experiment, &host::folder_of(path)) {
        output::error(&format!(
            "note: there is no folder `{name}` beside the file, and the hub's cache has not all of that data set: a \
             run would fetch what it reads from the hub; until then its fields are not checked\n"
        ));
    }
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
