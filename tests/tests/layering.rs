//! The layers inside crates: the top-level modules of a crate import each other without a loop. Each module
//! of the runtime imports only modules before it in the list, and so does each module of its training loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the runtime, from the bottom to the top.
const RUNTIME: [&str; 28] = [
    "zip",
    "quote",
    "http",
    "table",
    "failure",
    "control",
    "random",
    "peers",
    "machine",
    "program",
    "tokenizer",
    "mapped",
    "model",
    "formats",
    "data",
    "reward",
    "environment",
    "rollout",
    "report",
    "store",
    "remote",
    "prepare",
    "evaluate",
    "train",
    "predict",
    "schedule",
    "serve",
    "bench",
];

/// The modules of `runtime/src/train`, from the bottom to the top. The header of its `mod.rs` says what they
/// are.
const TRAIN: [&str; 39] = [
    "learner_turn",
    "route",
    "stage",
    "master",
    "elements",
    "trained",
    "peft",
    "optimizer",
    "objective",
    "sequences",
    "completions",
    "views",
    "packing",
    "tensor_graph",
    "vocabulary",
    "other_tokenizer",
    "models",
    "exchange",
    "student",
    "privacy",
    "mini_batches",
    "batches",
    "rollouts",
    "scoring",
    "agreement",
    "alignment",
    "non_finite",
    "part",
    "diagnostics",
    "tokens",
    "guards",
    "monitor",
    "progress",
    "validation",
    "extrapolate",
    "trainer",
    "learners",
    "checkpoints",
    "steps",
];

/// The modules of `runtime/src/train/scoring`, from the bottom to the top.
const SCORING: [&str; 14] = [
    "data_signals",
    "panels",
    "text_spans",
    "recorded_text",
    "cached_scores",
    "context",
    "runs",
    "pass",
    "spans",
    "remote_scores",
    "logits",
    "compose",
    "score",
    "backward",
];

type Imports = BTreeMap<String, BTreeSet<String>>;

/// The folders of all crates of the workspace, with their names.
fn crates() -> Vec<(String, PathBuf)> {
    fn visit(folder: &Path, depth: usize, found: &mut Vec<(String, PathBuf)>) {
        if let Ok(text) = fs::read_to_string(folder.join("Cargo.toml"))
            && let Some(name) = text.lines().find_map(|line| line.strip_prefix("name = \""))
            && folder.join("src").exists()
        {
            found.push((name.trim_end_matches('"').to_owned(), folder.to_owned()));
        }
        for entry in fs::read_dir(folder).expect("a folder of the sources").flatten() {
            let name = entry.file_name();
            let skipped = ["target", "src", "tests", "node_modules"].iter().any(|skipped| name == *skipped)
                || name.to_string_lossy().starts_with('.');
            if depth < 2 && !skipped && entry.path().is_dir() {
                visit(&entry.path(), depth + 1, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(&mopd_tests::root(), 0, &mut found);
    found
}

/// A source file without tests and comments, and its path of modules, from the crate's root.
struct ModuleText {
    module: Vec<String>,
    text: String,
}

/// The files of a module, which is a folder or a file.
fn sources(path: &Path, module: &[&str]) -> Vec<ModuleText> {
    let Some(name) = path.file_stem().map(|name| name.to_string_lossy().into_owned()) else {
        return Vec::new();
    };
    if name == "tests" {
        return Vec::new();
    }
    let inner: Vec<&str> = module.iter().copied().chain((name != "mod").then_some(name.as_str())).collect();
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder").flatten();
        return entries.flat_map(|entry| sources(&entry.path(), &inner)).collect();
    }
    if path.extension().is_none_or(|ending| ending != "rs") {
        return Vec::new();
    }
    let source = fs::read_to_string(path).expect("a source file");
    // Test modules without a file of their own are at the end of the file.
    let inline = ["mod tests {", "pub mod tests {"].map(|tests| format!("#[cfg(test)]\n{tests}"));
    let end = inline.iter().filter_map(|tests| source.find(tests)).min().unwrap_or(source.len());
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
    let text = source[..end].lines().map(without_comment).collect();
    vec![ModuleText { module: inner.into_iter().map(str::to_owned).collect(), text }]
}

/// The paths in a source that begin with `crate`, `super` or `self`, from the crate's root: those of `use`,
/// also in groups, and those of expressions and types.
fn paths(module: &[String], text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let word = |character: char| character.is_alphanumeric() || character == '_';
    for start in ["crate", "super", "self"] {
        for (place, _) in text.match_indices(&format!("{start}::")) {
            // Not the rest of a longer path, such as the second of `super::super::`.
            if text[..place].ends_with(word) || text[..place].trim_end().ends_with("::") {
                continue;
            }
            let mut tree = text[place..].trim_start_matches(start);
            let base = match start {
                "crate" => Vec::new(),
                "self" => module.to_vec(),
                _ => module[..module.len().saturating_sub(1)].to_vec(),
            };
            branches(&mut tree, base, &mut found);
        }
    }
    found
}

/// Adds the paths of a tree such as `::a::{b, c::{d, e}}` to `found`; `tree` is left at the text after it.
fn branches(tree: &mut &str, mut path: Vec<String>, found: &mut Vec<Vec<String>>) {
    while let Some(rest) = tree.trim_start().strip_prefix("::") {
        let rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            *tree = group.trim_start();
            while !tree.is_empty() && !tree.starts_with('}') {
                let end = tree.find(|character: char| !(character.is_alphanumeric() || character == '_'));
                let (name, rest) = tree.split_at(end.unwrap_or(tree.len()));
                *tree = rest;
                let own =
                    if name == "self" { path.clone() } else { [&path[..], &[name.to_owned()]].concat() };
                branches(tree, own, found);
                // A new name (`as`) and the comma.
                let next = tree.find([',', '}']).unwrap_or(tree.len());
                *tree = tree[next..].trim_start_matches(',').trim_start();
            }
            *tree = tree.strip_prefix('}').unwrap_or(tree);
            return;
        }
        let end = rest.find(|character: char| !(character.is_alphanumeric() || character == '_'));
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        *tree = rest;
        match name {
            "super" => drop(path.pop()),
            name => path.push(name.to_owned()),
        }
    }
    found.push(path);
}

/// What the modules directly inside a module import of each other. `folder` is the folder of `module`; an
/// import of one of its own items has the name of the item.
fn imports_inside(folder: &Path, module: &[&str]) -> Imports {
    let mut imports = Imports::new();
    let own = fs::read_to_string(folder.join(if module.is_empty() { "lib.rs" } else { "mod.rs" }));
    let own = own.unwrap_or_default();
    for entry in fs::read_dir(folder).expect("the folder of a module").flatten() {
        let child = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        let for_tests = child == "tests" || own.contains(&format!("#[cfg(test)]\nmod {child};"));
        if for_tests || ["lib", "main", "bin", "mod"].contains(&child.as_str()) {
            continue;
        }
        let of_child = imports.entry(child.clone()).or_default();
        for ModuleText { module: of_file, text } in sources(&entry.path(), module) {
            let inside = paths(&of_file, &text).into_iter().filter_map(|path| {
                path.iter()
                    .zip(module)
                    .all(|(name, of)| name == of)
                    .then(|| path.get(module.len()).cloned())?
            });
            of_child.extend(inside.filter(|name| *name != child));
        }
    }
    imports
}

/// What the top-level modules of a crate import of each other.
fn imports(folder: &Path) -> Imports {
    let mut imports = imports_inside(&folder.join("src"), &[]);
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    // Macros and constants of the root are below all modules.
    imports.values_mut().for_each(|of| of.retain(|name| modules.contains(name)));
    imports
}

/// Checks that each module imports only modules before it, and that the list has all modules.
fn check_layers(imports: &Imports, layers: &[&str]) {
    let known: BTreeSet<&str> = layers.iter().copied().collect();
    assert_eq!(imports.keys().map(String::as_str).collect::<BTreeSet<&str>>(), known);
    for (place, module) in layers.iter().enumerate() {
        for imported in &imports[*module] {
            let before = layers[..place].contains(&imported.as_str());
            assert!(before, "`{module}` imports `{imported}`, which is not a module before it in the list");
        }
    }
}

/// All modules that a module imports, directly or through others.
fn reached<'a>(imports: &'a Imports, module: &str) -> BTreeSet<&'a str> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let mut next: Vec<&'a str> = imports[module].iter().map(String::as_str).collect();
    while let Some(module) = next.pop() {
        if found.insert(module) {
            next.extend(imports[module].iter().map(String::as_str));
        }
    }
    found
}

#[test]
fn modules_of_a_crate_have_no_import_cycle() {
    let crates = crates();
    for name in [
        "mopd",
        "mopd-lang",
        "mopd-expr",
        "mopd-plan",
        "mopd-compiler",
        "mopd-kernels",
        "mopd-store",
        "mopd-runtime",
    ] {
        assert!(crates.iter().any(|(found, _)| found == name), "{name} was not found");
    }
    for (name, folder) in crates {
        let imports = imports(&folder);
        let in_loops: Vec<&str> = imports
            .keys()
            .filter(|module| reached(&imports, module).contains(module.as_str()))
            .map(String::as_str)
            .collect();
        assert!(in_loops.is_empty(), "{name}: {in_loops:?} of {imports:#?}");
    }
}

#[test]
fn runtime_modules_import_only_lower_layers() {
    let imports = imports(&mopd_tests::root().join("runtime"));
    check_layers(&imports, &RUNTIME);
    // Checks that names are found at all.
    assert!(imports["schedule"].contains("train") && imports["train"].contains("model"));
}

#[test]
fn training_modules_import_only_lower_layers() {
    let train = mopd_tests::root().join("runtime/src/train");
    let imports = imports_inside(&train, &["train"]);
    check_layers(&imports, &TRAIN);
    assert!(imports["batches"].contains("views") && imports["part"].contains("scoring"));
    let imports = imports_inside(&train.join("scoring"), &["train", "scoring"]);
    check_layers(&imports, &SCORING);
    assert!(imports["score"].contains("pass"));
}

#[test]
fn imports_are_found_in_groups_and_through_super() {
    let module = ["train", "batches", "words"].map(str::to_owned);
    let text = "use super::{Batch, sample::{self, judge as decide}};\n\
        use super::super::views::*;\n\
        use crate::{data::{Lists, mixture::Draw}, train::stage::Stage};\n\
        pub(in crate::train) fn one() -> super::super::Two { self::three() + crate::zip::zip_equal(a, b) }\n\
        let my_super = outer_crate::four;\n";
    let mut found: Vec<String> = paths(&module, text).into_iter().map(|path| path.join("::")).collect();
    found.sort();
    let expected = [
        "data::Lists",
        "data::mixture::Draw",
        "train",
        "train::Two",
        "train::batches::Batch",
        "train::batches::sample",
        "train::batches::sample::judge",
        "train::batches::words::three",
        "train::stage::Stage",
        "train::views::",
        "zip::zip_equal",
    ];
    assert_eq!(found, expected);
}
