//! What the compiler makes of every experiment of the repository, as files in `tests/goldens`: stages with
//! their settings, objectives in normal form, costs and keys, as `mopd plan` prints them, the hash of the
//! whole plan, and what the gradients follow, as `mopd audit` prints it. Results of users are stored by key,
//! so a key that changes here must have a reason.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mopd_ops::testing::Extent;

use super::Said;

const FOLDERS: [&str; 6] =
    ["examples", "tests/methods", "tests/mechanisms", "tests/rollouts", "tests/endurance", "tests/engines"];

fn mopd(root: &Path, arguments: &[&str]) -> Said {
    let mopd = std::path::absolute(mopd_tests::mopd()).expect("the program has a path");
    Said::of(Command::new(mopd).current_dir(root).args(arguments).output().expect("mopd starts"))
}

fn planned(root: &Path, program: &str) -> String {
    let plan = mopd(root, &["plan", "--predict=never", program]);
    let mut text = plan.out;
    if plan.status == Some(0) {
        let json = mopd(root, &["plan", "--format", "json", program]).is(0, &[]);
        // The order of the fields of an object has no meaning.
        let sorted: serde_json::Value = serde_json::from_str(&json.out).expect("a plan is JSON");
        let _ = writeln!(text, "plan: {}", blake3::hash(sorted.to_string().as_bytes()).to_hex());
    } else {
        let _ = writeln!(text, "status {:?}\n{}", plan.status, plan.err);
    }
    text
}

fn audited(root: &Path, program: &str) -> String {
    mopd(root, &["audit", program]).out
}

/// Compares what is made of programs, all or those of today, with their files.
fn compare(ending: &str, extent: Extent, made: fn(&Path, &str) -> String) {
    let root = mopd_tests::root();
    let programs: Vec<(String, PathBuf)> = FOLDERS
        .iter()
        .flat_map(|folder| mopd_tests::files(&root.join(folder), ".mopd"))
        .map(|path| {
            let program = path.strip_prefix(&root).expect("a program of the repository").to_path_buf();
            let golden = program.strip_prefix("tests").unwrap_or(&program).with_extension(ending);
            (program.display().to_string(), root.join("tests/goldens").join(golden))
        })
        .collect();
    assert!(programs.len() > 120, "only {} programs", programs.len());
    fs::create_dir_all(root.join("tests/goldens")).expect("the folder of goldens");
    let goldens = mopd_tests::files(&root.join("tests/goldens"), ending);
    let stray = goldens.into_iter().filter(|path| !programs.iter().any(|(_, golden)| golden == path));
    let mut faults: Vec<String> =
        stray.map(|path| format!("{}: there is no such program", path.display())).collect();
    let programs: Vec<(String, PathBuf)> = extent.cases(programs.into_iter()).collect();
    let texts = mopd_tests::in_parallel(&programs, |(program, _)| {
        let text = made(&root, program);
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>()
    });
    for ((program, golden), text) in programs.iter().zip(&texts) {
        let known = fs::read_to_string(golden).unwrap_or_default();
        if *text == known {
            continue;
        }
        if std::env::var_os("MOPD_UPDATE").is_some() {
            fs::create_dir_all(golden.parent().expect("a folder")).expect("a folder");
            fs::write(golden, text).expect("the golden is written");
            continue;
        }
        let differs = text.lines().zip(known.lines()).find(|(ours, theirs)| ours != theirs);
        faults.push(format!("{program}: {differs:?}"));
    }
    assert!(faults.is_empty(), "MOPD_UPDATE=1 writes what is meant:\n{}", faults.join("\n"));
}

#[test]
fn plans_and_keys_are_those_of_the_goldens() {
    if !mopd_expr::jit::fuses() {
        mopd_tests::skipped("this processor multiplies and adds in two steps, which plans say");
        return;
    }
    compare("plan.txt", Extent::Full, planned);
}

/// All take a minute of two cores.
#[test]
fn verdicts_are_those_of_the_goldens() {
    compare("audit.txt", Extent::from_environment(), audited);
}
