//! `mopd check`: findings, and nothing else. It never starts the worker.

use mopd_lang::Analysis;
use mopd_lang::diag::Severity;

use crate::args::{Check, CheckFormat};
use crate::output::{self, Style, counted};
use crate::problem::{Problem, Status};
use crate::{host, render};

pub fn check(arguments: &Check) -> Result<Status, Problem> {
    let mut status = Status::Good;
    let mut json = Vec::new();
    let mut sarif = Vec::new();
    let mut all = Vec::new();
    for path in &arguments.files {
        let analysis = match host::analyse_file(path, &[]) {
            Ok(analysis) => analysis,
            Err(problem) => {
                problem.report();
                status = Status::Usage;
                continue;
            }
        };
        let findings = &analysis.diagnostics;
        match arguments.format {
            CheckFormat::Human => output::result(&render::human::findings(findings, &analysis.sources, Style::of_stdout())),
            CheckFormat::Short => output::result(&render::short::findings(findings, &analysis.sources)),
            CheckFormat::Json => json.extend(render::json::findings(findings, &analysis.sources)),
            CheckFormat::Sarif => {
                sarif.extend(findings.iter().map(|finding| render::sarif::result(finding, &analysis.sources)));
            }
        }
        if findings.iter().any(|finding| finding.severity == Severity::Error) && status == Status::Good {
            status = Status::Wrong;
        }
        if findings.is_empty() && arguments.format == CheckFormat::Human {
            output::error(&clean(&analysis, Style::of_stderr()));
        }
        all.extend(analysis.diagnostics);
    }
    match arguments.format {
        CheckFormat::Json => output::result(&render::json::list(&json)),
        CheckFormat::Sarif => {
            let codes = all.iter().map(|finding| finding.code).collect();
            output::result(&render::sarif::log(&sarif, &codes));
        }
        CheckFormat::Human if !all.is_empty() => output::error(&render::human::summary(&all, Style::of_stderr())),
        CheckFormat::Human | CheckFormat::Short => {}
    }
    Ok(status)
}

/// `ok: quickstart: 14 models, 3 domains, 1 table`
fn clean(analysis: &Analysis, style: Style) -> String {
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
    format!("{}: {what}\n", style.green("ok"))
}
