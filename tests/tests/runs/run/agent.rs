//! Conversations with tools, end to end: the example of the gallery.

use std::fs;

use mopd_tests::root;

use super::turns::events;
use super::{Bench, assert_says, text};

fn bench() -> Bench {
    let bench = Bench::new();
    let from = root().join("examples/agent");
    for path in mopd_tests::files(&from, "") {
        let below = path.strip_prefix(&from).expect("a file of the example");
        if below.to_string_lossy().contains("__pycache__") {
            continue;
        }
        let to = bench.path("agent").join(below);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(&path, to).expect("a copy");
    }
    let example = fs::read_to_string(root().join("examples/agent.mopd")).expect("the example");
    bench.write("tiny.mopd", &example);
    bench
}

/// Each specialist learns to call its tool and to answer with the result, and the student learns both.
#[test]
fn a_student_learns_two_tools_from_two_specialists() {
    let bench = bench();
    let output = bench.run(&["--out", "out", "--format", "json"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let steps = events(&said, "step");
    let rewards = |stage: &str| -> Vec<f64> {
        let own = steps.iter().filter(|step| step["stage"] == stage);
        let mean = |step: &serde_json::Value| {
            let domains = step["domains"].as_array().expect("domains");
            let sum: f64 = domains.iter().map(|domain| domain["reward"].as_f64().expect("a reward")).sum();
            sum / domains.len() as f64
        };
        own.map(mean).collect()
    };
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    for stage in ["expert[prices]", "expert[stocks]", "student"] {
        let rewards = rewards(stage);
        let (first, last) = (mean(&rewards[..3]), mean(&rewards[rewards.len() - 5..]));
        assert!(last > 0.85 && last > first + 0.1, "{stage}: {first} {last}");
    }
    assert!(!said.contains("writes earlier turns otherwise"), "{said}");
}

/// A run that is interrupted between two turns of an episode resumes with the same bits.
#[test]
fn an_agent_that_is_interrupted_ends_with_the_same_bits() {
    let bench = bench();
    bench.edit("tiny.mopd", "steps   = 60", "steps   = 16");
    bench.edit("tiny.mopd", "steps     = 80", "steps     = 4");
    let expected = bench.tables("expected", &[]);
    let student = bench.student("expected");
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    let mut command = bench.command(&["--format", "json", "--out", "out"]);
    command.stdin(std::process::Stdio::null());
    let moment = "\"stage\":\"expert[prices]\",\"seed\":1,\"step\":8,";
    let output = super::signals::cut(command, moment, "-INT");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
    assert_eq!(bench.tables("out", &[]), expected);
    assert!(bench.student("out") == student, "other weights");
}

#[test]
fn replies_that_are_no_messages_are_named() {
    let bench = bench();
    let messages = "[{\"role\": \"tool\", \"content\": result} for result in results]";
    for (reply, said) in [
        ("[{\"role\": \"robot\", \"content\": \"x\"}]", "the role \"robot\""),
        ("[{\"role\": \"assistant\", \"content\": \"x\"}]", "whose turns the student writes"),
        ("[\"x\"]", "message"),
    ] {
        bench.edit("agent/environment.py", messages, reply);
        let said = [said, "`agent/environment.py:Shop` returned invalid output", ".jsonl:", ", turn 1"];
        assert_says(&bench.fails(&[]), &said);
        bench.edit("agent/environment.py", reply, messages);
    }
}
