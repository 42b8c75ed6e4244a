//! A type that an editor hints behind the name of a `let` can be written there: in every program of the
//! repository that has such hints, the diagnostics with all of them written are the same.

use std::fs;

use mopd_lang::Analysis;
use mopd_lang::ide::{Inlay, inlays};
use mopd_ops::testing::Extent;
use mopd_tests::corpus::corpus;
use mopd_tests::{check_text, fences, files, root};

fn programs() -> Vec<String> {
    let mut texts: Vec<String> = corpus().into_iter().map(|case| case.text).collect();
    for folder in ["examples", "stdlib", "tests/methods"] {
        let paths = files(&root().join(folder), ".mopd");
        texts.extend(paths.iter().map(|path| fs::read_to_string(path).expect("a program")));
    }
    for path in files(&root().join("tests/suite"), ".md") {
        let page = fs::read_to_string(path).expect("a page of the suite");
        texts.extend(fences(&page).into_iter().map(|fence| fence.text));
    }
    texts.retain(|text| text.len() < 20_000 && text.contains("let "));
    texts
}

fn with_hints(text: &str, hints: &[Inlay]) -> String {
    let mut written = text.to_owned();
    for hint in hints.iter().rev() {
        written.insert_str(hint.offset as usize, &hint.text);
    }
    written
}

/// The diagnostics, one a line.
fn listing(analysis: &Analysis) -> Vec<String> {
    let line = |diagnostic: &mopd_lang::diag::Diagnostic| {
        format!("[{}] {}", diagnostic.code.name(), diagnostic.message)
    };
    analysis.diagnostics.iter().map(line).collect()
}

#[test]
fn a_type_that_is_hinted_can_be_written() {
    let extent = Extent::from_environment();
    let (mut count, mut faults) = (0, String::new());
    for text in extent.cases(programs().into_iter()) {
        let analysis = check_text("a.mopd", &text);
        let hints: Vec<Inlay> = inlays(&analysis).into_iter().filter(|hint| hint.typed).collect();
        count += hints.len();
        let before = listing(&analysis);
        let is_same = |hints: &[Inlay]| listing(&check_text("a.mopd", &with_hints(&text, hints))) == before;
        if hints.is_empty() || is_same(&hints) {
            continue;
        }
        for hint in hints.iter().filter(|hint| !is_same(std::slice::from_ref(*hint))) {
            let written = with_hints(&text, std::slice::from_ref(hint));
            let line = written[..hint.offset as usize].matches('\n').count();
            let after = listing(&check_text("a.mopd", &written));
            faults += &format!(
                "{}\n  before {before:?}\n  after {after:?}\n",
                written.lines().nth(line).unwrap_or("")
            );
        }
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(count >= extent.least(300), "only {count} hints");
}
