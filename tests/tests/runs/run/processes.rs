//! Stages that several processes train together, from the command line.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{Bench, assert_says, text};

fn why(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(["plan", "--why", "tiny.mopd"]).args(arguments);
    let output = command.output().expect("mopd starts");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Results of two processes have keys of their own and the same bits each time; reports state the number.
#[test]
fn several_processes_are_asked_for_on_the_command_line() {
    let bench = Bench::new();
    bench.tables("one", &[]);
    assert_says(&why(&bench, &[]), &["nothing to rerun"]);
    // A randomly initialised model is the same for any number of processes.
    let said = why(&bench, &["--processes", "2"]);
    assert_says(
        &said,
        &["base kept", "start trained: the number of processes changed", "5 of 6 stages rerun"],
    );
    let output = bench.run(&["--out", "two", "--processes", "2"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_says(&text(&output), &["2 processes train each stage together", "tiny table"]);
    let results: Value =
        serde_json::from_slice(&fs::read(bench.path("two/results.json")).expect("results")).expect("JSON");
    assert!(results.to_string().contains(", 2 processes"), "{results}");
    assert_ne!(bench.student("two"), bench.student("one"), "sums of two parts round otherwise");
    let first = bench.student("two");
    bench.tables("two", &["--processes", "2", "--fresh"]);
    assert!(bench.student("two") == first, "and each time alike");
    bench.tables("one", &[]);
    assert_says(&why(&bench, &[]), &["nothing to rerun"]);
    let planned = bench.run(&["--dry-run", "--processes", "2"]);
    assert_says(&text(&planned), &["2 processes train each stage together"]);
}

/// A trial runs the part of a batch of one process; predictions count all processes.
#[test]
fn predictions_are_of_all_processes() {
    let bench = Bench::new();
    let memory = |processes: &str| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(bench.folder.path());
        let output = command
            .args(["plan", "--predict", "--processes", processes, "--verbose", "tiny.mopd"])
            .output()
            .expect("mopd starts");
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find(|line| line.starts_with("predicted student:"));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert!(!memory("1").contains("processes"));
    assert!(memory("3").ends_with("of 3 processes together"), "{}", memory("3"));
}

#[test]
fn unsupported_multi_process_stage_is_refused_before_the_run() {
    let bench = Bench::new();
    let said = bench.fails(&["--processes", "5"]);
    assert_says(&said, &["`expert[copy]`: 5 processes cannot split the data of a step, `prompts = 4`"]);
    assert_says(&said, &["no stage was finished", "fewer processes, or more prompts per step"]);
    bench.edit(
        "tiny.mopd",
        "  prompts   = 8\n",
        "  prompts   = 8\n  gradient_alignment = gradient_alignment(every: 2 steps, between: domains)\n",
    );
    let said = bench.fails(&["--processes", "2"]);
    assert_says(&said, &["`student`: `gradient_alignment` is not supported yet with `--processes`"]);
}
