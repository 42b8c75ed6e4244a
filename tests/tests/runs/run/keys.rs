//! When stored results are reused: exactly if computing them again would give the same bits.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Bench, assert_says, text};

/// Stages and evaluations that were computed.
fn computed(output: &Output) -> usize {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).matches("\"stage_started\"").count()
}

fn json(bench: &Bench) -> Output {
    bench.run(&["--out", "out", "--format", "json"])
}

/// A reward program whose verdict depends on a module beside it, a settings file, and an environment
/// variable.
fn judged(bench: &Bench, command: &str) {
    bench.edit(
        "tiny.mopd",
        "tests = \"copy.test.jsonl\", reward = exact_match",
        &format!("tests = \"copy.test.jsonl\", reward = {command}"),
    );
    fs::create_dir_all(bench.path("judge")).expect("a folder");
    bench.write(
        "judge/verify.py",
        "import json, sys
from rules import verdict
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({'id': request['id'], 'reward': verdict(request)}), flush=True)
",
    );
    bench.write(
        "judge/rules.py",
        "import os
settings = os.path.join(os.path.dirname(__file__), '..', 'rules.json')
def verdict(request):
    return 0.25 if not os.path.exists(settings) else float(open(settings).read())
",
    );
}

fn score(bench: &Bench) -> f64 {
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("out/results.json")).expect("results")).expect("JSON");
    results["tables"][0]["rows"][0]["scores"]["copy"]["mean"].as_f64().expect("a score")
}

#[test]
fn an_edited_module_of_a_judge_is_another_judge() {
    let bench = Bench::new();
    judged(&bench, "command(\"cd judge && python3 verify.py\", time_limit: 20)");
    assert!(computed(&json(&bench)) > 0);
    assert_eq!(computed(&json(&bench)), 0);
    let before = score(&bench);
    bench.edit("judge/rules.py", "0.25", "0.75");
    // The specialist and its dependents are trained again; imitation of answers uses no verifier.
    let again = json(&bench);
    assert!(computed(&again) > 0);
    assert_says(&text(&again), &["{\"event\":\"stage_kept\",\"stage\":\"start\""]);
    assert!((score(&bench) - before).abs() > 0.4, "the old scores were shown");
    assert_eq!(computed(&json(&bench)), 0);
}

/// Editing the file of a Python function, or a module that it imports from beside it, changes the key.
#[test]
fn an_edited_function_is_another_judge() {
    let bench = Bench::new();
    judged(&bench, "python(\"judge/score.py:score\", time_limit: 20)");
    let function =
        "from rules import verdict\ndef score(batch):\n    return [verdict(each) for each in batch]\n";
    bench.write("judge/score.py", function);
    assert!(computed(&json(&bench)) > 0);
    assert_eq!(computed(&json(&bench)), 0);
    assert_eq!(score(&bench), 0.25);
    bench.edit("judge/rules.py", "0.25", "0.75");
    assert!(computed(&json(&bench)) > 0);
    assert_eq!(score(&bench), 0.75);
    bench.edit("judge/score.py", "return [", "raise ValueError('no rule'); return [");
    let said = bench.fails(&[]);
    assert_says(
        &said,
        &["the reward function `judge/score.py:score` failed for the prompt", "ValueError: no rule"],
    );
    assert_says(&said, &["(judge/score.py, line 3, in score)"]);
    fs::remove_file(bench.path("judge/score.py")).expect("it was there");
    assert_says(&bench.fails(&[]), &["cannot read judge/score.py: there is no such file"]);
}

/// Programs are hashed before a run begins, and their processes read them later. The verdicts of a program
/// that was edited meanwhile don't belong to the hashed one. Nor do those of one that was edited and changed
/// back: a process may have read the version in between.
#[test]
fn a_judge_that_is_edited_under_way_ends_the_run() {
    let bench = Bench::new();
    judged(&bench, "command(\"cd judge && python3 verify.py\", time_limit: 20, depends: [\"rules.json\"])");
    bench.write("rules.json", "0.25");
    // The first process edits the rules before it replies; a file that is not hashed may change at any time.
    let edits = "rules = open('../rules.json').read()
if rules != '0.75': open('../rules.json', 'w').write(rules if len(rules) > 4 else '0.75')
open('log.txt', 'a').write('started')
for line in sys.stdin:";
    bench.edit("judge/verify.py", "for line in sys.stdin:", edits);
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["error[reward]: `rules.json` changed during the run", "not kept"]);
    assert_says(&said, &["run again: finished stages are kept", "domain copy {"]);
    // From now on the program edits nothing.
    let again = json(&bench);
    assert!(computed(&again) > 0, "{}", text(&again));
    assert_says(&text(&again), &["{\"event\":\"stage_kept\",\"stage\":\"start\""]);
    assert_eq!(score(&bench), 0.75);
    assert_eq!(computed(&json(&bench)), 0);
    // The first run stored nothing under the key of the rules as they were hashed.
    bench.write("rules.json", "0.25");
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["`rules.json` changed during the run"]);
    bench.write("rules.json", "0.2500");
    let said = bench.fails(&["--out", "out"]);
    let undone = ["error[reward]: `rules.json` was written to during the run. Its content is the same as \
        before"];
    assert_says(&said, &undone);
    assert_says(&said, &["stages resume from their last checkpoint"]);
}

/// A model's weights stay in its files, and are read when they are needed.
#[test]
fn a_model_that_is_written_to_under_way_ends_the_run() {
    let bench = Bench::new();
    bench.tables("first", &[]);
    fs::create_dir(bench.path("mine")).expect("a folder");
    for file in fs::read_dir(bench.path("first/models/start-seed1")).expect("a model").flatten() {
        // Copies instead of links, because the store has links to the same files.
        fs::copy(file.path(), bench.path("mine").join(file.file_name())).expect("copied");
    }
    let base = "model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }";
    bench.edit("tiny.mopd", base, "model base  = checkpoint(\"mine\")");
    judged(&bench, "command(\"python3 judge/verify.py\", time_limit: 20)");
    // The program's first request comes after the model is hashed and before it trains.
    let writes = "place = 'mine/model.safetensors'
if os.path.exists('in-place'):
    with open(place, 'r+b') as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
else:
    bytes = open(place, 'rb').read()
    open('new', 'wb').write(bytes[:-1] + b'\\0')
    os.rename('new', place)
for line in sys.stdin:";
    bench.edit("judge/verify.py", "for line in sys.stdin:", writes);
    bench.edit("judge/verify.py", "import json, sys", "import json, os, sys");
    bench.write("in-place", "");
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["error[model]: `mine/model.safetensors` was changed while the run was reading it"]);
    assert_says(&said, &["model start = sft", "rename it over the old one"]);
    // The file is replaced by another: the run continues with the one that it had opened.
    fs::remove_file(bench.path("in-place")).expect("it was there");
    bench.tables("out", &[]);
}

#[test]
fn judge_dependencies_must_be_declared() {
    let bench = Bench::new();
    bench.write("rules.json", "0.5");
    judged(&bench, "command(\"python3 -m judge.verify\", time_limit: 20, depends: [\"rules.json\"])");
    bench.edit("judge/verify.py", "from rules", "from judge.rules");
    let plan = |bench: &Bench| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(bench.folder.path()).args(["plan", "tiny.mopd"]).stdin(Stdio::null());
        command.output().expect("mopd starts")
    };
    let said = text(&plan(&bench));
    assert_says(&said, &["a program of 3 files: judge/rules.py, judge/verify.py, rules.json"]);
    assert_says(&said, &["the key does not include environment variables, installed packages, the network"]);
    assert!(computed(&json(&bench)) > 0);
    let before = score(&bench);
    bench.write("rules.json", "1");
    assert!(computed(&json(&bench)) > 0);
    assert!((score(&bench) - before).abs() > 0.4, "the old scores were shown");
    bench.edit("tiny.mopd", "depends: [\"rules.json\"]", "depends: [\"rule.json\"]");
    assert_says(
        &bench.fails(&[]),
        &["`depends` names", "rule.json", "there is no such file", "domain copy {"],
    );
    assert_says(&text(&plan(&bench)), &["domain `copy`", "rule.json"]);
}

/// What a Python function opens is seen while it runs. A file that is edited is another input, for the stages
/// that it judged and those that begin from them; and the results of the old one are found again.
#[test]
fn an_edited_file_that_a_function_opens_is_another_judge() {
    let bench = Bench::new();
    judged(&bench, "python(\"judge/score.py:score\", time_limit: 20)");
    let function = "from rules import verdict
seen = open('seen.txt').read() if __import__('os').path.exists('seen.txt') else ''
def score(batch):
    with open('seen.txt', 'a') as log:
        log.write('x')
    with open('made.txt', 'w') as made:
        made.write(seen)
    open('made.txt').read()
    return [verdict(each) for each in batch]
";
    bench.write("judge/score.py", function);
    bench.write("rules.json", "0.5");
    assert!(computed(&json(&bench)) > 0);
    assert_eq!(score(&bench), 0.5);
    // It is in no key yet, but is known to be as it was; what the function writes is no input.
    let again = json(&bench);
    assert_eq!(computed(&again), 0);
    assert_says(
        &text(&again),
        &["reused: results that depend on the reward of `copy`", "environment variables"],
    );
    assert!(!text(&json(&bench)).contains("reused: results"), "it is said once");
    bench.write("rules.json", "1");
    let mut why = Command::new(mopd_tests::mopd());
    why.current_dir(bench.folder.path()).args(["plan", "--why", "tiny.mopd"]).stdin(Stdio::null());
    let why = text(&why.output().expect("mopd starts"));
    assert_says(&why, &["`rules.json` of the reward of `copy` changed"]);
    let edited = json(&bench);
    assert!(computed(&edited) > 0);
    assert_says(&text(&edited), &["{\"event\":\"stage_kept\",\"stage\":\"start\""]);
    assert_eq!(score(&bench), 1.0);
    assert_eq!(computed(&json(&bench)), 0);
    bench.write("rules.json", "0.5");
    assert_eq!(computed(&json(&bench)), 0);
    assert_eq!(score(&bench), 0.5);
    fs::remove_file(bench.path("rules.json")).expect("it was there");
    assert!(computed(&json(&bench)) > 0);
    assert_eq!(score(&bench), 0.25);
}

/// The same plan on the same data with other arithmetic gives other bits, and so has another key.
#[test]
fn other_arithmetic_finds_nothing_and_says_so() {
    let bench = Bench::new();
    let other = |name: &str, value: &str| {
        bench.command(&["--out", "out", "--format", "json"]).env(name, value).output().expect("mopd starts")
    };
    let all = computed(&json(&bench));
    for (name, value) in [("ATEN_CPU_CAPABILITY", "default"), ("MKL_ENABLE_INSTRUCTIONS", "SSE4_2")] {
        let output = other(name, value);
        assert_eq!(computed(&output), all, "{}", text(&output));
        assert_says(
            &text(&output),
            &["the store has results that were computed with other arithmetic", name, "kept but not used"],
        );
        let output = other(name, value);
        assert_eq!(computed(&output), 0, "{}", text(&output));
        assert!(!text(&output).contains("other arithmetic"), "{}", text(&output));
    }
    assert_eq!(computed(&json(&bench)), 0, "what was computed before is still there");
}

/// Everything is found wherever the experiment lies, and wherever its data lies within it, even if its
/// commands have absolute paths.
#[test]
fn an_experiment_that_is_moved_finds_everything() {
    let mut bench = Bench::new();
    let command = |folder: &Path| {
        let judge = folder.join("judge");
        let judge = judge.display();
        format!("command(\"python3 {judge}/verify.py\", time_limit: 20, depends: [\"{judge}\"])")
    };
    let before = command(bench.folder.path());
    judged(&bench, &before);
    let tables = bench.tables("out", &[]);
    let new = tempfile::TempDir::new().expect("a temporary folder");
    let moved = new.path().join("elsewhere");
    fs::rename(bench.folder.path(), &moved).expect("renamed");
    let old = std::mem::replace(&mut bench.folder, new);
    // The folder has been moved, so there is nothing to delete.
    std::mem::forget(old);
    let file = moved.join("tiny.mopd");
    let source = fs::read_to_string(&file).expect("text");
    assert!(source.contains(&before));
    fs::write(&file, source.replace(&before, &command(&moved))).expect("written");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command
            .current_dir(&moved)
            .args(["run", "tiny.mopd", "--out", "out", "--format", "json"])
            .args(arguments);
        command.stdin(Stdio::null()).output().expect("mopd starts")
    };
    assert_eq!(computed(&run(&[])), 0);
    fs::create_dir(moved.join("data")).expect("a folder");
    for name in ["copy.jsonl", "copy.test.jsonl", "last.jsonl", "last.test.jsonl"] {
        fs::rename(moved.join(name), moved.join("data").join(name)).expect("renamed");
    }
    let source = fs::read_to_string(moved.join("tiny.mopd")).expect("text");
    let source = source.replace("= \"copy.", "= \"data/copy.").replace("= \"last.", "= \"data/last.");
    fs::write(moved.join("tiny.mopd"), source).expect("written");
    let output = run(&[]);
    assert_eq!(computed(&output), 0, "{}", text(&output));
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(moved.join("out/results.json")).expect("results")).expect("JSON");
    assert_eq!(results["tables"], tables);
    // Another program, and other arguments, are judged again.
    let rules = moved.join("judge/rules.py");
    let text = fs::read_to_string(&rules).expect("text").replace("0.25", "0.75");
    fs::write(&rules, text).expect("written");
    assert!(computed(&run(&[])) > 0);
    assert_eq!(computed(&run(&[])), 0);
    let source = fs::read_to_string(&file).expect("text");
    fs::write(&file, source.replace("verify.py\"", "verify.py --strict\"")).expect("written");
    assert!(computed(&run(&[])) > 0);
}

/// Models and tokenizers are identified by their content, not their path.
#[test]
fn a_model_that_is_moved_is_the_same_model() {
    let bench = Bench::new();
    bench.tables("first", &[]);
    fs::rename(bench.path("first/models/start-seed1"), bench.path("mine")).expect("renamed");
    let base = "model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }";
    bench.edit("tiny.mopd", base, "model base  = checkpoint(\"mine\")");
    assert!(computed(&json(&bench)) > 0);
    fs::rename(bench.path("mine"), bench.path("yours")).expect("renamed");
    bench.edit("tiny.mopd", "checkpoint(\"mine\")", "checkpoint(\"yours\")");
    let output = json(&bench);
    // Loading a model emits a start event with 0 steps.
    let trained = text(&output)
        .lines()
        .filter(|line| line.contains("\"stage_started\"") && !line.contains("\"steps\":0"))
        .count();
    assert_eq!(trained, 0, "{}", text(&output));
}
