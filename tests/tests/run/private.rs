//! `private_adamw`, from the text to the weights.

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

#[test]
fn what_the_budget_does_not_cover_is_refused_before_anything_is_computed() {
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
    refused("prompts   = 2", "prompts   = 9", &["9 prompts a step are more than a domain has", NOTHING]);
    refused("prompts   = 2", "prompts   = 2\n  passes = 2", &["`private_adamw` with several `passes`"]);
    let replayed = "replay(sample(n: 1, temperature: 1, max_tokens: 4), capacity: 8, share: 0.25)";
    let said = "`private_adamw` with completions that are not drawn anew, prompt by prompt,";
    // Of its own completions, a likelihood alone has no gradient.
    let rewarded = TEXT.replace("-live student.logp", "-reward * live student.logp");
    bench.write("tiny.mopd", &rewarded.replace("data(answer)", replayed));
    assert_says(&bench.fails(&[]), &[said]);
}
