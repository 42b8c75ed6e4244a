//! The layers inside crates: the top-level modules of a crate import each other without a loop. Each module
//! of the checker, of the runtime and of its training loop imports only modules before it in the list.
//!
//! Sources are read as tokens, as a compiler reads them: comments and texts are not code, and code that is
//! compiled for tests alone is left out. Every path that begins with `crate`, `super` or `self` counts, in a
//! `use`, an expression, a type or a macro. A name that the parent exports for one of its modules counts as
//! an import of that module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The modules of the runtime, from the bottom to the top.
const RUNTIME: [&str; 25] = [
    "http",
    "table",
    "failure",
    "control",
    "random",
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

/// The modules of `lang/src/check`, from the bottom to the top. The header of its `mod.rs` says what they
/// are.
const CHECK: [&str; 22] = [
    "reporter",
    "builtins",
    "names",
    "values",
    "declarations",
    "checker",
    "suggestions",
    "read",
    "roles",
    "data",
    "formulas",
    "teachers",
    "rollouts",
    "objectives",
    "stages",
    "evaluation",
    "evaluate",
    "unused",
    "index",
    "analysis",
    "fixes",
    "runs",
];

/// The largest number of files of the checker that import each other in a circle: what has to be read at
/// once.
const LARGEST_CIRCLE: usize = 6;

/// The modules of `runtime/src/train`, from the bottom to the top. The header of its `mod.rs` says what they
/// are.
const TRAIN: [&str; 35] = [
    "learner_turn",
    "route",
    "stage",
    "master",
    "elements",
    "trained",
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
    "student",
    "rollouts",
    "privacy",
    "mini_batches",
    "batches",
    "scoring",
    "agreement",
    "non_finite",
    "sampler_gap",
    "part",
    "diagnostics",
    "tokens",
    "progress",
    "hooks",
    "trainer",
    "engine_steps",
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
            && ["src/lib.rs", "src/main.rs"].iter().any(|root| folder.join(root).exists())
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

/// The tokens of a module, without code for tests, and its path from the crate's root.
struct ModuleTokens {
    module: Vec<String>,
    tokens: Vec<TokenTree>,
}

fn tokens(text: &str) -> Vec<TokenTree> {
    without_tests(text.parse().expect("Rust"))
}

/// Leaves out what is marked `#[cfg(test)]`: up to its semicolon, comma or braces.
fn without_tests(stream: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut all = stream.into_iter().peekable();
    while let Some(token) = all.next() {
        let for_tests = is(&token, '#') && all.peek().is_some_and(is_test_only);
        if for_tests {
            all.find(|token| [';', ','].iter().any(|end| is(token, *end)) || braces(token).is_some());
        } else {
            kept.push(token);
        }
    }
    kept
}

/// Whether the brackets of an attribute say `cfg(test)`, alone or in `all(...)`.
fn is_test_only(token: &TokenTree) -> bool {
    let TokenTree::Group(brackets) = token else { return false };
    let text: String = brackets.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

fn is(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

fn braces(token: &TokenTree) -> Option<TokenStream> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group.stream()),
        _ => None,
    }
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    if let Some(TokenTree::Ident(word)) = token { Some(word.to_string()) } else { None }
}

/// Whether `::` begins at `at`.
fn joins(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at..at + 2), Some([one, other]) if is(one, ':') && is(other, ':'))
}

/// Reads the file of a module, and those of the modules that it declares.
fn read(file: &Path, module: &[String], found: &mut Vec<ModuleTokens>) {
    let all = tokens(&fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    let folder = match file.file_stem().expect("a name").to_str() {
        Some("lib" | "main" | "mod") => file.parent().expect("a folder").to_owned(),
        _ => file.with_extension(""),
    };
    for at in 0..all.len() {
        let name = word(all.get(at)).filter(|word| word == "mod").and_then(|_| word(all.get(at + 1)));
        if let (Some(name), Some(TokenTree::Punct(_))) = (name, all.get(at + 2)) {
            let alone = folder.join(format!("{name}.rs"));
            let file = if alone.exists() { alone } else { folder.join(&name).join("mod.rs") };
            read(&file, &[module, &[name]].concat(), found);
        }
    }
    found.push(ModuleTokens { module: module.to_vec(), tokens: all });
}

/// A path from the crate's root, and the name that it has where it is imported.
struct PathUse {
    path: Vec<String>,
    name: String,
}

/// All paths that begin with `crate`, `super` or `self`; in a `use`, also those that begin with a module
/// of this one.
fn paths(module: &[String], tokens: &[TokenTree], found: &mut Vec<PathUse>) {
    let mut at = 0;
    while at < tokens.len() {
        let here = word(tokens.get(at)).unwrap_or_default();
        let continues = at >= 2 && joins(tokens, at - 2);
        let name = word(tokens.get(at + 1));
        let inline = tokens.get(at + 2).and_then(braces);
        match (here.as_str(), name, inline) {
            ("mod", Some(name), Some(inline)) => {
                paths(&[module, &[name]].concat(), &without_tests(inline), found);
                at += 3;
            }
            ("crate" | "super" | "self", ..) if !continues && joins(tokens, at + 1) => {
                let base: &[String] = match here.as_str() {
                    "crate" => &[],
                    "self" => module,
                    _ => &module[..module.len().saturating_sub(1)],
                };
                at += 1;
                branches(tokens, &mut at, base.to_vec(), found);
            }
            ("use", Some(name), _) if !["crate", "super", "self"].contains(&name.as_str()) => {
                at += 2;
                branches(tokens, &mut at, [module, &[name]].concat(), found);
            }
            _ => {
                if let TokenTree::Group(group) = &tokens[at] {
                    paths(module, &without_tests(group.stream()), found);
                }
                at += 1;
            }
        }
    }
}

/// Adds the paths of a tree such as `::a::{b, c::{d, e}}` to `found`; `at` is left after it.
fn branches(tokens: &[TokenTree], at: &mut usize, mut path: Vec<String>, found: &mut Vec<PathUse>) {
    while joins(tokens, *at) {
        let next = tokens.get(*at + 2);
        if let Some(group) = next.and_then(braces) {
            *at += 3;
            let group: Vec<TokenTree> = group.into_iter().collect();
            for branch in group.split(|token| is(token, ',')).filter(|branch| !branch.is_empty()) {
                let name = word(branch.first()).unwrap_or_else(|| "*".to_owned());
                let own = if name == "self" { path.clone() } else { [&path[..], &[name]].concat() };
                branches(branch, &mut 1, own, found);
            }
            return;
        }
        match word(next).as_deref() {
            Some("super") => drop(path.pop()),
            Some(name) => path.push(name.to_owned()),
            None if next.is_some_and(|next| is(next, '*')) => path.push("*".to_owned()),
            // Generic arguments.
            None => break,
        }
        *at += 3;
    }
    let renamed = word(tokens.get(*at)).filter(|word| word == "as").and_then(|_| word(tokens.get(*at + 1)));
    let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
    found.push(PathUse { path, name });
}

/// The modules of a crate.
fn modules(folder: &Path) -> Vec<ModuleTokens> {
    let library = folder.join("src/lib.rs");
    let root = if library.exists() { library } else { folder.join("src/main.rs") };
    let mut found = Vec::new();
    read(&root, &[], &mut found);
    found
}

/// What the modules directly inside `module` import of each other.
fn imports_inside(modules: &[ModuleTokens], module: &[&str]) -> Imports {
    let depth = module.len();
    let is_own =
        |path: &[String]| path.len() >= depth && path.iter().zip(module).all(|(name, of)| name == of);
    let all = |of: &ModuleTokens| {
        let mut found = Vec::new();
        paths(&of.module, &of.tokens, &mut found);
        found.retain(|found| is_own(&found.path));
        found
    };
    let inside: Vec<&ModuleTokens> = modules.iter().filter(|of| is_own(&of.module)).collect();
    let children: BTreeSet<&String> = inside.iter().filter_map(|of| of.module.get(depth)).collect();
    let own = inside.iter().find(|of| of.module.len() == depth).expect("the module's own file");
    // The names that the module has from others; `None` from outside of it.
    let exported: BTreeMap<String, Option<String>> = all(own)
        .into_iter()
        .map(|PathUse { path, name }| (name, path.get(depth).filter(|of| children.contains(of)).cloned()))
        .collect();
    let mut imports: Imports = children.iter().map(|child| ((*child).clone(), BTreeSet::new())).collect();
    for of in &inside {
        let Some(child) = of.module.get(depth) else { continue };
        for PathUse { path, .. } in all(of) {
            let Some(name) = path.get(depth) else { continue };
            let imported = match exported.get(name) {
                _ if children.contains(&name) => Some(name.clone()),
                Some(from) => from.clone(),
                None => panic!(
                    "`{}` imports `{}`, which is defined where all modules are declared: give it a module",
                    of.module.join("::"),
                    path.join("::")
                ),
            };
            let of_child = imports.get_mut(child).expect("it is one of the children");
            of_child.extend(imported.filter(|imported| imported != child));
        }
    }
    imports
}

/// The modules that import themselves through others.
fn in_loops(imports: &Imports) -> Vec<&str> {
    let looped = imports.keys().filter(|module| reached(imports, module).contains(module.as_str()));
    looped.map(String::as_str).collect()
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
        let imports = imports_inside(&modules(&folder), &[]);
        let in_loops = in_loops(&imports);
        assert!(in_loops.is_empty(), "{name}: {in_loops:?} of {imports:#?}");
    }
}

#[test]
fn modules_of_the_checker_import_only_lower_layers() {
    let imports = imports_inside(&modules(&mopd_tests::root().join("lang")), &["check"]);
    check_layers(&imports, &CHECK);
    assert!(imports["evaluate"].contains("stages") && imports["stages"].contains("read"));
}

/// What each file imports of the others.
fn imports_of_files(modules: &[ModuleTokens]) -> Imports {
    let known: BTreeSet<String> = modules.iter().map(|of| of.module.join("::")).collect();
    let mut imports = Imports::new();
    for of in modules {
        let mut found = Vec::new();
        paths(&of.module, &of.tokens, &mut found);
        let own = of.module.join("::");
        let file = |path: &[String]| {
            let mut prefixes = (1..=path.len()).rev().map(|length| path[..length].join("::"));
            prefixes.find(|prefix| known.contains(prefix))
        };
        let imported = found.iter().filter_map(|found| file(&found.path)).filter(|file| *file != own);
        imports.insert(own.clone(), imported.collect());
    }
    imports
}

#[test]
fn few_files_of_the_checker_import_each_other_in_a_circle() {
    let mut modules = modules(&mopd_tests::root().join("lang"));
    // The module itself and the table of what is built in list others: they are read last or first.
    let lists = |of: &ModuleTokens| ["check", "check::builtins"].contains(&of.module.join("::").as_str());
    modules.retain(|of| of.module.first().is_some_and(|first| first == "check") && !lists(of));
    let imports = imports_of_files(&modules);
    assert!(imports.len() > 100 && imports["check::stages::recipes"].contains("check::stages::training"));
    for file in imports.keys() {
        let reached_by = reached(&imports, file);
        let circle: Vec<&&str> =
            reached_by.iter().filter(|other| reached(&imports, other).contains(file.as_str())).collect();
        assert!(circle.len() <= LARGEST_CIRCLE, "{circle:#?}");
    }
}

#[test]
fn runtime_modules_import_only_lower_layers() {
    let imports = imports_inside(&modules(&mopd_tests::root().join("runtime")), &[]);
    check_layers(&imports, &RUNTIME);
    // Checks that names are found at all.
    assert!(imports["schedule"].contains("train") && imports["train"].contains("model"));
}

#[test]
fn training_modules_import_only_lower_layers() {
    let modules = modules(&mopd_tests::root().join("runtime"));
    let imports = imports_inside(&modules, &["train"]);
    check_layers(&imports, &TRAIN);
    assert!(imports["batches"].contains("views") && imports["part"].contains("scoring"));
    let imports = imports_inside(&modules, &["train", "scoring"]);
    check_layers(&imports, &SCORING);
    assert!(imports["score"].contains("pass"));
}

#[test]
fn paths_are_found_wherever_they_are_written() {
    let module = ["train", "batches", "words"].map(str::to_owned);
    let text = r#"
        use super::{Batch, sample::{self, judge as decide}};
        use super::super::views::*;
        use crate::{data::{Lists, mixture::Draw}, train::stage::Stage};
        pub(in crate::train) fn one() -> super::super::Two { self::three() + crate::zip::equal::<u8>(a, b) }
        macro_rules! four { () => { vec![$crate::four::FOUR, crate::five::<crate::six::Six>()] } }
        mod inline { use super::super::Seven; }
        /* crate::comment::a */ // crate::comment::b
        const TEXT: &str = "crate::text::a";
        #[cfg(test)]
        use crate::tests::a;
        #[cfg(test)]
        mod tests { use crate::tests::b; }
        let my_super = outer_crate::eight;
    "#;
    let mut found = Vec::new();
    paths(&module, &tokens(text), &mut found);
    let mut found: Vec<String> = found.into_iter().map(|found| found.path.join("::")).collect();
    found.sort();
    let expected = [
        "data::Lists",
        "data::mixture::Draw",
        "five",
        "four::FOUR",
        "six::Six",
        "train",
        "train::Two",
        "train::batches::Batch",
        "train::batches::Seven",
        "train::batches::sample",
        "train::batches::sample::judge",
        "train::batches::words::three",
        "train::stage::Stage",
        "train::views::*",
        "zip::equal",
    ];
    assert_eq!(found, expected);
}

/// The imports of a crate of three modules, `low`, `middle` and `high`, given the source of `low`.
fn imports_with(low: &str) -> Imports {
    let source = |module: &[&str], text: &str| ModuleTokens {
        module: module.iter().map(|name| (*name).to_owned()).collect(),
        tokens: tokens(text),
    };
    let modules = [
        source(
            &[],
            "mod low; mod middle; mod high; pub use high::{Top, inner as renamed}; use other::Thing;",
        ),
        source(&["middle"], "use crate::low::Low;"),
        source(&["high"], "pub mod inner; use crate::middle::Middle;"),
        source(&["high", "inner"], "use super::super::low::Low;"),
        source(&["low"], low),
    ];
    imports_inside(&modules, &[])
}

#[test]
fn an_import_loop_is_found_however_it_is_written() {
    for low in [
        "use crate::high::Top;",
        "use crate::{middle::{self}};",
        "fn f() { crate::high::f() }",
        "fn f(_: super::high::Top) {}",
        "use super::{Top};",
        "use crate::Top as Other;",
        "use crate::renamed::f;",
        "mod deep { fn f() { super::super::high::f() } }",
        "fn f() { println!(\"{}\", crate::high::f()) }",
    ] {
        assert!(in_loops(&imports_with(low)).contains(&"low"), "{low}");
    }
    for low in [
        "",
        "use crate::Thing; use std::high;",
        "use super::low::Low;",
        "// use crate::high::Top;",
        "#[cfg(test)] mod tests { use crate::high::Top; }",
        "mod deep { use super::Low; use self::high::A; }",
    ] {
        assert_eq!(in_loops(&imports_with(low)), Vec::<&str>::new(), "{low}");
    }
}

#[test]
#[should_panic(expected = "`low` imports `Unknown`")]
fn an_item_of_the_root_needs_a_module() {
    imports_with("use crate::Unknown;");
}
