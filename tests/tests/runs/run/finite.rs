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

/// A run of two steps with an objective, and what it says.
fn ran(objective: &str) -> (bool, String) {
    let bench = Bench::new();
    let model = |name: &str, width: u32| {
        format!(
            "model {name} = llama {{ layers = 1, width = {width}, heads = 2, context = 48, tokenizer = bytes }}\n"
        )
    };
    let text_of = format!(
        "experiment \"finite\" {{ seed = 1 }}\n\
         domain copy {{ prompts = \"copy.jsonl\", reward = exact_match, format = text }}\n{}{}\
         teacher guide = wide {{ origin = foreign }}\nroute {{ else -> guide }}\n\
         objective o {{\n{objective}\n}}\n\
         model student = distill(base) {{ objective = o, rollout = sample(n: 2, temperature: 1, max_tokens: 4), \
         prompts = 4, steps = 3, lr = 1e-3 }}\n",
        model("base", 16),
        model("wide", 32)
    );
    bench.write("tiny.mopd", &text_of);
    let output = bench.run(&["--out", "out"]);
    (output.status.success(), text(&output))
}

/// The first token has position 0. Whatever leaves it out keeps its infinite value out of loss and gradient.
#[test]
fn what_a_condition_leaves_out_may_be_infinite() {
    let reduce = "reduce = mean(token) then mean(sequence)";
    for objective in [
        "term t = (student.logp - teacher.logp) / position * live student.logp { when = position > 0 }",
        "select = position > 0\nterm t = (student.logp - teacher.logp) / position * live student.logp",
        "select = position > 0\nweight = 1 / position\nterm t = (student.logp - teacher.logp) * live student.logp",
        "term t = (student.logp - teacher.logp) * where(position > 0, live student.logp / position, 0)",
    ] {
        let (done, said) = ran(&format!("{objective}\n{reduce}"));
        assert!(done, "{objective}: {said}");
    }
}

#[test]
fn a_run_stops_where_the_denominator_of_its_loss_is_0() {
    let (done, said) = ran("state b = 1 then b - 1\nterm t = live kl(student || teacher)\n\
                            reduce = sum(token, over: batch) / b");
    assert!(!done, "{said}");
    assert_says(
        &said,
        &["the denominator of the loss is 0 at this step", "it must be above 0 at every step"],
    );
}
