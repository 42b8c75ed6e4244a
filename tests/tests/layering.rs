//! The layers inside crates: the top-level modules of a crate import each other without a loop, and each
//! module of the runtime imports only modules before it in the list.

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

/// The sources of a crate without tests, by module.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    fn visit(path: &Path, text: &mut String) {
        if path.file_stem().is_some_and(|name| name == "tests") {
            return;
        }
        if path.is_dir() {
            fs::read_dir(path).expect("a folder").flatten().for_each(|entry| visit(&entry.path(), text));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let source = fs::read_to_string(path).expect("a source file");
            // Test modules without a file of their own are at the end of the file.
            let inline = ["mod tests {", "pub mod tests {"].map(|tests| format!("#[cfg(test)]\n{tests}"));
            let end = inline.iter().filter_map(|tests| source.find(tests)).min().unwrap_or(source.len());
            let source = &source[..end];
            for line in source.lines() {
                text.push_str(line.split("//").next().unwrap_or_default());
                text.push('\n');
            }
        }
    }
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    let lib = fs::read_to_string(folder.join("src/lib.rs")).unwrap_or_default();
    for entry in fs::read_dir(folder.join("src")).expect("a crate has sources").flatten() {
        let module = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        let for_tests = lib.contains(&format!("#[cfg(test)]\nmod {module};"));
        if !["lib", "main", "bin"].contains(&module.as_str()) && !for_tests {
            visit(&entry.path(), modules.entry(module).or_default());
        }
    }
    modules
}

/// The names after each `crate::`, whether one or a group.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let word = |character: char| !(character.is_alphanumeric() || character == '_');
    text.split("crate::").skip(1).flat_map(move |rest| {
        let group = rest.strip_prefix('{').and_then(|group| group.split_once("};"));
        let names = match group {
            Some((group, _)) => group,
            None => rest.split(word).next().unwrap_or_default(),
        };
        names.split(word)
    })
}

fn imports(folder: &Path) -> Imports {
    let modules = sources(folder);
    let of = |module: &String, text: &String| {
        let imported = named(text).filter(|name| *name != module && modules.contains_key(*name));
        (module.clone(), imported.map(str::to_owned).collect())
    };
    modules.iter().map(|(module, text)| of(module, text)).collect()
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
    let known: BTreeSet<&str> = RUNTIME.into();
    assert_eq!(imports.keys().map(String::as_str).collect::<BTreeSet<&str>>(), known);
    for (place, module) in RUNTIME.iter().enumerate() {
        for imported in &imports[*module] {
            let before = RUNTIME[..place].contains(&imported.as_str());
            assert!(before, "`{module}` imports `{imported}`, which stands above it");
        }
    }
    // Checks that names are found at all.
    assert!(imports["schedule"].contains("train") && imports["train"].contains("model"));
}
