//! The book's reference says what the compiler's own tables say. Text between `<!-- generated: NAME -->` and `<!-- end -->` is
//! made from them; `MOPD_UPDATE=1` writes it anew.

mod codes;
mod grammar;
mod library;
mod tables;
mod units;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use mopd_tests::{files, root};

/// Every section that can be generated.
fn sections() -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, String> = tables::sections().into_iter().chain(library::methods()).collect();
    let more = [
        ("grammar", grammar::render()),
        ("units", units::units()),
        ("operators", units::operators()),
        ("functions of one number", units::functions()),
        ("codes", codes::table()),
        ("pages of the codes", codes::pages()),
        ("library", library::library()),
    ];
    sections.extend(more.into_iter().map(|(name, text)| (name.to_owned(), text)));
    sections
}

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

/// The page with every section written anew; the names of the sections that it holds.
fn rendered(page: &str, sections: &BTreeMap<String, String>, faults: &mut String) -> (String, Vec<String>) {
    let (mut text, mut named) = (String::new(), Vec::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let _ = writeln!(text, "{line}");
        let Some(name) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        named.push(name.to_owned());
        match sections.get(name) {
            Some(section) => {
                let _ = write!(text, "\n{section}\n\n");
            }
            None => {
                let _ = writeln!(faults, "nothing is called `{name}`");
            }
        }
        match lines.by_ref().find(|line| line.starts_with("<!-- ")) {
            Some(END) => {
                let _ = writeln!(text, "{END}");
            }
            _ => {
                let _ = writeln!(faults, "`{name}` has no end");
            }
        }
    }
    (text, named)
}

#[test]
fn what_is_generated_is_what_the_tables_say() {
    let update = std::env::var_os("MOPD_UPDATE").is_some();
    let sections = sections();
    let mut faults = String::new();
    let mut shown: Vec<String> = Vec::new();
    for path in files(&root().join("book/src"), ".md") {
        let page = fs::read_to_string(&path).expect("a page");
        let mut wrong = String::new();
        let (text, named) = rendered(&page, &sections, &mut wrong);
        shown.extend(named);
        if !wrong.is_empty() {
            let _ = writeln!(faults, "{}: {wrong}", path.display());
        } else if text != page && update {
            fs::write(&path, text).expect("the page is written");
        } else if text != page {
            let differs = text.lines().zip(page.lines()).position(|(ours, theirs)| ours != theirs);
            let line = differs.unwrap_or_else(|| text.lines().count().min(page.lines().count())) + 1;
            let _ = writeln!(faults, "{}:{line}: not what the tables say; MOPD_UPDATE=1 writes it anew", path.display());
        }
    }
    for name in sections.keys() {
        match shown.iter().filter(|known| *known == name).count() {
            1 => {}
            count => {
                let _ = writeln!(faults, "`{name}` is shown {count} times");
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(root().join("book/src/SUMMARY.md")).expect("the summary");
    for path in files(&root().join("book/src"), ".md") {
        let name = path.strip_prefix(root().join("book/src")).expect("below it").to_string_lossy().replace('\\', "/");
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name} is not in the summary");
    }
}
