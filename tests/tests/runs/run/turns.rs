//! Multi-turn rollouts with a real environment, end to end: `mopd run` of the example, and failing programs.

use std::fs;

use mopd_tests::root;
use serde_json::Value;

use super::signals::mopd;
use super::{Bench, assert_says, text};

/// The example of the book, shortened: a table of letters that a model can only know by using the tool.
fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir(bench.path("lookup")).expect("a folder");
    for name in ["environment.py", "train.jsonl", "test.jsonl"] {
        fs::copy(root().join("examples/lookup").join(name), bench.path(&format!("lookup/{name}")))
            .expect("a copy");
    }
    let example = fs::read_to_string(root().join("examples/lookup.mopd")).expect("the example");
    bench.write(
        "tiny.mopd",
        &example.replace("steps   = 120", "steps   = 40").replace("steps     = 120", "steps     = 6"),
    );
    bench
}

pub(super) fn events(said: &str, kind: &str) -> Vec<Value> {
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == kind).collect()
}

/// The environment gives the rewards, and the student learns to use it.
#[test]
fn a_student_learns_to_use_a_tool() {
    let bench = bench();
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    let steps = events(&text(&output), "step");
    let rewards: Vec<f64> = steps
        .iter()
        .filter(|step| step["stage"] == "expert")
        .map(|step| step["domains"][0]["reward"].as_f64().expect("a reward"))
        .collect();
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (first, last) = (mean(&rewards[..5]), mean(&rewards[35..]));
    assert!(rewards.len() == 40 && last > first + 0.05 && last > 0.85, "{first} {last}");
    // The environment's program is in the keys of the stages that use it, and in no others.
    let stages = |output: &std::process::Output| {
        events(&text(output), "stage_started")
            .iter()
            .map(|event| event["stage"].to_string())
            .collect::<Vec<_>>()
    };
    let again = |arguments: &[&str]| {
        let output = bench.run(&[&["--out", "out", "--format", "json"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        stages(&output)
    };
    assert!(again(&[]).is_empty(), "all of it is known");
    bench.edit("lookup/environment.py", "0.5 if action in self.table", "0.25 if action in self.table");
    assert_eq!(again(&[]), ["\"expert\"", "\"student\""]);
}

/// A run that is resumed from a checkpoint ends with the bits of an uninterrupted one.
#[test]
fn a_run_with_turns_that_is_interrupted_ends_with_the_same_bits() {
    let bench = bench();
    bench.edit("tiny.mopd", "steps   = 40", "steps   = 60");
    let expected = bench.tables("expected", &[]);
    let student = bench.student("expected");
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    for (signal, step) in [("-INT", 10), ("-TERM", 30)] {
        let moment = format!("\"stage\":\"expert\",\"seed\":1,\"step\":{step},");
        let mut command = bench.command(&["--format", "json", "--out", "out"]);
        command.stdin(std::process::Stdio::null());
        let output = super::signals::cut(command, &moment, signal);
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    }
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
    assert_eq!(bench.tables("out", &[]), expected);
    assert!(bench.student("out") == student, "other weights");
}

#[test]
fn an_environment_that_fails_is_named_with_what_it_said() {
    let bench = bench();
    bench.edit("tiny.mopd", "python(\"lookup/environment.py:Lookup\")", "\"python3 lookup/environment.py\"");
    bench.edit("tiny.mopd", "at_most: 2,", "at_most: 2, time_limit: 2,");
    let program = |body: &str| bench.write("lookup/environment.py", &format!("import sys, time\n{body}\n"));
    program("sys.exit('no such room')");
    assert_says(
        &bench.fails(&[]),
        &["the environment `python3 lookup/environment.py` ended (exit status 1)", "no such room", "expert"],
    );
    // The probe starts an episode before anything is trained, also without a run.
    assert_says(&bench.fails(&[]), &["no stage was finished"]);
    let check = || {
        let output = mopd(&bench, &["check", "--files", "tiny.mopd"]).output().expect("mopd starts");
        (output.status.code(), text(&output))
    };
    let (status, said) = check();
    assert_eq!(status, Some(1), "{said}");
    assert_says(&said, &["error[environment]", "no such room", "model expert"]);
    // Both stages use the environment, but the probe starts it once.
    program("open('starts', 'a').write('.')\nfor line in sys.stdin: print('{\"id\": 0}', flush=True)");
    let (status, said) = check();
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(fs::read_to_string(bench.path("starts")).expect("it was started"), ".");
    program("time.sleep(60)");
    assert_says(&bench.fails(&[]), &["no response within its time limit of 2 s", "raise `time_limit`"]);
    program("for line in sys.stdin: print('hello', flush=True)");
    assert_says(&bench.fails(&[]), &["invalid output: not JSON; the line was \"hello\"", "\"observation\""]);
    program("for line in sys.stdin: print('{\"id\": 0}', flush=True)");
    let said = bench.fails(&[]);
    assert_says(
        &said,
        &["a second reply for one request, for the prompt", "the line was \"{\\\"id\\\": 0}\""],
    );
    bench.edit("tiny.mopd", "at_most: 2,", "at_most: 2, depends: [\"rules.json\"],");
    assert_says(&bench.fails(&[]), &["`depends` names", "rules.json"]);
    bench.edit("tiny.mopd", "depends: [\"rules.json\"],", "");
    bench.edit("tiny.mopd", "max_tokens: 2))", "max_tokens: 2)) |> expert_turns(all_but: 1)");
    assert_says(
        &bench.fails(&[]),
        &["lookup/train.jsonl:1", "the field `expert_turns` is missing", "every line needs `expert_turns`"],
    );
    bench.edit("tiny.mopd", "reward = exact_match(key)", "reward = exact_match(key), format = chat");
    let program = fs::read_to_string(bench.path("tiny.mopd")).expect("the program");
    let lines: Vec<&str> = program.lines().filter(|line| !line.starts_with("model start")).collect();
    let tokenizer = root().join("tests/reference/text/qwen3/tokenizer.json");
    let tokenizer = format!("tokenizer = {:?}", tokenizer.display().to_string());
    let program = lines.join("\n").replace("(start", "(base").replace("[start", "[base");
    bench.write("tiny.mopd", &program.replace("tokenizer = bytes", &tokenizer));
    assert_says(
        &bench.fails(&[]),
        &["`expert_turns` of `table`, whose prompts are conversations, is not supported yet"],
    );
}

/// A class is looked for, called and named before anything is trained.
#[test]
fn a_class_that_fails_is_named_with_the_line() {
    let bench = bench();
    let check = || {
        let output = mopd(&bench, &["check", "--files", "tiny.mopd"]).output().expect("mopd starts");
        (output.status.code(), text(&output))
    };
    assert_eq!(check().0, Some(0));
    bench.edit("lookup/environment.py", "class Lookup", "class Found");
    let (status, said) = check();
    assert_eq!(status, Some(1), "{said}");
    let missing = "lookup/environment.py has no class `Lookup`";
    assert_says(
        &said,
        &["error[environment]", missing, "lookup/train.jsonl:1), before the first turn", "expert"],
    );
    assert_says(&bench.fails(&[]), &[missing, "no stage was finished"]);
    bench.edit("lookup/environment.py", "class Found", "class Lookup");
    bench.edit("lookup/environment.py", "return None, 0.5 if", "return None, \"much\", 0.5 if");
    let said = bench.fails(&[]);
    assert_says(
        &said,
        &["`lookup/environment.py:Lookup` failed for the prompt", ", turn 2: `step` returned 'much' as the"],
    );
    assert_says(&said, &["`observation, reward, done`", "expert"]);
    fs::remove_file(bench.path("lookup/environment.py")).expect("removable");
    assert_says(&check().1, &["error[environment]", "No such file or directory", "lookup/environment.py"]);
}

/// An environment's rewards may have parts, which the domain's reward names.
#[test]
fn an_environment_gives_parts() {
    let bench = bench();
    let program = fs::read_to_string(bench.path("tiny.mopd")).expect("the program");
    let rewards = "parts(key: exact_match(key), form: regex(\".\"), weights: equal)";
    let objective = "objective paid {
  term policy = -(reward.form - mean(reward.form, over: group)) * live student.logp
  reduce      = mean(token) then mean(sequence)
}
";
    let expert = program.lines().position(|line| line.starts_with("model expert")).expect("an expert");
    let lines: Vec<&str> = program.lines().collect();
    let end = expert + lines[expert..].iter().position(|line| *line == "}").expect("its end");
    let trained = "model expert = distill(start) {
  objective = paid
  rollout = turns(python(\"lookup/environment.py:Lookup\"), at_most: 2, sample(n: 4, temperature: 1, max_tokens: 2))
  prompts = 4
  steps = 3
  lr = 1e-3
}";
    let text_of = [&lines[..expert], &[objective, trained], &lines[end + 1..]].concat().join("\n");
    bench.write("tiny.mopd", &text_of.replace("reward = exact_match(key)", &format!("reward = {rewards}")));
    let said = bench.fails(&[]);
    assert_says(&said, &["returned a reward without the part `form`", "\"parts\": {\"form\": 0.5}"]);
    bench.edit("lookup/environment.py", "else 0.0, True", "else 0.0, True, {\"form\": 0.25}");
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A prediction does not start the environment's program.
#[test]
fn a_prediction_plays_without_the_environment() {
    let bench = bench();
    bench.write("lookup/environment.py", "open('started', 'w').write('x')");
    let output = std::process::Command::new(mopd_tests::mopd())
        .current_dir(bench.folder.path())
        .args(["plan", "tiny.mopd", "--predict"])
        .output()
        .expect("mopd starts");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_says(&said, &["at most 2 student turns", "environment", "lookup/environment.py", "predicted"]);
    assert!(!bench.path("started").exists());
}
