//! Every program that the book, the README and the examples show is one that the checker accepts.

use std::fs;

use mopd_tests::{Fence, fences, files};

/// Pages at the root.
const PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

#[test]
fn what_the_pages_at_the_root_point_at_is_there() {
    let root = mopd_tests::root();
    let mut missing = Vec::new();
    let mut count = 0;
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.starts_with("https://") {
                count += 1;
                if !root.join(path).exists() {
                    missing.push(format!("{page}: {path}"));
                }
            }
        }
    }
    assert!(count > 40, "the links were not found");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_program_of_the_book_and_the_readme_is_accepted() {
    let root = mopd_tests::root();
    let pages = PAGES.map(|page| root.join(page)).into_iter().chain(files(&root.join("book/src"), ".md"));
    let mut faults = String::new();
    let mut count = 0;
    for page in pages {
        let mut program = String::new();
        for Fence { line, continued, text, .. } in fences(&fs::read_to_string(&page).expect("a page")) {
            count += 1;
            program = if continued { program + &text } else { text };
            let analysis = mopd_tests::check("block.mopd", &program);
            if analysis.has_errors() {
                faults += &format!(
                    "{}, block at line {line}:\n{}\n",
                    page.display(),
                    mopd_tests::listing(&analysis)
                );
            }
        }
    }
    assert!(count > 5, "the fences were not found");
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_example_and_every_library_module_is_accepted_without_a_warning() {
    let root = mopd_tests::root();
    let sources = [files(&root.join("examples"), ".mopd"), files(&root.join("stdlib"), ".mopd")].concat();
    assert!(sources.len() > 4);
    for path in sources {
        let analysis =
            mopd_tests::check(&path.to_string_lossy(), &fs::read_to_string(&path).expect("a source file"));
        assert!(analysis.diagnostics.is_empty(), "{}", mopd_tests::listing(&analysis));
    }
}
