//! The Python module `mopd`: its own tests, the page that shows it, and its wheel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mopd_tests::root;
use tempfile::TempDir;

/// Python with the module of the checkout, and with stubs of packages that may not be installed.
fn python(folder: &Path) -> Command {
    let of = |path: &str| root().join("tools/python").join(path).display().to_string();
    let mut python = Command::new("python3");
    python.current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    python.env("PYTHONPATH", format!("{}:{}", root().join("tools/python").display(), of("tests/stubs")));
    python.env("MOPD_BIN", program());
    python
}

fn program() -> PathBuf {
    std::path::absolute(mopd_tests::mopd()).expect("the program has a path")
}

/// Asserts success and returns the standard error.
#[track_caller]
fn good(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    said
}

#[test]
fn python_module_passes_its_own_tests() {
    let mut python = python(&root().join("tools/python/tests"));
    let said = good(python.args(["-W", "error", "-m", "unittest", "-v"]).output().expect("python3 starts"));
    assert!(said.contains("\nOK\n") && !said.contains("skipped"), "{said}");
}

/// The page's blocks, one after the other, with real runs.
#[test]
fn python_page_of_the_book_runs() {
    let page = fs::read_to_string(root().join("book/src/python.md")).expect("the page");
    let blocks: Vec<&str> = page
        .split("\n```python\n")
        .skip(1)
        .map(|rest| rest.split("\n```\n").next().expect("a fence ends"))
        .collect();
    assert!(blocks.len() >= 6, "{} blocks", blocks.len());
    let place = TempDir::new().expect("a folder");
    fs::write(place.path().join("page.py"), blocks.join("\n")).expect("a file");
    let output = python(place.path()).arg("page.py").output().expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    good(output);
    for part in ["-:7:", "here it is called `lr`", "\nlr\n", "sorting: pass@1", "| start | ", "gone.jsonl"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

/// Every cell was executed, in order, and none failed.
#[test]
fn the_notebook_is_kept_with_its_outputs() {
    let text = fs::read_to_string(root().join("examples/quickstart.ipynb")).expect("the notebook");
    let notebook: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let cells = notebook["cells"].as_array().expect("cells");
    let code: Vec<_> = cells.iter().filter(|cell| cell["cell_type"] == "code").collect();
    assert!(code.len() >= 6, "{} cells", code.len());
    for (cell, number) in code.iter().zip(1..) {
        assert_eq!(cell["execution_count"], number, "{}", cell["source"]);
        let outputs = cell["outputs"].as_array().expect("outputs");
        assert!(outputs.iter().all(|output| output["output_type"] != "error"), "{}", cell["source"]);
    }
    assert!(text.contains("kept: "), "the last cell says what the store kept");
}

/// The wheel's platform tag must match the symbol versions of glibc and libstdc++ that the programs need.
#[test]
fn the_wheel_is_for_systems_that_have_what_the_programs_ask_for() {
    let script = "import sys
sys.path.insert(0, sys.argv[1])
import package
def system(*versions):
    program = b'\\0'.join([b'', *(version.encode() for version in versions), b''])
    return package.tag({'mopd': program, 'mopd-worker': b''}).split('_')[2]
asked = ['GLIBC_2.2.5', 'GLIBC_2.27', 'GLIBCXX_3.4.21', 'CXXABI_1.3.9']
more = [[], ['GLIBC_2.29'], ['GLIBCXX_3.4.26'], ['CXXABI_1.3.13']]
print(*(system(*asked, *one) for one in more))";
    let setup = root().join("tools/setup");
    let output =
        Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", script]).arg(setup).output();
    let output = output.expect("python3 starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "28 31 31 34\n", "{output:?}");
}

/// The wheel is packed with stubs of the programs, which take long to build, and installed without a network
/// in an environment of its own: the module calls the program of its own package.
#[test]
fn the_wheel_brings_the_module() {
    let place = TempDir::new().expect("a folder");
    let run = |command: &mut Command| good(command.current_dir(place.path()).output().expect("it starts"));
    let pack = format!(
        "import pathlib, sys\nsys.path.insert(0, {:?})\nimport package\n\
         script = b'#!/bin/sh\\nexec {} \"$@\"\\n'\n\
         print(package.write(pathlib.Path('wheels'), dict.fromkeys(package.PROGRAMS, script)))",
        root().join("tools/setup").display().to_string(),
        program().display(),
    );
    run(Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", &pack]));
    run(Command::new("python3").args(["-m", "venv", "--without-pip", "env"]));
    let wheels = fs::read_dir(place.path().join("wheels")).expect("a folder");
    let wheels: Vec<PathBuf> = wheels.map(|entry| entry.expect("an entry").path()).collect();
    let [wheel] = wheels.as_slice() else { panic!("{wheels:?}") };
    run(Command::new("python3")
        .args(["-m", "pip", "--python", "env/bin/python3", "install", "--quiet", "--no-index", "--no-deps"])
        .arg(wheel));

    let installed = place.path().join("env/bin/mopd");
    let mode = fs::metadata(&installed).expect("the program").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "{mode:o}");
    let script = "import mopd, os, pathlib
assert os.path.samefile(mopd.program(), 'env/bin/mopd'), mopd.program()
assert (pathlib.Path(mopd.__file__).parent / 'py.typed').is_file()
[found] = mopd.check('let a = b\\n')
assert found.code == 'unknown-name', found";
    run(Command::new("env/bin/python3").env_remove("MOPD_BIN").env_remove("PYTHONPATH").args(["-c", script]));
}
