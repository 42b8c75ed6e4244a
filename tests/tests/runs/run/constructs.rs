//! The objectives of `tests/constructs`: each is trained with.

use std::fs;

use mopd_tests::{files, root};

use super::signals::interrupted_twice;
use super::states::curve;
use super::{Bench, source};

/// The text of a file of `tests/constructs`, and the names of its objectives.
fn objectives(file: &std::path::Path) -> (String, Vec<String>) {
    let text = fs::read_to_string(file).expect("a program");
    let heads = text.lines().filter_map(|line| line.strip_prefix("pub objective "));
    let names = heads.map(|head| head.split('(').next().expect("a name").to_owned()).collect();
    (text, names)
}

/// Teachers for the parameters of an objective that have no default.
fn teachers(text: &str, name: &str) -> &'static str {
    let head =
        text.lines().find(|line| line.starts_with(&format!("pub objective {name}("))).expect("its head");
    if head.contains("guides: teachers") {
        "guides: specialist"
    } else if head.contains("first: teacher") {
        "first: specialist[copy], second: specialist[last]"
    } else {
        ""
    }
}

/// A run with an objective that is not the untrained student's.
fn trained(text: &str, name: &str) -> Bench {
    let bench = Bench::new();
    bench.write("tiny.mopd", &source(text, &format!("{name}({})", teachers(text, name))));
    bench.edit("tiny.mopd", "sample(n: 1, temperature: 1.0", "sample(n: 3, temperature: 1.0");
    bench
}

#[test]
fn every_construct_is_trained_with() {
    let mut trained_with = 0;
    for file in files(&root().join("tests/constructs"), ".mopd") {
        let (text, names) = objectives(&file);
        let mut students = Vec::new();
        for name in &names {
            let bench = trained(&text, name);
            bench.tables("out", &[]);
            students.push(bench.student("out"));
            trained_with += 1;
        }
        for (place, student) in students.iter().enumerate() {
            assert!(!students[..place].contains(student), "{file:?}: two objectives train the same weights");
        }
    }
    assert!(trained_with >= 18, "only {trained_with}");
}

/// Random gates and a state that moves a divergence: interrupted and resumed, the weights end with the same
/// bits; another seed draws other numbers.
#[test]
fn draws_and_moving_parameters_are_resumed() {
    for (file, name, state) in [
        ("gates", "either_way", None),
        ("skewed", "steered", Some("state.beta")),
        ("teachers", "bandit", Some("state.gain[specialist[last]].copy")),
        ("buffers", "remembered", Some("state.last[4]")),
    ] {
        let (text, _) = objectives(&root().join(format!("tests/constructs/{file}.mopd")));
        let bench = trained(&text, name);
        bench.edit("tiny.mopd", "steps     = 6", "steps     = 120");
        bench.tables("expected", &[]);
        let student = bench.student("expected");
        let moved = state.map(|state| curve(&bench, "expected", state));
        assert!(
            moved.as_ref().is_none_or(|moved| moved.windows(2).any(|pair| pair[0] != pair[1])),
            "{moved:?}"
        );
        fs::remove_dir_all(bench.path(".mopd")).expect("removable");
        interrupted_twice(&bench);
        assert!(bench.student("out") == student, "{name}: other weights");
    }
}
