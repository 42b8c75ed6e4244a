//! Tests that the published methods have their claimed effect on small models: the runs of `tests/mechanisms`
//! give a line for each method on what its run shows. The lines are in `tests/mechanisms/README.md`, from
//! which the book's table of methods takes them.

mod agents;
mod beyond;
mod confidence;
mod curricula;
mod divergences;
mod efforts;
mod estimators;
mod exposure;
mod feedback;
mod judges;
mod mixtures;
mod pairs;
mod panels;
mod pipelines;
mod preferences;
mod prefixes;
mod reference;
mod reverse;
mod rewards;
mod rewards_and_teachers;
mod rollouts;
mod run;
mod subspace;
mod tokenizers;
mod tokens;
mod tuning;
mod turns;
mod views;
mod writers;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use mopd_tests::{Generated, files, root};

use self::run::Run;

/// The result of a run for a method.
enum Figure {
    /// The effect that the paper claims, and whether the run has it: the test fails if it does not.
    Shown { holds: bool, line: String },
    /// The claimed effect did not happen at this scale; the line says what did.
    NotAtThisScale(String),
}

fn shown(holds: bool, line: impl Into<String>) -> Figure {
    Figure::Shown { holds, line: line.into() }
}

/// The figure of each method of `tests/methods` that is in a run.
type Figures = &'static [(&'static str, fn(&Run) -> Figure)];

/// Where all experiments run, one after the other: they share a store, so that the start and the specialists
/// are trained once. Nothing is left in it from an earlier run of the tests.
static FOLDER: LazyLock<Mutex<PathBuf>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mechanisms");
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("an earlier run's folder can be removed");
    }
    copied(&root().join("tests/mechanisms"), &folder);
    for data in ["quickstart", "lookup"] {
        copied(&root().join("examples").join(data), &folder.join(data));
    }
    for tokenizer in ["llama3", "qwen3"] {
        copied(&root().join("tests/reference/text").join(tokenizer), &folder.join(tokenizer));
    }
    Mutex::new(folder)
});

/// Runs an experiment of `tests/mechanisms`, and compares its section of the page with what it shows.
fn shows(experiment: &str, figures: Figures) {
    let folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(&*folder).args(["run", &format!("{experiment}.mopd"), "--out", experiment]);
    let output = command.stdin(Stdio::null()).output().expect("mopd starts");
    assert!(output.status.success(), "{experiment}: {}", String::from_utf8_lossy(&output.stderr));
    let run = Run::read(&folder.join(experiment));
    let (mut faults, mut table) = (String::new(), "| method | what its run shows |\n|---|---|".to_owned());
    for (method, figure) in figures {
        assert!(
            root().join(format!("tests/methods/{method}.mopd")).is_file(),
            "no method is called {method}"
        );
        let line = match figure(&run) {
            Figure::Shown { holds, line } => {
                if !holds {
                    let _ = writeln!(faults, "{method}: the run does not show it: {line}");
                }
                line
            }
            Figure::NotAtThisScale(line) => format!("not at this scale: {line}"),
        };
        let _ = write!(table, "\n| `{method}` | {line} |");
    }
    settled(experiment, &table, &mut faults);
    assert!(faults.is_empty(), "\n{faults}");
}

/// A line without its numbers, whose last digits differ between machines: lines are compared in this form.
fn words(line: &str) -> String {
    line.chars().filter(|letter| !letter.is_ascii_digit() && !".-".contains(*letter)).collect()
}

/// Compares the experiment's table on the page without its numbers. `MOPD_UPDATE=1` rewrites it.
fn settled(experiment: &str, table: &str, faults: &mut String) {
    let path = root().join("tests/mechanisms/README.md");
    let page = fs::read_to_string(&path).expect("the page");
    let begin = format!("<!-- run: {experiment} -->\n");
    let Some((before, rest)) = page.split_once(&begin) else {
        let _ = writeln!(faults, "{}: no section is called `{experiment}`", path.display());
        return;
    };
    let (_, after) = rest.split_once("<!-- end -->").expect("the section ends");
    let text = format!("{before}{begin}\n{table}\n\n<!-- end -->{after}");
    if std::env::var_os("MOPD_UPDATE").is_some() || words(&text) != words(&page) {
        let made = Generated { text, names: Vec::new(), faults: Vec::new() };
        for fault in mopd_tests::settle(&path, &page, &made) {
            let _ = writeln!(faults, "{fault}");
        }
    }
}

fn copied(from: &Path, to: &Path) {
    for path in files(from, "") {
        let place = to.join(path.strip_prefix(from).expect("it lies below"));
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        fs::copy(&path, place).expect("a test file");
    }
}
