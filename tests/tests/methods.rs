//! One small experiment for each published method, in `tests/methods`, each with the standard library's own words for it.

use std::fmt::Write as _;
use std::fs;

use mopd_lang::diag::Severity;
use mopd_tests::{check, files, listing, root};

#[test]
fn every_method_checks() {
    let mut faults = String::new();
    let programs = files(&root().join("tests/methods"), ".mopd");
    assert!(programs.len() > 70, "only {} programs", programs.len());
    for path in programs {
        let text = fs::read_to_string(&path).expect("a program");
        let analysis = check(&path.file_name().expect("a file").to_string_lossy(), &text);
        if analysis.diagnostics.iter().any(|finding| finding.severity == Severity::Error) {
            let _ = write!(faults, "{}", listing(&analysis));
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_module_of_the_library_checks() {
    let mut faults = String::new();
    for (name, text) in mopd_std::MODULES {
        let analysis = check(&format!("std:{name}.mopd"), text);
        if analysis.has_errors() {
            let _ = write!(faults, "{}", listing(&analysis));
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}
