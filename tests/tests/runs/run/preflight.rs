//! Tests of problems found before the first stage, and of warnings while a stage trains.

use std::fs;
use std::process::{Command, Output, Stdio};

use super::{Bench, assert_says, text};

/// A reward program that records how often it was started, and returns 0.5 for everything.
const JUDGE: &str = "import json, sys
open('started', 'a').write('x')
for line in sys.stdin:
    request = json.loads(line)
    open('asked', 'a').write(json.dumps(request) + '\\n')
    print(json.dumps({'id': request['id'], 'reward': 0.5}), flush=True)
";

fn judged(bench: &Bench, judge: &str) {
    bench.write("judge.py", judge);
    let reward = r#"tests = "copy.test.jsonl", reward = "#;
    let command = format!(r#"{reward}command("python3 judge.py", time_limit: 20)"#);
    bench.edit("tiny.mopd", &format!("{reward}exact_match"), &command);
}

fn check(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(["check", "--files", "tiny.mopd"]).args(arguments);
    command.stdin(Stdio::null()).output().expect("mopd starts")
}

#[test]
fn a_reward_that_cannot_answer_stops_a_run_before_its_first_stage() {
    let bench = Bench::new();
    judged(&bench, "import no_such_module\n");
    let said = bench.fails(&["--format", "json"]);
    assert_says(&said, &["\"kind\":\"reward\"", "python3 judge.py", "no_such_module", "domain copy {"]);
    assert!(!said.contains("stage_started") && !said.contains("\"event\":\"predicted\""), "{said}");
    // The probe judges the first test prompt with the right answer.
    rejudged(&bench, JUDGE);
    bench.tables("out", &[]);
    let asked = fs::read_to_string(bench.path("asked")).expect("it was asked");
    let first: serde_json::Value = serde_json::from_str(asked.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["prompt"], &first["completion"]), (&"copy: aab=".into(), &"aab".into()));
    // If all results are stored, the program is not called.
    fs::remove_file(bench.path("asked")).expect("removable");
    bench.tables("out", &[]);
    assert!(!bench.path("asked").exists());
}

fn rejudged(bench: &Bench, judge: &str) {
    bench.write("judge.py", judge);
}

/// What no error shows of the data is a warning of a run, and of a check of all files.
#[test]
fn rows_that_repeat_others_are_said_without_a_run() {
    let bench = Bench::new();
    let rows = fs::read_to_string(bench.path("copy.jsonl")).expect("rows");
    let count = rows.lines().count();
    bench.write("copy.jsonl", &rows.repeat(2));
    let output = check(&bench, &[]);
    let warning = format!("warning: copy.jsonl: {count} of {} rows repeat an earlier one", 2 * count);
    assert_says(&text(&output), &[&warning, "ok: tiny"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn files_and_rewards_are_checked_without_a_run() {
    let bench = Bench::new();
    judged(&bench, JUDGE);
    let output = check(&bench, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_says(&text(&output), &["ok: tiny", "its files and rewards can be used"]);
    assert!(bench.path("asked").exists() && !bench.path("runs").exists() && !bench.path("out").exists());

    // All problems are reported, each at its place.
    bench.write("judge.py", "import no_such_module\n");
    bench.edit("last.test.jsonl", "\"answer\": \"b\"", "\"answers\": \"b\"");
    let output = check(&bench, &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_says(&said, &["error[reward]", "no_such_module", "domain copy {", "domain last {"]);
    assert_says(
        &said,
        &["error[data]", "last.test.jsonl:", "`answer`", "2 parts of tiny.mopd cannot be used"],
    );
    let output = check(&bench, &["--format", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let codes: Vec<&str> =
        found.as_array().expect("a list").iter().filter_map(|it| it["code"].as_str()).collect();
    assert_eq!(codes, ["reward", "data"]);
    assert_eq!(found[0]["range"]["start"]["line"], 7);
    let output = check(&bench, &["--format", "short"]);
    assert_says(&text(&output), &["tiny.mopd:8:8: error[reward]: the reward command"]);
    let output = check(&bench, &["--format", "sarif"]);
    let log: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(log["runs"][0]["results"][1]["ruleId"], "data");
    // Without `--files`, the first rows of the data are read, and no program is started.
    let mut command = Command::new(mopd_tests::mopd());
    let plain = command.current_dir(bench.folder.path()).args(["check", "tiny.mopd"]).output();
    let plain = plain.expect("mopd starts");
    assert_eq!(plain.status.code(), Some(1));
    assert_says(&text(&plain), &["error[data-mismatch]", "last.test.jsonl:", "`answer`"]);
    assert!(!text(&plain).contains("error[reward]"));
}

/// A dry run reports what a run would refuse before its first stage.
#[test]
fn a_dry_run_refuses_what_a_run_would() {
    let bench = Bench::new();
    let dry = |arguments: &[&str]| bench.run(&[&["--dry-run"], arguments].concat());
    let good = dry(&[]);
    assert!(good.status.success(), "{}", text(&good));
    assert!(!bench.path("runs").exists() && !bench.path(".mopd").exists());
    let whole = fs::read_to_string(bench.path("tiny.mopd")).expect("an experiment");
    let python = r#"tests = "copy.test.jsonl", reward = python("judge.py:score")"#;
    bench.write("judge.py", "def other(completions): return [0.0 for _ in completions]\n");
    for (from, to, says) in [
        (r#"tests = "copy.test.jsonl", reward = exact_match"#, python, "judge.py has no function `score`"),
        (
            r#""copy.test.jsonl", reward = exact_match"#,
            r#""copy.test.jsonl", reward = python("juge.py:score")"#,
            "juge.py",
        ),
        ("copy.test.jsonl", "by.test.jsonl", "by.test.jsonl: there is no such file"),
        ("context = 24", "context = 12", "the model's context is 12"),
    ] {
        bench.edit("tiny.mopd", from, to);
        for output in [dry(&[]), check(&bench, &[]), bench.run(&[])] {
            assert_eq!(output.status.code(), Some(1), "{from}: {}", text(&output));
            assert_says(&text(&output), &[says, "error["]);
        }
        bench.write("tiny.mopd", &whole);
    }
    // A missing folder whose name is not a valid repository on the hub.
    bench.edit(
        "tiny.mopd",
        "model base  = llama",
        "model other = hf(\"./models/smal\")\nmodel base  = llama",
    );
    bench.edit("tiny.mopd", "models      = [start,", "models      = [other, start,");
    bench.edit("tiny.mopd", "reward = exact_match,", "reward = exact_match, format = text,");
    fs::create_dir_all(bench.path("models/small")).expect("a folder");
    for output in [dry(&[]), check(&bench, &[]), bench.run(&[])] {
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_says(&text(&output), &["error[model]: there is no folder", "did you mean `./models/small`?"]);
        assert!(!text(&output).contains("would fetch it from the hub"), "{}", text(&output));
    }
}

/// A number of prompts that exceeds the file's is reported.
#[test]
fn more_prompts_than_there_are_is_said() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "  samples     = 2", "  prompts     = 50\n  samples     = 2");
    bench.edit("tiny.mopd", "  prompts   = 8", "  prompts   = 40");
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_says(
        &text(&output),
        &[
            "`student`: `prompts = 40` in a step, but its data has 16 rows: some rows are used several \
            times in one step",
            "`tiny table`: the table needs 50 test prompts of `copy`, which has 4",
        ],
    );
}

/// The number of steps in an epoch is known only when the data is read.
#[test]
fn a_schedule_that_outlasts_its_epochs_is_said() {
    let bench = Bench::new();
    let rate = "  steps     = 6\n  lr        = 1e-3";
    bench.edit(
        "tiny.mopd",
        rate,
        "  steps     = 2 epochs\n  lr        = warmup(100, linear(1e-3 -> 0, over: 50 steps))",
    );
    let late = "`student`: the stage ends before this schedule does: the learning rate goes on to step 100, and its \
                epochs are 4 steps";
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_says(&text(&output), &[late, "`mopd explain unfinished-schedule`"]);
    // The comment of a warning of the checker silences that of a run.
    let rate = "  lr        = warmup(100";
    bench.edit(
        "tiny.mopd",
        rate,
        &format!("  // allow(unfinished-schedule): the beginning of a run\n{rate}"),
    );
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        !text(&output).contains("the stage ends") && !text(&output).contains("unused-allow"),
        "{}",
        text(&output)
    );
    bench.edit("tiny.mopd", "warmup(100, linear(1e-3 -> 0, over: 50 steps))", "warmup(3, linear(1e-3 -> 0))");
    let output = bench.run(&[]);
    assert!(output.status.success() && !text(&output).contains("the stage ends"), "{}", text(&output));
}

/// The same for numbers beside the learning rate: the weight of a composed teacher, and that of a divergence.
#[test]
fn schedules_of_teachers_and_divergences_that_outlast_their_epochs_are_said() {
    let bench = Bench::new();
    bench.write(
        "tiny.mopd",
        &super::source("use std.gkd.gkd", "gkd(beta: linear(0.1 -> 0.5, over: 50 steps))"),
    );
    bench.edit("tiny.mopd", "  steps     = 6", "  steps     = 2 epochs");
    bench.edit(
        "tiny.mopd",
        "route { for d in domains: domain == d -> specialist[d] }",
        "teacher both = logits(specialist[copy]) + w * logits(specialist[last]) where w = linear(0 -> 1, over: 40 \
         steps)\nroute { else -> both }",
    );
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    for number in ["a number of the objective goes on to step 50", "a teacher's weight goes on to step 40"] {
        assert_says(&text(&output), &[&format!("the stage ends before this schedule does: {number}")]);
    }
}

/// Started from another folder, a run does not find what it has.
#[test]
fn a_store_of_another_folder_is_named() {
    let bench = Bench::new();
    let first = bench.run(&[]);
    assert!(
        first.status.success()
            && !text(&first).contains(
                "in this folder has no \
        stage"
            ),
        "{}",
        text(&first)
    );
    fs::create_dir(bench.path("elsewhere")).expect("a folder");
    let from_there = || {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(bench.path("elsewhere")).args(["run", "../tiny.mopd"]).stdin(Stdio::null());
        command.output().expect("mopd starts")
    };
    let output = from_there();
    assert!(output.status.success(), "{}", text(&output));
    let folder = fs::canonicalize(bench.path("")).expect("a folder");
    let store = folder.join(".mopd/store");
    let says = format!(
        "warning: .mopd/store in this folder has no stage of this run, but {} has 6 of its 6: run the \
        command from {} to use them",
        store.display(),
        folder.display()
    );
    assert_says(&text(&output), &[&says]);
    // Now this folder's store has stages.
    let again = from_there();
    assert!(
        again.status.success()
            && !text(&again).contains(
                "in this folder has no \
        stage"
            ),
        "{}",
        text(&again)
    );
}

fn count(said: &str, what: &str) -> usize {
    said.matches(what).count()
}

#[test]
fn a_constant_reward_is_said_once_while_it_trains() {
    let bench = Bench::new();
    judged(&bench, JUDGE);
    bench.edit("tiny.mopd", "steps = 4, prompts = 4", "steps = 45, prompts = 4");
    let output = bench.run(&["--out", "out"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let warning = "warning: `expert[copy]` (seed 1), step 19: every completion of `copy` in the last 20 steps had \
                   the reward 0.5";
    assert_eq!(count(&said, warning), 1, "{said}");
    assert_eq!(count(&said, "the reward does not depend on the completion"), 1, "{said}");
    // Unchanged weights are not reported in addition, because the reason was.
    assert_eq!(count(&said, "no weight of the student changed"), 0, "{said}");
    // The student's rewards are reported, but it is not trained on them.
    assert_eq!(count(&said, "`student`, step"), 0, "{said}");
}

#[test]
fn a_student_that_stopped_changing_is_said_once() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "target = answer, steps = 20", "target = answer, steps = 60");
    bench.edit("tiny.mopd", "param start_lr: real = 3e-3", "param start_lr: real = 1e-30");
    let output = bench.run(&["--out", "out"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(count(&said, "no weight of the student changed in the last 20 updates"), 1, "{said}");
    assert_says(&said, &["warning: `start` (seed 1), step 20: no weight", "raise `lr`"]);
}

/// An error in the last stage is found before the first one is trained. The models that a check tries have
/// entropies that are too small for it.
#[test]
fn a_trial_that_fails_is_said_before_the_first_stage() {
    let bench = Bench::new();
    let objective = "objective endless {
  term t = live kl(student || teacher) * exp(exp(1.25 * student.entropy))
  reduce = mean(token) then mean(sequence)
}";
    bench.write("tiny.mopd", &super::source(objective, "endless"));
    let said = bench.fails(&["--predict", "full"]);
    let trial = said.find("warning: the trial of `student` failed: the term `t` is not finite").expect(&said);
    assert!(trial < said.find("start: finished").expect("it is said"), "{said}");
    assert!(trial < said.find("error[non-finite]: the term `t` is not finite").expect(&said), "{said}");
}

/// The output of `mopd plan --why`: a line for each stage.
fn why(bench: &Bench) -> String {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(["plan", "--why", "tiny.mopd"]).stdin(Stdio::null());
    text(&command.output().expect("mopd starts"))
}

#[test]
fn a_plan_says_what_a_run_would_keep_and_why_it_trains_the_rest() {
    let bench = Bench::new();
    let breaks =
        "    import os\n    if os.path.exists('broken') and request['id'] > 2: sys.exit(1)\n    print(";
    judged(&bench, &JUDGE.replace("    print(", breaks));
    assert_says(
        &why(&bench),
        &["start", "trained: no earlier run has a stage of this name and seed", "rerun"],
    );
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let said = why(&bench);
    assert!(!said.contains("trained"), "{said}");
    assert_says(&said, &["nothing to rerun"]);
    // An edited verifier: the stages that use it, and the stages that depend on those.
    bench.edit("judge.py", "0.5", "0.25");
    let said = why(&bench);
    let of = |name: &str| {
        said.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {said}"))
            .to_owned()
    };
    assert!(of("start").ends_with("kept") && of("expert[last]").ends_with("kept"), "{said}");
    assert_says(
        &of("expert[copy]"),
        &["trained: `judge.py` of the reward of `copy` changed (against runs/tiny)"],
    );
    assert_says(&of("student"), &["`judge.py` of the reward of `copy` changed", "`expert[copy]` is trained"]);
    // A changed setting of the experts: the student depends on them, with its own settings unchanged.
    bench.edit("judge.py", "0.25", "0.5");
    bench.edit("tiny.mopd", "lr = 1e-3", "lr = 2e-3");
    let said = why(&bench);
    let of = |name: &str| said.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
    assert_says(&of("expert[last]"), &["trained: its settings changed: lr 0.001 -> 0.002"]);
    let student = of("student");
    assert_says(&student, &["trained: `expert[copy]` is trained; `expert[last]` is trained (against runs/"]);
    bench.edit("tiny.mopd", "lr = 2e-3", "lr = 1e-3");
    bench.edit("judge.py", "0.5", "0.25");
    // A run that ends early with the edited verifier does not hide the change.
    bench.write("broken", "");
    bench.fails(&[]);
    assert_says(&why(&bench), &["`judge.py` of the reward of `copy` changed (against runs/tiny)"]);
    fs::remove_file(bench.path("broken")).expect("removable");
    // A changed setting, and changed rows of a domain.
    bench.edit("judge.py", "0.25", "0.5");
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 7");
    bench.edit("last.jsonl", "\"answer\": \"b\"", "\"answer\": \"c\"");
    let said = why(&bench);
    let of = |name: &str| said.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
    assert_says(&of("start"), &["trained: the data of `last` changed"]);
    assert_says(&of("student"), &["its settings changed: steps 6 -> 7; the data of `last` changed"]);
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_says(&why(&bench), &["nothing to rerun"]);
}

#[test]
fn a_model_that_is_larger_than_the_memory_is_refused_at_once() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "layers = 1, width = 32, heads = 2", "layers = 400, width = 16384, heads = 128");
    let began = std::time::Instant::now();
    let said = bench.fails(&["--format", "json"]);
    assert_says(&said, &["\"kind\":\"memory\"", "`base` cannot fit in memory: its weights alone are", "GiB"]);
    assert_says(&said, &["take a smaller model", "model base"]);
    assert!(!said.contains("stage_started") && began.elapsed().as_secs() < 60, "{said}");
}

/// A step of millions of sequences is tried with a thousand, in bounded time and memory. One of a billion is
/// refused without a trial, and so by a dry run.
#[test]
fn a_step_of_too_many_sequences_is_refused_before_it_begins() {
    let bench = Bench::new();
    let experiment = |setting: &str| {
        let student = format!(
            "model student = sft(base, on: copy) {{ target = answer, steps = 2, lr = 1e-3, {setting} }}"
        );
        let head = "experiment \"tiny\" { seed = 1 }\n\
            domain copy { prompts = \"copy.jsonl\", reward = exact_match }\n\
            model base = llama { layers = 1, width = 128, heads = 8, context = 24, tokenizer = bytes }\n";
        bench.write("tiny.mopd", &format!("{head}{student}\n"));
    };
    let refused = "`student` cannot fit in memory: ";
    let plan = || {
        let mut plan = Command::new(mopd_tests::mopd());
        plan.current_dir(bench.folder.path()).args(["plan", "--predict", "tiny.mopd"]);
        let planned = text(&plan.output().expect("mopd starts"));
        assert_says(&planned, &["a run on this machine would be refused", refused, "lower `batch = "]);
    };
    experiment("batch = 20_000_000, micro_batch = 8");
    let said = bench.fails(&["--format", "json", "--predict=full"]);
    assert_says(&said, &["\"kind\":\"memory\"", refused, "lower `batch = 20000000`"]);
    assert!(!said.contains("stage_started"), "{said}");
    experiment("batch = 20_000_000");
    plan();
    experiment("batch = 1_000_000_000");
    plan();
    let alone = "its 1000000000 sequences of a step, without their tokens, alone are";
    for arguments in [&[][..], &["--dry-run"]] {
        assert_says(&bench.fails(arguments), &[refused, alone, "lower `batch = 1000000000`"]);
    }
}

/// The memory that loaded models need follows from their configurations, without a read of their weights:
/// where one is trained, where it writes, and where a table asks it.
#[test]
fn a_dry_run_knows_the_memory_of_loaded_models() {
    let bench = Bench::new();
    fs::create_dir(bench.path("large")).expect("a folder");
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
        "intermediate_size": 65536, "num_hidden_layers": 400, "num_attention_heads": 128, "vocab_size": 128256,
        "num_key_value_heads": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false}"#;
    bench.write("large/config.json", config);
    bench.write("large/model.safetensors", "");
    let base = "model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }";
    let whole = fs::read_to_string(bench.path("tiny.mopd")).expect("an experiment");
    let large = format!("{base}\nmodel large = checkpoint(\"large\")");
    let writes = "rollout   = from(large, sequences: 8, temperature: 1.0, max_tokens: 6)";
    let cases: [(&[(&str, &str)], &str); 3] = [
        (
            &[(base, "model base  = checkpoint(\"large\")")],
            "`start` cannot fit in memory: its trained weights with gradients and moments alone are",
        ),
        (
            &[(base, &large), ("models      = [start,", "models      = [large, start,")],
            "`large` cannot fit in memory: its weights alone are",
        ),
        (
            &[
                (base, &large),
                ("rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)", writes),
                ("  prompts   = 8", "  batch     = 8"),
            ],
            "`student` cannot fit in memory: the weights of `large`, which writes for it, alone are",
        ),
    ];
    for (changes, says) in cases {
        for (from, to) in changes {
            bench.edit("tiny.mopd", from, to);
        }
        let output = bench.run(&["--dry-run"]);
        assert_eq!(output.status.code(), Some(1), "{says}: {}", text(&output));
        assert_says(&text(&output), &[says, "are available"]);
        // The plan may be for another machine.
        assert!(!text(&check(&bench, &[])).contains("memory"), "{}", text(&check(&bench, &[])));
        bench.write("tiny.mopd", &whole);
    }
}

/// Two runs of one text with different reward programs are two experiments: their scores can't be compared.
#[test]
fn runs_with_other_rewards_and_data_are_not_the_same_experiment() {
    let bench = Bench::new();
    judged(&bench, JUDGE);
    bench.tables("before", &[]);
    bench.edit("judge.py", "0.5", "1.0");
    bench.edit("last.jsonl", "\"answer\": \"b\"", "\"answer\": \"c\"");
    bench.tables("after", &[]);
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(["compare", "before", "after"]).stdin(Stdio::null());
    let said = text(&command.output().expect("mopd starts"));
    let meaning = [
        "before -> after: the same plan with different data or reward files",
        "domain `last`: different data in `prompts`",
        "domain `copy`: different reward files: judge.py",
        "the rewards differ, so differences there and over all domains do not compare the models: copy",
    ];
    assert_says(&said, &meaning);
    // All four answers improve by 0.5; at most a share of 0.6 of unseen prompts may differ.
    let start = said.lines().find(|line| line.starts_with("| start")).expect("a row");
    assert!(start.contains("| +0.50 [-0.40, +0.80]   |"), "{said}");
}

/// A teacher and a reference need room for the longest sequence of the stage, not for all that the student
/// could read.
#[test]
fn a_scorer_needs_room_for_the_longest_sequence() {
    let bench = Bench::new();
    let program = |context: u32, role: &str| {
        let model = |name: &str, context: u32| {
            format!(
                "model {name} = llama {{ layers = 1, width = 32, heads = 2, context = {context}, tokenizer = bytes }}\n"
            )
        };
        format!(
            "use std.opd.mopd\nexperiment \"tiny\" {{ seed = 1 }}\n\
             domain copy {{ prompts = \"copy.jsonl\", reward = exact_match }}\n{}{}teacher big = other {{ origin = foreign }}\n\
             route {{ else -> big }}\nmodel student = {role}",
            model("base", 64),
            model("other", context)
        )
    };
    let taught = "distill(base) { objective = mopd, rollout = sample(n: 1, temperature: 1, max_tokens: 6), \
                  prompts = 2, steps = 1, lr = 1e-3 }\n";
    // The longest prompt has 10 bytes, and its first token.
    bench.write("tiny.mopd", &program(17, taught));
    let output = bench.run(&["--out", "fits"]);
    assert!(output.status.success(), "{}", text(&output));
    bench.write("tiny.mopd", &program(16, taught));
    let said = bench.fails(&["--out", "short"]);
    let parts = [
        "copy.jsonl:",
        "the prompt takes 11 tokens and its completion up to 6, the context of the teacher `big` is 16",
        "set `context = 17` or more, or `max_tokens = 5` or less",
    ];
    assert_says(&said, &parts);
}

/// The context of a model that is loaded from its files is known before a run, as is that of a new one.
#[test]
fn contexts_of_loaded_models_are_checked_with_the_files() {
    let bench = Bench::new();
    assert!(bench.run(&["--out", "made"]).status.success());
    let program = |max_tokens: u32| {
        format!(
            "experiment \"tiny\" {{ seed = 1 }}\n\
             domain copy {{ prompts = \"copy.jsonl\", tests = \"copy.test.jsonl\", reward = exact_match }}\n\
             model made = checkpoint(\"made/models/student-seed1\")\n\
             compare \"made\" {{ models = [made], samples = 1, temperature = 1.0, max_tokens = {max_tokens} }}\n"
        )
    };
    bench.write("tiny.mopd", &program(4));
    assert!(check(&bench, &[]).status.success(), "{}", text(&check(&bench, &[])));
    bench.write("tiny.mopd", &program(500));
    let parts = ["its completion up to 500", "context"];
    assert_says(&bench.fails(&["--out", "long"]), &parts);
    let output = check(&bench, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output), &parts);
}

/// Matrices that only other architectures have.
#[test]
fn an_adapter_of_matrices_that_the_model_lacks_is_refused() {
    let bench = Bench::new();
    bench.write(
        "tiny.mopd",
        "experiment \"adapted\" { seed = 1 }
domain copy { prompts = \"copy.jsonl\", reward = exact_match }
model base = llama { layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }
model adapted = sft(base, on: domains) {
  adapter = lora(rank: 2, alpha: 4, targets: [query, delta_gate])
  target = answer, steps = 1, batch = 2, lr = 1e-3
}
",
    );
    let said = "an adapter of `delta_gate`, but the model has no matrix `in_proj_z`";
    assert_says(&bench.fails(&[]), &[said]);
    assert_says(&text(&check(&bench, &[])), &[said]);
}

/// PEFT adapts what checkpoints store.
#[test]
fn an_adapter_of_a_part_of_a_stored_matrix_is_refused() {
    let bench = Bench::new();
    let folder = crate::families::loaded("phi3");
    bench.write(
        "tiny.mopd",
        &format!(
            "experiment \"adapted\" {{ seed = 1 }}
domain copy {{ prompts = \"copy.jsonl\", reward = exact_match }}
model base = checkpoint(\"{}\")
model adapted = sft(base, on: domains) {{
  adapter = lora(rank: 2, alpha: 4, targets: [query, value, output])
  target = answer, steps = 1, batch = 2, lr = 1e-3
}}
",
            folder.path().display()
        ),
    );
    let said = "an adapter of `query`, `value`, but the model stores `query`, `key`, `value` as one matrix \
                `qkv_proj`";
    assert_says(&bench.fails(&[]), &[said]);
    assert_says(&text(&check(&bench, &[])), &[said]);
}
