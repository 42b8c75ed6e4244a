//! The borders between crates, kept by a tool: what each may not depend on, directly or through others.

use std::process::Command;

/// The names of every package that `package` is built with.
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
fn nothing_below_the_runtime_knows_torch_and_the_language_knows_no_machine() {
    let never = [
        (
            "mopd-ops",
            &["tch", "torch-sys", "cranelift", "polars", "mopd-lang", "mopd-compiler", "mopd-runtime"][..],
        ),
        (
            "mopd-lang",
            &["tch", "torch-sys", "cranelift", "polars", "miette", "lsp", "mopd-compiler", "mopd-runtime"],
        ),
        ("mopd-compiler", &["tch", "torch-sys", "polars", "miette", "lsp", "mopd-runtime"]),
        (
            "mopd-store",
            &["tch", "torch-sys", "polars", "miette", "mopd-lang", "mopd-compiler", "mopd-runtime"],
        ),
        ("mopd", &["tch", "torch-sys", "polars", "mopd-runtime"]),
        ("mopd-runtime", &["miette", "clap", "mopd-std"]),
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
