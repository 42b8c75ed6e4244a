//! Texts of several lines, texts in files, names in texts, files of another folder: each gives the plan of
//! the file in which the same is written out.

use super::Place;

const WRITTEN: &str = r#"
experiment "texts" { seed = 1 }
domain sort    { prompts = "sort.jsonl",    tests = "sort.test.jsonl",    reward = exact_match, share = 1/2 }
domain reverse { prompts = "reverse.jsonl", tests = "reverse.test.jsonl", reward = exact_match, share = 1/2 }
objective near {
  term t = 2 * live kl(student || teacher)
  reduce = mean(token) then mean(sequence)
}
template shown = "Question: {prompt}\n  a \"hint\": {hint}\n\n\\ends here"
model base            = llama { layers = 1, width = 16, heads = 2, context = 128, tokenizer = bytes }
model expert_sort     = sft(base, on: sort) { target = answer, steps = 2, batch = 2, lr = 1e-3 }
model expert_reverse  = sft(base, on: reverse) { target = answer, steps = 2, batch = 2, lr = 1e-3 }
teacher one = expert_sort { sees = shown }
teacher two = expert_reverse { sees = shown }
route { domain == sort -> one, else -> two }
model student = distill(base) {
  objective = near, rollout = sample(n: 1, temperature: 1.0, max_tokens: 8), prompts = 2, steps = 2, lr = 1e-3
}
compare "all" { models = [base, student], samples = 1, temperature = 1, max_tokens = 8 }
"#;

const SHORT: &str = r#"
use "../lab/losses/near.mopd".{near, shown}
experiment "texts" { seed = 1 }
domain sort, reverse { prompts = "{domain}.jsonl", tests = "{domain}.test.jsonl", reward = exact_match, share = 1/2 }
TEMPLATE
model base            = llama { layers = 1, width = 16, heads = 2, context = 128, tokenizer = bytes }
model expert_sort     = sft(base, on: sort) { target = answer, steps = 2, batch = 2, lr = 1e-3 }
model expert_reverse  = sft(base, on: reverse) { target = answer, steps = 2, batch = 2, lr = 1e-3 }
teacher one = expert_sort { sees = shown }
teacher two = expert_reverse { sees = shown }
route { domain == sort -> one, else -> two }
model student = distill(base) {
  objective = near, rollout = sample(n: 1, temperature: 1.0, max_tokens: 8), prompts = 2, steps = 2, lr = 1e-3
}
compare "all" { models = [base, student], samples = 1, temperature = 1, max_tokens = 8 }
"#;

const NEAR: &str = r#"
use parts.weight
pub template shown = file("shown.txt")
pub objective near {
  term t = weight * live kl(student || teacher)
  reduce = mean(token) then mean(sequence)
}
"#;

const IN_LINES: &str = r#"
template shown = """
    Question: {prompt}
      a "hint": \
    {hint}

    \\ends here
    """
"#;

#[test]
fn what_is_written_shorter_has_the_plan_of_what_is_written_out() {
    let place = Place::with(&[
        ("experiments/a.mopd", WRITTEN),
        ("lab/losses/near.mopd", NEAR),
        ("lab/losses/parts.mopd", "pub let weight = 2\n"),
        ("lab/losses/shown.txt", "Question: {prompt}\n  a \"hint\": {hint}\n\n\\ends here\n"),
    ]);
    let plan = |text: &str| {
        place.write("experiments/a.mopd", text);
        let plan = place.mopd(&["plan", "--format", "json", "experiments/a.mopd"]).is(0, &[]).json();
        let keys: Vec<String> =
            plan["stages"].as_array().expect("stages").iter().map(|stage| stage["key"].to_string()).collect();
        (keys, plan["tables"].clone())
    };
    let written = plan(WRITTEN);
    assert_eq!(plan(&SHORT.replace("TEMPLATE\n", "")), written, "a template in a file");
    let own = SHORT.replace("{near, shown}", "near").replace("TEMPLATE\n", IN_LINES);
    assert_eq!(plan(&own), written, "a template of several lines");
    assert_eq!(plan(&own.replace('\n', "\r\n")), written, "lines as Windows ends them");
    // What is in the file is what the student's teachers see.
    place.write("lab/losses/shown.txt", "Question: {prompt} {hint}\n");
    let (keys, _) = plan(&SHORT.replace("TEMPLATE\n", ""));
    let changed: Vec<bool> = keys.iter().zip(&written.0).map(|(new, old)| new != old).collect();
    assert_eq!(changed, [false, false, false, true], "{keys:?}");
    // A mistake in it has its place there.
    place.write("lab/losses/shown.txt", "Question: {prompt}\n{first(hint)}\n");
    let said = place.mopd(&["check", "experiments/a.mopd"]).is(1, &["1 error"]).out;
    assert!(said.contains("shown.txt:2:2"), "{said}");
}
