//! Checks what each crate may not depend on, directly or through others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The names of all packages that `package` is built with.
fn dependencies(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ])
        .current_dir(mopd_tests::root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn crates_do_not_depend_on_forbidden_packages() {
    let never = [
        (
            "mopd-ops",
            &[
                "tch",
                "torch-sys",
                "cranelift",
                "parquet",
                "mopd-lang",
                "mopd-expr",
                "mopd-plan",
                "mopd-runtime",
            ][..],
        ),
        (
            "mopd-experiment",
            &[
                "tch",
                "torch-sys",
                "cranelift",
                "pest",
                "parquet",
                "mopd-lang",
                "mopd-expr",
                "mopd-plan",
                "mopd-runtime",
            ],
        ),
        (
            "mopd-lang",
            &[
                "tch",
                "torch-sys",
                "cranelift",
                "parquet",
                "miette",
                "lsp",
                "mopd-expr",
                "mopd-plan",
                "mopd-runtime",
            ],
        ),
        ("mopd-expr", &["tch", "torch-sys", "pest", "parquet", "miette", "lsp", "mopd-lang", "mopd-plan"]),
        ("mopd-plan", &["tch", "torch-sys", "pest", "parquet", "miette", "lsp", "mopd-lang", "mopd-runtime"]),
        ("mopd-compiler", &["tch", "torch-sys", "parquet", "miette", "lsp", "mopd-runtime"]),
        (
            "mopd-store",
            &["tch", "torch-sys", "parquet", "miette", "mopd-lang", "mopd-expr", "mopd-plan", "mopd-runtime"],
        ),
        ("mopd-kernels", &["tch", "torch-sys", "mopd-lang", "mopd-expr", "mopd-store", "mopd-runtime"]),
        (
            "mopd-data",
            &[
                "tch",
                "torch-sys",
                "pest",
                "miette",
                "mopd-lang",
                "mopd-kernels",
                "mopd-compiler",
                "mopd-runtime",
            ],
        ),
        ("mopd", &["tch", "torch-sys", "mopd-runtime", "mopd-kernels"]),
        ("mopd-runtime", &["miette", "clap", "pest", "mopd-lang", "mopd-std", "mopd-compiler"]),
    ];
    for (package, forbidden) in never {
        let tree = dependencies(package);
        assert!(tree.starts_with(package), "{tree}");
        for name in forbidden {
            let found = tree.lines().find(|line| line.starts_with(name));
            assert_eq!(found, None, "{package} must not depend on {name}");
        }
    }
}

/// Every Rust file of the repository, each once: packages lie in the folders of others.
fn sources() -> BTreeSet<PathBuf> {
    let root = mopd_tests::root();
    packages()
        .iter()
        .flat_map(|(folder, _)| {
            let own = if *folder == root { folder.join("src") } else { folder.clone() };
            mopd_tests::files(&own, ".rs")
        })
        .collect()
}

/// The folders of the workspace's packages, and the files that their programs and libraries begin with.
fn packages() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(mopd_tests::root())
        .output()
        .expect("cargo starts");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let path = |value: &serde_json::Value| PathBuf::from(value.as_str().expect("a path"));
    let packages = all["packages"].as_array().expect("packages").iter().map(|package| {
        let folder = path(&package["manifest_path"]).parent().expect("a folder").to_owned();
        let roots = package["targets"].as_array().expect("targets").iter();
        let roots = roots.filter(|target| target["kind"][0] == "lib" || target["kind"][0] == "bin");
        (folder, roots.map(|target| path(&target["src_path"])).collect())
    });
    packages.collect()
}

/// `unsafe` is in the CPU engine, and where expressions call their machine code; all other crates forbid it.
#[test]
fn only_two_crates_have_unsafe_code() {
    const WORD: &str = concat!("un", "safe");
    let root = mopd_tests::root();
    let kernels = root.join("runtime/kernels");
    let machine_code = root.join("compiler/expr/src/jit");
    let mut seen = 0;
    for (folder, roots) in packages() {
        let free = folder != kernels && folder != root.join("compiler/expr");
        for file in roots {
            let text = fs::read_to_string(&file).expect("a target's first file");
            let forbids = text.contains(&format!("#![forbid({WORD}_code)]"));
            assert_eq!(forbids, free, "{} and `#![forbid({WORD}_code)]`", file.display());
            seen += 1;
        }
    }
    assert!(seen >= 9, "{seen} programs and libraries");
    let files = sources();
    let within = |file: &Path| file.starts_with(&kernels) || file.starts_with(&machine_code);
    let uses = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("UTF-8");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).any(|word| word == WORD)
    };
    let (inside, outside): (Vec<_>, Vec<_>) =
        files.iter().filter(|file| uses(file)).partition(|file| within(file));
    assert!(!inside.is_empty());
    assert_eq!(outside, Vec::<&PathBuf>::new());
}

/// Loops of the CPU engine and kernels of a GPU require a token, which only the place of a run returns.
#[test]
fn tokens_of_processors_are_created_only_in_place_rs() {
    let files = mopd_tests::files(&mopd_tests::root().join("runtime/src"), ".rs");
    for token in ["Cpu::new(", "Gpu::new("] {
        let makes = |file: &&PathBuf| {
            let text = fs::read_to_string(file).expect("UTF-8");
            let mut places = text.match_indices(token).map(|(at, _)| &text[..at]);
            // `OnGpu::new(` is another type.
            places.any(|before| !before.ends_with(char::is_alphanumeric))
        };
        let made = files.iter().filter(makes);
        let made: Vec<_> = made.map(|file| file.file_name().expect("a name")).collect();
        assert_eq!(made, ["place.rs"], "{token}");
    }
}

/// Files are at most 500 lines long, except tests, which are specifications, and tables.
#[test]
fn source_files_have_at_most_500_lines() {
    const TABLES: [&str; 1] = ["lang/src/check/suggestions/foreign/settings.rs"];
    let root = mopd_tests::root();
    let mut long = Vec::new();
    for file in sources() {
        let name = file.strip_prefix(&root).expect("a file of the repository").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("UTF-8");
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
        let tests = name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs");
        if own > 500 && !tests && !TABLES.contains(&name.as_str()) {
            long.push((name, own));
        }
    }
    assert!(long.is_empty(), "{long:?}");
}

/// Comments have the width limit of code, except tables and commands, which can't be broken.
#[test]
fn comments_are_as_wide_as_code() {
    const WIDTH: usize = 110;
    let mut wide = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).expect("UTF-8");
        for (line, number) in text.lines().zip(1..) {
            let comment = line.trim_start().strip_prefix("//");
            let words = comment.map(|comment| comment.trim_start_matches(['/', '!']).trim_start());
            let breaks = words.is_some_and(|words| !words.starts_with('|') && !words.starts_with("MOPD_"));
            if breaks && line.chars().count() > WIDTH {
                wide.push(format!("{}:{number}", file.display()));
            }
        }
    }
    assert!(wide.is_empty(), "{wide:#?}");
}

/// The runs that `./x test` repeats by the rules of a GPU: a name that is no test would choose nothing.
#[test]
fn runs_by_operators_exist() {
    let root = mopd_tests::root();
    let list = fs::read_to_string(root.join("tests/operators.txt")).expect("the list");
    for name in list.lines() {
        let (module, test) = name.rsplit_once("::").expect("a module and a test");
        let file = root.join("tests/tests/runs").join(module.replace("::", "/"));
        let file = if file.is_dir() { file.join("mod.rs") } else { file.with_extension("rs") };
        let text = fs::read_to_string(&file).expect("a module of the runs");
        assert!(text.contains(&format!("#[test]\nfn {test}() {{")), "{name} is not in {}", file.display());
    }
    assert!(list.lines().count() >= 12, "{list}");
}

/// `./x test` runs no code of the documentation, since there is none: looking for some takes time.
#[test]
fn documentation_has_no_code_to_run() {
    for file in sources() {
        let text = fs::read_to_string(&file).expect("UTF-8");
        let comments = text.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
        });
        let fences = comments.filter_map(|line| line.trim_start().strip_prefix("```"));
        // Every other one closes a block.
        let mut opening = fences.step_by(2);
        let runs = |tag: &str| ["", "rust", "no_run", "should_panic", "compile_fail"].contains(&tag.trim());
        assert!(!opening.any(runs), "{}: name the language of the block, such as `text`", file.display());
    }
}
