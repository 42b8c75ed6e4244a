//! Names: a type name means one thing, or the page of names says why not; replaced words don't come back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const PAGE: &str = "book/src/decisions/names.md";

/// The keyword and the name that an unindented line of code declares.
fn declared(line: &str) -> Option<(&str, &str)> {
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => line.strip_prefix("pub ")?,
    };
    let (keyword, rest) = line.split_once(' ')?;
    let name = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()?;
    Some((keyword, name))
}

/// The sources without tests, each cut before its test module.
pub fn sources() -> Vec<(String, String)> {
    let root = mopd_tests::root();
    let mut found = Vec::new();
    let folders = ["compiler", "lang", "runtime", "src", "stdlib", "tools/playground/src"];
    for file in folders.iter().flat_map(|folder| mopd_tests::files(&root.join(folder), ".rs")) {
        let name = file.strip_prefix(&root).expect("a file of the repository").to_string_lossy().into_owned();
        let tests = ["tests.rs", "testing.rs"].iter().any(|end| name.ends_with(end));
        let skipped = tests || name.contains("/tests/");
        if !skipped {
            let text = fs::read_to_string(&file).expect("UTF-8");
            let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            found.push((name, own));
        }
    }
    assert!(found.len() > 400, "{} files", found.len());
    found
}

fn page() -> String {
    fs::read_to_string(mopd_tests::root().join(PAGE)).expect("the page of names")
}

/// Checks names that are visible outside the file that declares them and stand for several types.
#[test]
fn type_names_are_unique_or_listed() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources() {
        for (keyword, name) in text.lines().filter_map(declared) {
            if ["struct", "enum", "trait", "type", "union"].contains(&keyword) {
                places.entry(name.to_owned()).or_default().push(file.clone());
            }
        }
    }
    let twice: BTreeMap<_, _> = places.into_iter().filter(|(_, files)| files.len() > 1).collect();
    let page = page();
    let section = page.split("## Type names that occur twice").nth(1).expect("the section");
    let table = section.split("\n## ").next().unwrap_or_default();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let listed: BTreeSet<String> = cells
        .flat_map(|cell| {
            cell.split('`').filter(|name| name.starts_with(char::is_uppercase)).map(str::to_owned)
        })
        .collect();
    let unsaid: BTreeMap<_, _> = twice.iter().filter(|(name, _)| !listed.contains(*name)).collect();
    assert!(unsaid.is_empty(), "rename these, or say why not in {PAGE}: {unsaid:#?}");
    let once: Vec<_> = listed.iter().filter(|name| !twice.contains_key(*name)).collect();
    assert!(once.is_empty(), "{PAGE} lists names that occur once: {once:?}");
}

/// The page has a command with the replaced words; none of them names a type, a function or a module.
#[test]
fn replaced_words_are_not_used_as_names() {
    let page = page();
    let start = page.find("(struct|enum|trait|type|fn|mod) (").expect("the command");
    let words = page[start..].split('(').nth(2).and_then(|rest| rest.split(')').next()).expect("the words");
    let words: BTreeSet<String> = words.split('|').map(str::to_lowercase).collect();
    assert!(words.len() > 30, "{words:?}");
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (line, number) in text.lines().zip(1..) {
            let code = line.trim_start();
            let mut parts = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            while let Some(part) = parts.next() {
                if ["struct", "enum", "trait", "type", "fn", "mod"].contains(&part)
                    && !code.starts_with("//")
                    && parts.clone().next().is_some_and(|name| words.contains(&name.to_lowercase()))
                {
                    found.push(format!("{file}:{number}: {code}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
