//! Help, versions, and mistakes on the command line.

use std::io::Read;
use std::process::Stdio;

use super::{GOOD, Place};

#[test]
fn help_and_version_are_results() {
    let place = Place::new();
    let help = place.mopd(&["--help"]).is(0, &[]);
    assert!(help.out.contains("mopd run pilot.mopd") && help.err.is_empty(), "{help:?}");
    assert_eq!(place.mopd(&["--version"]).is(0, &[]).out, format!("mopd {}\n", env!("CARGO_PKG_VERSION")));
    let run = place.mopd(&["run", "--help"]).is(0, &[]);
    assert!(run.out.contains("--set seed=2") && run.out.contains("results.json"), "{run:?}");
}

#[test]
fn wrong_use_is_status_2() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.mopd(&[]).is(2, &["Usage"]);
    place.mopd(&["check"]).is(2, &["<FILE>"]);
    place.mopd(&["check", "--format", "yaml", "a.mopd"]).is(2, &["human, short, json"]);
    place.mopd(&["run", "--set", "seed", "a.mopd"]).is(2, &["NAME=VALUE"]);
    place.mopd(&["run", "--workers", "0", "a.mopd"]).is(2, &["--workers"]);
    for nonsense in ["0", "65", "two"] {
        place.mopd(&["run", "--engine", "trl", "--processes", nonsense, "a.mopd"]).is(2, &["--processes"]);
    }
    place.mopd(&["run", "--processes", "2", "a.mopd"]).is(2, &["--engine"]);
    place.mopd(&["sample", "x", "--prompt", "p", "--temperature=-1"]).is(2, &["0 or more"]);
    place.mopd(&["--quiet", "--verbose", "check", "a.mopd"]).is(2, &["cannot be used with"]);
    place.mopd(&["--color", "red", "check", "a.mopd"]).is(2, &["auto, always, never"]);
    place.mopd(&["chek", "a.mopd"]).is(2, &["error[unknown-command]", "did you mean `mopd check`?"]);
    place.mopd(&["a.mopd"]).is(2, &["did you mean `mopd run a.mopd`?"]);
    place.mopd(&["train", "a.mopd"]).is(2, &["that is `mopd run`"]);
}

#[test]
fn options_of_other_programs_have_a_counterpart() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let run = |option: &[&str], words: &[&str]| {
        place.mopd(&[&["run"], option, &["a.mopd"]].concat()).is(2, words);
    };
    run(&["--seed", "2"], &["error[unknown-option]", "`mopd run` has no option `--seed`", "`--set seed=2`"]);
    run(&["--output_dir", "x"], &["`--out DIR`"]);
    run(&["--gpus=2"], &["`device = cpu`"]);
    run(&["--freesh"], &["did you mean `--fresh`?"]);
    run(&["--zzz"], &["`mopd run --help` lists the options"]);
}

#[test]
fn help_begins_with_examples() {
    let place = Place::new();
    for command in ["run", "check", "plan", "eval"] {
        let help = place.mopd(&[command, "--help"]).is(0, &[]).out;
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{command}: no {text} in {help}"));
        assert!(at("Examples:") < at("Options:"), "{help}");
    }
}

#[test]
fn unsupported_option_is_reported() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.mopd(&["plan", "--format", "dot", "a.mopd"]).is(2, &["not supported yet"]);
}

#[test]
fn a_file_that_cannot_be_read_is_status_2() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    std::fs::write(place.path("latin.mopd"), b"// one\n// caf\xe9\n").expect("a file");
    for command in ["check", "plan", "run"] {
        let said = place
            .mopd(&[command, "none.mopd"])
            .is(2, &["error[unreadable-file]: can't read none.mopd: there is no such file"]);
        assert_eq!(said.out, "");
        place.mopd(&[command, "."]).is(2, &["not its folder, such as ./a.mopd"]);
        place.mopd(&[command, "a"]).is(2, &["did you mean a.mopd?"]);
        place.mopd(&[command, "latin.mopd"]).is(2, &["error[not-text]", "line 2"]);
    }
    // The other files are still checked.
    place.mopd(&["check", "none.mopd", "a.mopd"]).is(2, &["none.mopd", "ok: tiny"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    for arguments in [&["explain", "--all"][..], &["plan", "a.mopd"], &["check", "a.mopd"], &["--help"]] {
        let mut child = place
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mopd starts");
        drop(child.stdout.take());
        let mut stderr = child.stderr.take().expect("a pipe");
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{arguments:?}: {text}");
        assert!(!text.contains("panic") && !text.contains("bug"), "{arguments:?}: {text}");
    }
}
