//! Rewards of several parts, from the text to the trained weights.

use super::{Bench, assert_says, text};

/// A policy that is paid by one number of the verifier.
fn source(reward: &str, read: &str) -> String {
    format!(
        r#"
experiment "parts" {{ seed = 1 }}

domain copy {{ prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = {reward} }}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 20, batch = 16, lr = 3e-3 }}

objective paid {{
  term policy = -({read} - mean({read}, over: group)) * live student.logp
  reduce      = mean(token) then mean(sequence)
}}

model student = distill(start) {{
  objective = paid
  rollout   = sample(n: 4, temperature: 1, max_tokens: 6)
  prompts   = 4
  steps     = 4
  lr        = 1e-3
}}

compare "parts" {{ models = [start, student], samples = 2, temperature = 1, max_tokens = 6 }}
"#
    )
}

const LETTERS: &str = r#"regex("[a-d]+")"#;

/// What a part says is what its verifier says alone.
#[test]
fn an_objective_reads_one_part() {
    let bench = Bench::new();
    let parts = format!("parts(accuracy: exact_match, letters: {LETTERS}, weights: [0.75, 0.25])");
    bench.write("tiny.mopd", &source(&parts, "reward.letters"));
    let tables = bench.tables("parts", &[]);
    assert_eq!(tables[0]["metric"], "mean reward");
    let of_part = bench.student("parts");
    bench.write("tiny.mopd", &source(LETTERS, "reward"));
    assert_eq!(bench.tables("alone", &[])[0]["metric"], "pass@1");
    assert!(bench.student("alone") == of_part);
    // The sum is another number.
    bench.write("tiny.mopd", &source(&parts, "reward"));
    bench.tables("sum", &[]);
    assert!(bench.student("sum") != of_part);
    // Other weights of parts that nobody sums up are another verifier all the same: what is paid, its key
    // says.
    bench.edit("tiny.mopd", "[0.75, 0.25]", "[0.5, 0.5]");
    let output = bench.run(&["--out", "other", "--format", "json"]);
    let said = text(&output);
    assert!(
        output.status.success() && !said.contains("{\"event\":\"stage_kept\",\"stage\":\"student\""),
        "{said}"
    );
}

#[test]
fn a_program_may_be_a_part() {
    let bench = Bench::new();
    bench.write(
        "judge.py",
        "import json, sys\n\
         for line in sys.stdin:\n    \
             asked = json.loads(line)\n    \
             reward = 1.0 if len(asked['completion']) == 3 else 0.5\n    \
             print(json.dumps({'id': asked['id'], 'reward': reward}), flush=True)\n",
    );
    let parts = r#"parts(accuracy: exact_match, length: command("python3 judge.py"), weights: equal)"#;
    bench.write("tiny.mopd", &source(parts, "reward.length"));
    let score = bench.tables("out", &[])[0]["rows"][0]["scores"]["copy"]["mean"].as_f64().expect("a number");
    // Never less than half of what the program gives at least.
    assert!((0.25..=1.0).contains(&score), "{score}");
    bench.edit("judge.py", "0.5", "2.5");
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["reward command", "judge.py"]);
}
