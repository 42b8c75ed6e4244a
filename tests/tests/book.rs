//! Every program that the book, the README and the examples show is one that the checker accepts.

use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// The programs between fences tagged `mopd`, with the line each starts on. A fence tagged `mopd continued` goes on where the
/// one before it ended: a tutorial shows a file piece by piece.
fn programs(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.starts_with("```") => found.extend(open.take()),
            Some((_, program)) => {
                program.push_str(line);
                program.push('\n');
            }
            None if line.starts_with("```mopd continued") => {
                let before: &(usize, String) = found.last().expect("something to continue");
                open = Some((number + 2, before.1.clone()));
            }
            None if line.starts_with("```mopd") => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a fence is never closed");
    found
}

#[test]
fn every_program_of_the_book_and_the_readme_is_accepted() {
    let root = mopd_tests::root();
    let mut pages = vec![root.join("README.md")];
    files(&root.join("book/src"), ".md", &mut pages);
    let mut faults = String::new();
    let mut count = 0;
    for page in pages {
        for (line, program) in programs(&fs::read_to_string(&page).expect("a page")) {
            count += 1;
            let analysis = mopd_tests::check("block.mopd", &program);
            if analysis.has_errors() {
                faults += &format!("{}, block at line {line}:\n{}\n", page.display(), mopd_tests::listing(&analysis));
            }
        }
    }
    assert!(count > 5, "the fences were not found");
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_example_and_every_library_module_is_accepted_without_a_warning() {
    let root = mopd_tests::root();
    let mut sources = Vec::new();
    files(&root.join("examples"), ".mopd", &mut sources);
    files(&root.join("stdlib"), ".mopd", &mut sources);
    assert!(sources.len() > 4);
    for path in sources {
        let analysis = mopd_tests::check(&path.to_string_lossy(), &fs::read_to_string(&path).expect("a source file"));
        assert!(analysis.diagnostics.is_empty(), "{}", mopd_tests::listing(&analysis));
    }
}
