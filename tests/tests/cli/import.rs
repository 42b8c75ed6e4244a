//! Configurations of other programs as experiments: each of `tests/import` has its experiment beside it,
//! which checks.

use std::fs;

use mopd_tests::{files, root};

use super::Place;

const ENDINGS: [&str; 3] = [".py", ".yaml", ".sh"];

#[test]
fn configurations_become_experiments_that_check() {
    let place = Place::new();
    let folder = root().join("tests/import");
    let mut seen = 0;
    for path in ENDINGS.iter().flat_map(|ending| files(&folder, ending)) {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        place.write(&name, &fs::read_to_string(&path).expect("a configuration"));
        let text = place.mopd(&["import", &name]).is(0, &[]).out;
        place.write("imported.mopd", &text);
        let said = place.mopd(&["check", "imported.mopd"]).is(0, &[]);
        // Data is not there, a divergence may be other than people think; nothing else is said.
        let known = ["missing-file", "truncated-sampling", "clipped-ratio", "partial-mass"];
        for line in said.err.lines().filter(|line| line.contains("warning[")) {
            assert!(known.iter().any(|code| line.contains(code)), "{name}: {line}");
        }
        let beside = folder.join(format!("{name}.mopd"));
        if std::env::var_os("MOPD_UPDATE").is_some() {
            fs::write(&beside, &text).expect("a file");
        }
        let known = fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(text, known, "{name}: MOPD_UPDATE=1 writes it anew");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// Every setting that was given is used or is a comment.
#[test]
fn nothing_is_left_out_silently() {
    let place = Place::new();
    place.write("a.yaml", "beta: 1.0\nmin_p: 0.1\nno_such_setting: 3\nteacher_model_name_or_path: t\n");
    let text = place.mopd(&["import", "a.yaml"]).is(0, &[]).out;
    assert!(text.contains("//   min_p = 0.1: tokens are drawn from another distribution"), "{text}");
    assert!(text.contains("//   no_such_setting = 3: mopd has no such setting"), "{text}");
    assert!(text.contains("live kl(student || teacher)"), "{text}");
}

#[test]
fn what_is_no_configuration_is_said() {
    let place = Place::new();
    place.write("a.yaml", "beta: [1, 2\n");
    place
        .mopd(&["import", "a.yaml"])
        .is(2, &["error[wrong-configuration]: a.yaml is no YAML that can be read"]);
    place.write("b.py", "print(1)\n");
    place.mopd(&["import", "b.py"]).is(2, &["makes no configuration", "DistillationConfig"]);
    place.write("c.toml", "a = 1\n");
    place.mopd(&["import", "c.toml"]).is(2, &["c.toml is no configuration that `mopd import` reads"]);
    place.write("d.sh", "echo nothing\n");
    place.mopd(&["import", "d.sh"]).is(2, &["has no settings of verl or TRL"]);
    place.mopd(&["import", "none.yaml"]).is(2, &["can't read none.yaml: there is no such file"]);
}

#[test]
fn an_experiment_is_written_where_it_is_asked() {
    let place = Place::new();
    place.write("a.yaml", "beta: 0.0\nreport_to: wandb\n");
    let said = place.mopd(&["import", "a.yaml", "--out", "b.mopd"]).is(0, &[]);
    assert_eq!(said.out, "");
    assert!(place.read("b.mopd").contains("kl(teacher || student)"));
}
