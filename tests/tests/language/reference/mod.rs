//! The book's reference agrees with the compiler's tables. Text between `<!-- generated: NAME -->` and
//! `<!-- end -->` is generated from them; `MOPD_UPDATE=1` rewrites it.

mod codes;
mod grammar;
mod library;
mod tables;
mod units;

use std::collections::BTreeMap;
use std::fs;

use mopd_tests::{files, generate, root, settle};

/// Every section that can be generated.
fn sections() -> BTreeMap<String, String> {
    let mut sections: BTreeMap<String, String> =
        tables::sections().into_iter().chain(library::methods()).collect();
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

#[test]
fn generated_pages_match_the_tables() {
    let sections = sections();
    let mut faults: Vec<String> = Vec::new();
    let mut shown: Vec<String> = Vec::new();
    for path in files(&root().join("book/src"), ".md") {
        let page = fs::read_to_string(&path).expect("a page");
        let made = generate(&page, "generated", |name| sections.get(name).cloned());
        faults.extend(settle(&path, &page, &made));
        shown.extend(made.names);
    }
    for name in sections.keys() {
        match shown.iter().filter(|known| *known == name).count() {
            1 => {}
            count => faults.push(format!("`{name}` is shown {count} times")),
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(root().join("book/src/SUMMARY.md")).expect("the summary");
    for path in files(&root().join("book/src"), ".md") {
        let name = path
            .strip_prefix(root().join("book/src"))
            .expect("below it")
            .to_string_lossy()
            .replace('\\', "/");
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in the summary"
        );
    }
}
