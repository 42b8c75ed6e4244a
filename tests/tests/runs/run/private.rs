//! `private_adamw`, from the text to the weights.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use super::{Bench, assert_says, text};

const TEXT: &str = r#"
experiment "private" { seed = 1 }

domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }

model base = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }

objective imitate {
  term nll = -live student.logp
  reduce   = mean(token) then mean(sequence)
}

model student = distill(base) {
  objective = imitate
  rollout   = data(answer)
  optimizer = private_adamw(clip: 0.5, epsilon: 3, delta: 1e-3)
  prompts   = 2
  steps     = 8
  lr        = 1e-3
}
"#;

const NOTHING: &str = "no stage was finished";

/// The same run gives the same bits, and another budget is another model.
#[test]
fn a_private_run_is_the_same_again_and_its_budget_is_in_its_key() {
    let bench = Bench::new();
    bench.write("tiny.mopd", TEXT);
    let run = |out: &str, arguments: &[&str]| {
        let output = bench.run(&[&["--out", out], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        bench.student(out)
    };
    let first = run("first", &[]);
    assert!(first == run("second", &["--fresh"]));
    bench.edit("tiny.mopd", "epsilon: 3", "epsilon: 4");
    assert!(first != run("third", &[]));
}

/// The seed and the key of a model are in its folder. If the noise could be computed from them, so could the
/// gradient.
#[test]
fn another_store_draws_other_noise() {
    let students = [Bench::new(), Bench::new()].map(|bench| {
        bench.write("tiny.mopd", TEXT);
        let output = bench.run(&["--out", "out"]);
        assert!(output.status.success(), "{}", text(&output));
        let secret = bench.path(".mopd/store/private/secret");
        let mode = fs::metadata(&secret).expect("a secret").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let secret = fs::read(&secret).expect("a secret");
        let files = fs::read_dir(bench.path("out/models/student-seed1")).expect("the model");
        for file in files.map(|file| file.expect("a file").path()).filter(|file| file.is_file()) {
            let bytes = fs::read(&file).expect("a file");
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{}", file.display());
        }
        bench.student("out")
    });
    assert!(students[0] != students[1]);
}

/// The data of a model's file, without its header.
fn numbers(bench: &Bench, model: &str) -> Vec<f32> {
    let file = fs::read(bench.path(&format!("out/models/{model}-seed1/model.safetensors"))).expect("weights");
    let (length, rest) = file.split_first_chunk::<8>().expect("a header's length");
    let data = &rest[u64::from_le_bytes(*length) as usize..];
    data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// After one step that is nearly noise alone: if two budgets shared it, all signs would be the same, and the
/// two models would reveal the gradient.
#[test]
fn two_budgets_draw_independent_noise() {
    let bench = Bench::new();
    let one = TEXT.replace("clip: 0.5", "clip: 1e-6").replace("steps     = 8", "steps     = 1");
    let (experiment, student) = one.split_once("model student").expect("a student");
    let other = format!("model other{}", student.replace("epsilon: 3", "epsilon: 4"));
    bench.write("tiny.mopd", &format!("{experiment}model student{student}{other}"));
    let output = bench.run(&["--out", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let [base, student, other] = ["base", "student", "other"].map(|model| numbers(&bench, model));
    let moved = |place: &usize| student[*place] != base[*place] && other[*place] != base[*place];
    let moved: Vec<usize> = (0..base.len()).filter(moved).collect();
    assert!(moved.len() > 10_000, "{}", moved.len());
    let alike = |place: &&usize| (student[**place] > base[**place]) == (other[**place] > base[**place]);
    let alike = moved.iter().filter(alike).count() as f64 / moved.len() as f64;
    assert!((alike - 0.5).abs() < 0.05, "{alike}");
}

/// Noise and spent budget are in the results, whether the stage was trained or found, and in the plan.
#[test]
fn noise_and_what_is_spent_are_said() {
    let bench = Bench::new();
    bench.write("tiny.mopd", TEXT);
    for out in ["first", "kept"] {
        bench.tables(out, &[]);
        let results: Value =
            serde_json::from_slice(&fs::read(bench.path(out).join("results.json")).expect("results.json"))
                .expect("JSON");
        let [of] = &results["private"].as_array().expect("private stages")[..] else { panic!("one stage") };
        let number = |name: &str| of[name].as_f64().expect("a number");
        assert_eq!((&of["stage"], &of["seed"]), (&"student".into(), &1.into()));
        assert_eq!((number("clip"), number("delta"), number("budget")), (0.5, 1e-3, 3.0));
        // Two of eight rows in each step, for eight steps.
        assert_eq!((number("sampling_rate"), number("steps")), (0.25, 8.0));
        assert!(number("epsilon") <= 3.0 && number("epsilon") > 2.98, "{of}");
        assert!(number("noise_multiplier") > 0.5 && of.get("copies").is_none(), "{of}");
    }
    let plan = Command::new(mopd_tests::mopd())
        .current_dir(bench.folder.path())
        .args(["plan", "tiny.mopd"])
        .output()
        .expect("mopd starts");
    assert!(plan.status.success(), "{}", text(&plan));
    let said = text(&plan);
    let said = said.lines().find(|line| line.starts_with("private student: ")).expect("a line");
    for part in ["noise multiplier ", "8 steps with sampling rate 0.2500", "of 3, delta 1e-3"] {
        assert!(said.contains(part), "{said}");
    }
}

/// One file in two domains: each of its rows is drawn twice as often as the budget of a row assumes.
#[test]
fn a_prompt_in_two_domains_is_warned_of() {
    let bench = Bench::new();
    let one = r#"domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }"#;
    let domain =
        |name: &str| one.replace("domain copy", &format!("domain {name}")).replace(" }", ", share = 1/2 }");
    assert!(TEXT.contains(one));
    bench.write("tiny.mopd", &TEXT.replace(one, &format!("{}\n{}", domain("copy"), domain("twin"))));
    let output = bench.run(&["--out", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "`student`: 16 rows of its data share their prompt with another row, the first of them copy.jsonl:1 of `copy`",
        "The budget of epsilon 3 bounds the privacy loss of one row",
        "(1 in `copy`, 1 in `twin`) together lose up to epsilon",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn insufficient_privacy_budget_is_refused_before_the_run() {
    let bench = Bench::new();
    let refused = |from: &str, to: &str, said: &[&str]| {
        let text = TEXT.replace(from, to);
        assert_ne!(text, TEXT);
        bench.write("tiny.mopd", &text);
        assert_says(&bench.fails(&[]), said);
    };
    refused(
        "epsilon: 3, delta: 1e-3",
        "epsilon: 1e-4, delta: 1e-9",
        &[
            "tiny.mopd:",
            "the privacy budget of epsilon 0.0001",
            "the last of 8 steps",
            "a larger `epsilon`",
            NOTHING,
        ],
    );
    refused("prompts   = 2", "prompts   = 9", &["9 prompts per step are more than a domain has", NOTHING]);
    refused("prompts   = 2", "prompts   = 2\n  passes = 2", &["`private_adamw` with several `passes`"]);
    let replayed = "replay(sample(n: 1, temperature: 1, max_tokens: 4), capacity: 8, share: 0.25)";
    let said = "`private_adamw` with completions that are not sampled anew for each prompt";
    // A bare likelihood of own completions has no gradient, so the objective is weighted by the reward.
    let rewarded = TEXT.replace("-live student.logp", "-reward * live student.logp");
    bench.write("tiny.mopd", &rewarded.replace("data(answer)", replayed));
    assert_says(&bench.fails(&[]), &[said]);
}
