//! The grammar, generated and compiled: its trees, its agreement with the compiler, its queries.

mod agreement;

use std::fs;
use std::path::{Path, PathBuf};

use tree_sitter::{Language, Parser, Query, Tree};
use tree_sitter_language::LanguageFn;

unsafe extern "C" {
    fn tree_sitter_mopd() -> *const ();
}

fn language() -> Language {
    // SAFETY: the build script links this function, and tree-sitter's generator wrote it.
    unsafe { LanguageFn::from_raw(tree_sitter_mopd) }.into()
}

fn parse(text: &str) -> Tree {
    let mut parser = Parser::new();
    parser.set_language(&language()).expect("tables of a version that this tree-sitter reads");
    parser.parse(text, None).expect("no limit of time was set")
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose names end so, in order, without what is built or downloaded.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    const SKIPPED: [&str; 6] = [".git", ".mopd", "node_modules", "target", "runs", "dist"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A case of `test/corpus/`, as tree-sitter's own program reads it.
struct Case {
    name: String,
    text: String,
    /// The tree; none where the text must be refused (`:error`).
    tree: Option<String>,
}

fn cases(page: &str) -> Vec<Case> {
    let rule = |line: &str, sign: char| line.len() >= 3 && line.chars().all(|c| c == sign);
    let lines: Vec<&str> = page.lines().collect();
    // A case begins with its name and attributes between two rules.
    let rules: Vec<usize> = (0..lines.len()).filter(|&index| rule(lines[index], '=')).collect();
    let (heads, rest) = rules.as_chunks::<2>();
    assert!(rest.is_empty(), "the name of a case stands between two rules");
    let case = |(number, &[begin, end]): (usize, &[usize; 2])| {
        let next = heads.get(number + 1).map_or(lines.len(), |&[next, _]| next);
        let body = &lines[end + 1..next];
        let middle = body.iter().rposition(|line| rule(line, '-')).expect("a rule before the tree");
        let refused = lines[begin + 1..end].contains(&":error");
        Case {
            name: lines[begin + 1].to_owned(),
            // Its last line is the empty one before the rule.
            text: body[..middle].join("\n"),
            tree: (!refused).then(|| one_line(&body[middle + 1..].join(" "))),
        }
    };
    heads.iter().enumerate().map(case).collect()
}

/// A tree as `Node::to_sexp` writes it, from one over several lines.
fn one_line(tree: &str) -> String {
    tree.split_whitespace().collect::<Vec<_>>().join(" ").replace(" )", ")")
}

/// A tree without the names of its fields, which the corpus leaves out.
fn without_fields(tree: &str) -> String {
    tree.split(' ').filter(|word| !word.ends_with(':')).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_corpus_has_these_trees() {
    let mut seen = 0;
    for file in files(&here().join("test/corpus"), ".txt") {
        for case in cases(&read(&file)) {
            let tree = parse(&case.text);
            let root = tree.root_node();
            let place = format!("{}: {}", file.display(), case.name);
            match case.tree {
                Some(wanted) => assert_eq!(without_fields(&root.to_sexp()), wanted, "{place}"),
                None => assert!(root.has_error(), "{place}: accepted as {}", root.to_sexp()),
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} cases were found");
}

#[test]
fn queries_name_what_the_grammar_has() {
    let mut seen = 0;
    for folder in [here().join("queries"), here().join("../zed/languages/mopd")] {
        for file in files(&folder, ".scm") {
            let query = Query::new(&language(), &read(&file));
            let query = query.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(query.pattern_count() > 0, "{} is empty", file.display());
            seen += 1;
        }
    }
    assert!(seen >= 7, "only {seen} files of queries were found");
}
