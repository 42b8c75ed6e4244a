//! The diagnostic codes: one table, and each page under its own heading. The pages are included, not copied.

use std::fmt::Write as _;
use std::fs;

use mopd_lang::diag::Code;

pub fn table() -> String {
    let (errors, warnings) = (reported("error"), reported("warning"));
    let mut text = "| code | severity | |\n|---|---|---|\n".to_owned();
    for code in Code::ALL {
        let name = format!("{code:?}");
        let severity = match (errors.contains(&name), warnings.contains(&name)) {
            (true, true) => "error or warning",
            (false, true) => "warning",
            (_, false) => "error",
        };
        let _ = writeln!(
            text,
            "| [`{0}`](#{0}) | {severity} | {1} |",
            code.name(),
            crate::reference::tables::cell(code.summary())
        );
    }
    text.trim_end().to_owned()
}

/// `{{#include}}` from the second line on: the first line is the page's title, for which there is a
/// lower-level heading here.
pub fn pages() -> String {
    let mut text = String::new();
    for code in Code::ALL {
        let title = code.page().lines().next().unwrap_or_default().trim_start_matches("# ");
        let _ = write!(text, "## `{}`\n\n", code.name());
        if title != code.name() {
            let _ = write!(text, "**{title}.**\n\n");
        }
        let _ = write!(text, "{{{{#include ../../../lang/codes/{}.md:2:}}}}\n\n", code.name());
    }
    text.trim_end().to_owned()
}

/// The codes that the compiler reports as errors or as warnings, found in its source: severity is a property
/// of a diagnostic, not of a code.
fn reported(severity: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in ["lang/src", "compiler/src", "src"]
        .iter()
        .flat_map(|folder| mopd_tests::files(&mopd_tests::root().join(folder), ".rs"))
    {
        let text: String = fs::read_to_string(path).expect("a source file").split_whitespace().collect();
        let begins = format!("Diagnostic::{severity}(Code::");
        let codes = text.split(begins.as_str()).skip(1);
        found.extend(codes.map(|rest| rest.split(',').next().unwrap_or_default().to_owned()));
    }
    assert!(!found.is_empty(), "no {severity} was found: how they are made has changed");
    found
}
