//! Numbers of loaded models that are not finite.

use std::fs;

use super::{Bench, assert_says, text};

/// A comparison with NaN is false: unless the log-probabilities are checked, a teacher that returns NaN would
/// give every token the weight 1.
#[test]
fn a_teacher_without_numbers_is_named_before_its_numbers_are_used() {
    let bench = Bench::new();
    let base = "model base = llama { layers = 1, width = 16, heads = 2, context = 24, tokenizer = bytes }\n";
    bench.write("tiny.mopd", &format!("experiment \"base\" {{ seed = 1 }}\n{base}"));
    assert!(bench.run(&["--out", "made"]).status.success());
    let file = bench.path("made/models/base-seed1/model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let numbers = bytes.len() - 4000;
    bytes[numbers..].fill(0xff);
    fs::write(&file, bytes).expect("weights that are NaN");
    let objective = "objective forgiving {\n  weight = where(teacher.logp < -5, 0, 1)\n  \
                     term copy = -live student.logp\n  reduce = mean(token) then mean(sequence)\n}\n";
    let student = "model student = distill(base) { objective = forgiving, rollout = data(answer), prompts = 4, \
                   steps = 2, lr = 1e-3 }\n";
    let domain = "domain copy { prompts = \"copy.jsonl\", tests = \"copy.test.jsonl\", reward = exact_match, format = text }\n";
    let table =
        "compare \"t\" { models = [base, student], samples = 1, temperature = 1.0, max_tokens = 4 }\n";
    bench.write(
        "tiny.mopd",
        &format!(
            "experiment \"broken\" {{ seed = 1 }}\n{domain}{base}model broken = checkpoint(\"made/models/base-seed1\")\n\
             teacher guide = broken {{ origin = foreign }}\nroute {{ else -> guide }}\n{objective}{student}{table}"
        ),
    );
    let output = bench.run(&["--out", "out"]);
    assert!(!output.status.success(), "{}", text(&output));
    assert_says(
        &text(&output),
        &[
            "the log-probability of the token taken, of the teacher `guide`, is not finite for the domain `copy`: first at",
        ],
    );
}
