//! The fixes that a program's diagnostics offer: each is applied, alone and all together, and the result is
//! checked.

use std::collections::HashMap;
use std::fmt::Write as _;

use mopd_lang::Analysis;
use mopd_lang::diag::{Applicability, Diagnostic, Fix, Severity, apply_certain, apply_once};
use mopd_lang::source::FileId;

const ENTRY: FileId = FileId(0);

/// The errors of an analysis by code and message, and how often each is reported.
fn errors(analysis: &Analysis) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for diagnostic in analysis.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
    {
        *counts.entry(format!("[{}] {}", diagnostic.code.name(), diagnostic.message)).or_default() += 1;
    }
    counts
}

fn count(analysis: &Analysis, severity: Severity) -> usize {
    analysis.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
}

/// Every edit that a diagnostic of the entry file offers.
pub fn edits(diagnostic: &Diagnostic) -> impl Iterator<Item = &Fix> {
    diagnostic.fix.iter().chain(&diagnostic.choices).filter(|fix| fix.span.file == ENTRY)
}

/// The text with one edit applied.
pub fn applied(text: &str, diagnostic: &Diagnostic, fix: &Fix) -> Option<String> {
    let alone = Diagnostic { fix: Some(fix.clone()), ..diagnostic.clone() };
    apply_once(text, ENTRY, &[alone], |_| true).map(|(fixed, _)| fixed)
}

/// What is wrong with the fixes of a program, and how many there are.
#[derive(Default)]
pub struct FixFaults {
    pub offered: usize,
    pub text: String,
}

/// The check of a text: without the audit, and with it.
pub struct Checks<'a> {
    pub text: &'a dyn Fn(&str) -> Analysis,
    pub audited: &'a dyn Fn(&str) -> Analysis,
}

/// What is wrong with the fixes of a program: one that changes nothing, one after which there are not fewer
/// errors (for a warning: not fewer warnings) or a new one, certain ones that together leave one of them to
/// apply. A program with errors is not audited, so its fixes are not either.
pub fn faults(text: &str, checks: &Checks) -> FixFaults {
    let mut before = (checks.text)(text);
    let mut check = checks.text;
    if !before.has_errors() {
        check = checks.audited;
        before = check(text);
    }
    let mut faults = FixFaults::default();
    for diagnostic in &before.diagnostics {
        for fix in edits(diagnostic) {
            faults.offered += 1;
            let line = before.sources.position(ENTRY, fix.span.start).0 + 1;
            let name = format!(
                "`{}` at line {line} of [{}] {}",
                fix.title,
                diagnostic.code.name(),
                diagnostic.message
            );
            let Some(fixed) = applied(text, diagnostic, fix) else {
                faults.add(&format!("{name}: changes nothing"));
                continue;
            };
            if let Some(fault) = worse(&before, &check(&fixed), diagnostic.severity) {
                faults.add(&format!("{name}: {fault}\n{}", changed(text, &fixed)));
            }
        }
    }
    let certain = |diagnostic: &&Diagnostic| {
        let fix = diagnostic.fix.as_ref().filter(|fix| fix.span.file == ENTRY);
        fix.is_some_and(|fix| fix.applicability == Applicability::Certain)
    };
    let severity = before.diagnostics.iter().filter(certain).map(|diagnostic| diagnostic.severity).min();
    let Some(severity) = severity else { return faults };
    let diagnostics = |text: &str| check(text).diagnostics;
    let Some((fixed, _)) = apply_certain(text, ENTRY, diagnostics) else {
        faults.add("`--fix` changes nothing");
        return faults;
    };
    if let Some(fault) = worse(&before, &check(&fixed), severity) {
        faults.add(&format!("`--fix`: {fault}\n{}", changed(text, &fixed)));
    }
    if let Some((again, _)) = apply_certain(&fixed, ENTRY, diagnostics) {
        faults.add(&format!("`--fix` applied again changes more:\n{}", changed(&fixed, &again)));
    }
    faults
}

impl FixFaults {
    fn add(&mut self, fault: &str) {
        let _ = writeln!(self.text, "{fault}");
    }
}

/// Why a text is not better after a fix of a diagnostic with this severity.
fn worse(before: &Analysis, after: &Analysis, severity: Severity) -> Option<String> {
    let (old, new) = (errors(before), errors(after));
    let added: Vec<&String> = new
        .iter()
        .filter(|(error, count)| old.get(*error).copied().unwrap_or(0) < **count)
        .map(|(error, _)| error)
        .collect();
    if !added.is_empty() {
        return Some(format!("a new error: {added:?}"));
    }
    let fewer = |severity| count(after, severity) < count(before, severity);
    (!fewer(severity)).then(|| format!("as many {}s as before", severity.name()))
}

/// The lines that differ.
fn changed(before: &str, after: &str) -> String {
    let only = |sign: char, these: &str, those: &str| -> String {
        let lines = these.lines().filter(|line| !those.lines().any(|other| other == *line));
        lines.map(|line| format!("    {sign} {line}\n")).collect()
    };
    only('-', before, after) + &only('+', after, before)
}
