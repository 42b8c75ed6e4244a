//! Diagnostics as SARIF 2.1.0, the format of code-review tools.

use std::collections::BTreeSet;
use std::path::Path;

use mopd_lang::diag::{Code, Diagnostic, Fix, Label, Severity};
use mopd_lang::source::{FileId, Sources, Span};
use mopd_plan::Plan;
use mopd_plan::events::Failure;
use serde_json::{Value, json};

use crate::problem::Problem;

/// One diagnostic as a SARIF result.
pub fn result(diagnostic: &Diagnostic, sources: &Sources) -> Value {
    let text = match &diagnostic.help {
        Some(help) => format!("{}\nhelp: {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let related: Vec<Value> =
        diagnostic.related.iter().enumerate().map(|(id, label)| related(id, label, sources)).collect();
    let fixes: Vec<Value> = diagnostic.fix.iter().map(|fix| replacement(fix, sources)).collect();
    json!({
        "ruleId": diagnostic.code.name(),
        "level": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "message": { "text": text },
        "locations": [{ "physicalLocation": place(diagnostic.primary.span, sources) }],
        "relatedLocations": related,
        "fixes": fixes,
    })
}

/// The reason why a file was not checked at all.
pub fn of_problem(problem: &Problem, path: &Path) -> Value {
    let text = match problem.help_text() {
        Some(help) => format!("{}\nhelp: {help}", problem.message()),
        None => problem.message().to_owned(),
    };
    json!({
        "ruleId": problem.name(),
        "level": "error",
        "message": { "text": text },
        "locations": [{ "physicalLocation": { "artifactLocation": { "uri": path.display().to_string() } } }],
    })
}

/// A problem of a run: at its item in the source, or at the beginning of the file.
pub fn of_failure(failure: &Failure, plan: &Plan, sources: &Sources) -> Value {
    let text = match &failure.help {
        Some(help) => format!("{}\nhelp: {help}", failure.message),
        None => failure.message.clone(),
    };
    let span = super::place_of(failure, plan, sources).unwrap_or(Span::new(FileId(0), 0, 0));
    json!({
        "ruleId": failure.kind.name(),
        "level": "error",
        "message": { "text": text },
        "locations": [{ "physicalLocation": place(span, sources) }],
    })
}

/// The log of one command, ending with a newline. `codes` are those that occur.
pub fn log(results: &[Value], codes: &BTreeSet<Code>) -> String {
    let rule = |code: &Code| {
        json!({
            "id": code.name(),
            "shortDescription": { "text": code.summary() },
            "help": { "text": code.page(), "markdown": code.page() },
        })
    };
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "mopd",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": codes.iter().map(rule).collect::<Vec<Value>>(),
            } },
            "columnKind": "utf16CodeUnits",
            "results": results,
        }],
    });
    serde_json::to_string_pretty(&log).expect("strings and whole numbers can always be written") + "\n"
}

fn related(id: usize, label: &Label, sources: &Sources) -> Value {
    json!({ "id": id, "message": { "text": label.text }, "physicalLocation": place(label.span, sources) })
}

fn replacement(fix: &Fix, sources: &Sources) -> Value {
    json!({
        "description": { "text": fix.title },
        "artifactChanges": [{
            "artifactLocation": artifact(fix.span, sources),
            "replacements": [{
                "deletedRegion": region(fix.span, sources),
                "insertedContent": { "text": fix.replacement },
            }],
        }],
    })
}

fn place(span: Span, sources: &Sources) -> Value {
    json!({ "artifactLocation": artifact(span, sources), "region": region(span, sources) })
}

fn artifact(span: Span, sources: &Sources) -> Value {
    json!({ "uri": uri(&sources.file(span.file).path) })
}

/// A path as a URI reference (RFC 3986): reserved and invalid characters are percent-encoded. Paths of the
/// library are `std:opd.mopd` already.
fn uri(path: &str) -> String {
    let standard = path.strip_prefix("std:").map(|module| ("std:", module));
    let (scheme, path) = standard.unwrap_or(("", path));
    let mut uri = scheme.to_owned();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte))
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    uri
}

/// Lines and columns from 1, the end exclusive.
fn region(span: Span, sources: &Sources) -> Value {
    let (line, column) = sources.position(span.file, span.start);
    let (end_line, end_column) = sources.position(span.file, span.end);
    json!({
        "startLine": line + 1,
        "startColumn": column + 1,
        "endLine": end_line + 1,
        "endColumn": end_column + 1,
    })
}
