//! Every program that the book, the README and the examples show is one that the checker accepts.

use std::fs;

use mopd_tests::{Fence, fences, files};

#[test]
fn every_program_of_the_book_and_the_readme_is_accepted() {
    let root = mopd_tests::root();
    let pages = std::iter::once(root.join("README.md")).chain(files(&root.join("book/src"), ".md"));
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
