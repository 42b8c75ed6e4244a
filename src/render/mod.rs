//! Diagnostics and failures as text. Both are converted to a [`Report`] here, so that they look alike.

pub mod audit;
pub mod human;
pub mod json;
pub mod library;
pub mod markdown;
pub mod outline;
pub mod sarif;
pub mod short;
pub mod trial;

use mopd_lang::diag::{Diagnostic, Fix, Label, Severity};
use mopd_lang::source::{Sources, Span};
use mopd_plan::Plan;
use mopd_plan::events::Failure;

/// The label at the item in the source that a failure belongs to.
const ASKED_FOR: &str = "asked for here";

/// A report, with its places in the source.
pub struct Report<'a> {
    pub severity: Severity,
    /// `unit-mismatch`
    pub code: &'a str,
    pub message: &'a str,
    /// The first is the offending one; the others explain it.
    pub marks: Vec<MarkedSpan<'a>>,
    /// Facts without a place.
    pub notes: Vec<String>,
    pub help: Option<&'a str>,
    pub fix: Option<String>,
}

/// A marked range of bytes of one file.
#[derive(Clone)]
pub struct MarkedSpan<'a> {
    pub path: &'a str,
    /// The whole file.
    pub text: &'a str,
    pub start: usize,
    pub end: usize,
    pub label: &'a str,
}

impl<'a> MarkedSpan<'a> {
    fn new(label: &'a Label, sources: &'a Sources) -> MarkedSpan<'a> {
        let file = sources.file(label.span.file);
        MarkedSpan {
            path: &file.path,
            text: &file.text,
            start: label.span.start as usize,
            end: label.span.end as usize,
            label: &label.text,
        }
    }
}

pub fn of_diagnostic<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Report<'a> {
    Report {
        severity: diagnostic.severity,
        code: diagnostic.code.name(),
        message: &diagnostic.message,
        marks: std::iter::once(&diagnostic.primary)
            .chain(&diagnostic.related)
            .map(|label| MarkedSpan::new(label, sources))
            .collect(),
        notes: Vec::new(),
        help: diagnostic.help.as_deref(),
        fix: diagnostic.fix.as_ref().map(|fix| describe(fix, sources)),
    }
}

/// The place of the item in the source that a failure belongs to.
pub fn place_of(failure: &Failure, plan: &Plan, sources: &Sources) -> Option<Span> {
    let place = plan.place(failure.origin?)?;
    let (file, _) = sources.files().find(|(_, file)| file.path == place.file)?;
    Some(Span::new(file, place.start as usize, place.end as usize))
}

/// A failure at run time, with a mark at the item in the source that it belongs to.
pub fn of_failure<'a>(failure: &'a Failure, plan: &'a Plan, sources: &'a Sources) -> Report<'a> {
    let mark = place_of(failure, plan, sources).map(|place| {
        let (file, start, end) = (sources.file(place.file), place.start as usize, place.end as usize);
        MarkedSpan { path: &file.path, text: &file.text, start, end, label: ASKED_FOR }
    });
    let at = [
        failure.stage.as_ref().map(|stage| format!("stage {stage}")),
        failure.seed.map(|seed| format!("seed {seed}")),
        failure.step.map(|step| format!("step {step}")),
    ];
    let at: Vec<String> = at.into_iter().flatten().collect();
    Report {
        severity: Severity::Error,
        code: failure.kind.name(),
        message: &failure.message,
        marks: mark.into_iter().collect(),
        notes: if at.is_empty() { Vec::new() } else { vec![format!("in {}", at.join(", "))] },
        help: failure.help.as_deref(),
        fix: None,
    }
}

/// An edit as text: its title, and the new text if the title does not contain it.
fn describe(fix: &Fix, sources: &Sources) -> String {
    if fix.title.contains(fix.replacement.trim()) {
        return fix.title.clone();
    }
    let old = sources.text(fix.span);
    if fix.replacement.contains('\n') || old.is_empty() {
        format!("{}:\n{}", fix.title, fix.replacement.trim_matches('\n'))
    } else {
        format!("{}: `{old}` becomes `{}`", fix.title, fix.replacement)
    }
}
