//! Every program in the book, the README and the examples is accepted by the checker.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use mopd_tests::{Fence, fences, files};

/// Pages at the root.
const PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

#[test]
fn links_of_root_pages_exist() {
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

/// A page's lines outside of fences.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut fence = None;
    page.lines().filter(move |line| {
        let ticks = line.trim_start();
        let ticks = &ticks[..ticks.len() - ticks.trim_start_matches('`').len()];
        match fence {
            None if ticks.len() >= 3 => fence = Some(ticks),
            Some(open) if ticks.len() >= open.len() => fence = None,
            _ => return fence.is_none(),
        }
        false
    })
}

/// The anchors of a page, as mdBook makes them from headings: letters and digits in lower case, `-` and
/// `_`, with `-` for a space; a number after the second of a name.
fn places(page: &str) -> BTreeSet<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let headings = prose(page).filter(|line| line.starts_with('#'));
    let name = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    let mut numbered = |name: String| {
        let times = times.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name}-{}", *times - 1) }
    };
    headings.map(|heading| numbered(name(heading))).collect()
}

/// The targets of a page's links, except those to other sites.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(page) {
        // Text in backquotes is not a link; the text of a link may be in backquotes.
        let text: String = line.split('`').step_by(2).collect();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(targets.map(|(link, _)| link.to_owned()).filter(|link| !link.contains("://")));
    }
    found
}

/// The path of a link from a page in `folder`, without `..`.
fn joined(folder: &Path, link: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for part in link.split('/') {
        match part {
            ".." => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_of_the_book_leads_to_a_place_in_it() {
    let book = mopd_tests::root().join("book/src");
    let pages: HashMap<PathBuf, String> = files(&book, ".md")
        .into_iter()
        .map(|page| (page.clone(), fs::read_to_string(page).expect("a page")))
        .collect();
    let mut faults = Vec::new();
    let mut count = 0;
    for (page, text) in &pages {
        for link in links(text) {
            count += 1;
            let (path, place) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { joined(page.parent().unwrap(), path) };
            let found = match pages.get(&target) {
                Some(target) => place.is_empty() || places(target).contains(place),
                // A picture or other file, which mdBook copies.
                None => target.starts_with(&book) && place.is_empty() && target.is_file(),
            };
            if !found {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(count > 500, "the links were not found");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_link_and_its_place_are_found_as_mdbook_makes_them() {
    let page = "# A `code`, twice\n````text\n```\n# no heading [no](link.md)\n```\n````\n\
                see [`x`](a.md#b), `[no](c.md)` and [out](https://d)\n## A code twice\n";
    assert_eq!(links(page), ["a.md#b"]);
    assert_eq!(places(page), ["a-code-twice", "a-code-twice-1"].map(str::to_owned).into());
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
