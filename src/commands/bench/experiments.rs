//! Generated experiments of any length for measurements, always the same.

use std::fmt::Write as _;

/// An experiment of at least this many lines without errors.
pub fn experiment(lines: usize) -> String {
    let mut text = String::from(HEAD);
    let count = DOMAINS.len();
    for (name, reward) in DOMAINS {
        let _ = write!(
            text,
            "domain {name} {{\n  prompts = \"data/{name}.train.jsonl\"\n  tests   = \
             \"data/{name}.test.jsonl\"\n  reward  = {reward}\n  share   = 1/{count}\n}}\n"
        );
    }
    text += MODELS;
    let mut written = text.lines().count();
    let mut number = 0;
    while written < lines {
        let ablation = ablation(number);
        written += ablation.lines().count();
        text += &ablation;
        number += 1;
    }
    text
}

/// [`experiment`] with five mistakes of five kinds, far from each other.
pub fn experiment_with_five_errors(lines: usize) -> String {
    let mut text = experiment(lines);
    let places = text.len() / MISTAKES.len();
    for (turn, (right, wrong)) in MISTAKES.iter().enumerate() {
        let from = text.ceil_char_boundary(turn * places);
        let behind = text[from..].find(right).map(|at| from + at);
        if let Some(at) = behind.or_else(|| text.find(right)) {
            text.replace_range(at..at + right.len(), wrong);
        }
    }
    text
}

/// Correct text, and a typical mistake in it: a word, a unit, an argument, an incomplete reduction, a name.
const MISTAKES: [(&str, &str); 5] = [
    ("tokenizer = bytes", "tokenizer = byte"),
    ("-bound, bound)", "-bound, reward)"),
    ("mopd(clip_at: 5)", "mopd(clipat: 5)"),
    ("mean(token) then mean(sequence)", "mean(token)"),
    ("max_tokens: longest)", "max_tokens: longst)"),
];

const DOMAINS: &[(&str, &str)] = &[
    ("algebra", "numeric(tolerance: 0.001)"),
    ("geometry", "numeric(tolerance: 0.001)"),
    ("number_theory", "exact_match"),
    ("competition_code", "command(\"python3 verify.py --tests\", time_limit: 10, batch: 64)"),
    ("repair_code", "command(\"python3 verify.py --patch\", time_limit: 60, batch: 16)"),
    ("instructions", "regex(\"^(yes|no)\")"),
    ("science", "exact_match"),
    ("tool_use", "command(\"python3 tools.py\", time_limit: 30, batch: 32)"),
];

const HEAD: &str = r#"//! Eight specialists, one student, and what each part of the objective is worth.
//!
//! The route sends every domain to its own specialist; the ablations below change one thing at a time.

use std.opd.mopd
use std.baselines.{mix_rl, cascade_rl}

experiment "eight specialists" { seed = 1 }

"#;

const MODELS: &str = r#"
model base  = llama { layers = 4, width = 256, heads = 8, key_value_heads = 2, context = 512, tokenizer = bytes }
model start = sft(base, on: domains) { target = demonstration, steps = 500, batch = 96, lr = warmup(20, then: cosine(3e-3 -> 3e-4)) }

// One budget rule for everyone, and one learning rate.
let rate     = warmup(10, then: linear(1e-3 -> 0))
let rl_steps = 60
let longest  = 128

/// One specialist per domain, each from the same checkpoint.
model expert[d in domains] = grpo(start, on: d) { steps = rl_steps, prompts = 16, samples = 8, max_tokens = longest, lr = rate }

teacher specialist[d in domains] = expert[d]

route { for d in domains: domain == d -> specialist[d] }

model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: longest)
  prompts   = 24
  steps     = 160
  lr        = rate
}

compare "specialists and student" {
  models = [
    start,
    expert,
    student,
    mix_rl(start, steps: 8 * rl_steps, prompts: 16, samples: 8, max_tokens: longest, lr: rate),
    cascade_rl(start, steps: rl_steps, prompts: 16, samples: 8, max_tokens: longest, lr: rate),
  ]
  score       = normalized(zero: start, one: expert)
  samples     = 4
  temperature = 1.0
  max_tokens  = longest
  seeds       = 3
}
"#;

/// One ablation: an objective of its own, the student trained with it, and its row in a table.
fn ablation(number: usize) -> String {
    let bound = 2 + number % 7;
    let share = 5 + number % 19 * 5;
    format!(
        r#"
/// Ablation {number}: the advantage of the specialist, {share}% of it from the reward, clipped at {bound}
/// nats.
objective ablated_{number}(bound: nats = {bound}, share = {share}%) {{
  let gap      = clip(teacher.logp - student.logp, -bound, bound)
  let fair     = zscore(reward, over: group, deviation: sample)
  weight       = 1 - share + share * fair
  term distill = -gap * live student.logp // the sampled token alone
  reduce       = mean(token) then mean(sequence)
}}

model student_{number} = distill(start) {{
  objective = ablated_{number}(bound: {bound})
  rollout   = sample(n: 4, temperature: 1.0, max_tokens: longest)
  prompts   = 24
  steps     = 160
  lr        = rate
}}

compare "ablation {number}" {{ models = [start, student, student_{number}], samples = 4, temperature = 1.0, max_tokens = longest, seeds = 1 }}
"#
    )
}

#[cfg(test)]
mod tests {
    use mopd_lang::Analysis;
    use mopd_lang::source::SourceFile;

    use super::*;
    use crate::host;

    fn check(text: String) -> Analysis {
        mopd_lang::analyse(SourceFile { path: "a.mopd".to_owned(), text }, &host::standard)
    }

    #[test]
    fn generated_experiment_has_the_requested_length_and_no_errors() {
        for lines in [500, 5_000] {
            let text = experiment(lines);
            let written = text.lines().count();
            assert!((lines..lines + 30).contains(&written), "{written}");
            let messages: Vec<String> =
                check(text).diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect();
            assert_eq!(messages, [""; 0]);
        }
        // Users' files are usually formatted.
        assert_eq!(mopd_lang::fmt::format(&experiment(500)).text, experiment(500));
    }

    #[test]
    fn five_mistakes_are_five_errors() {
        let found = check(experiment_with_five_errors(500)).diagnostics;
        let mut codes: Vec<&str> = found.iter().map(|diagnostic| diagnostic.code.name()).collect();
        codes.sort();
        codes.dedup();
        assert_eq!((found.len(), codes.len()), (5, 5), "{found:?}");
    }
}
