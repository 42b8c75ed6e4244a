//! Tests that any text can be parsed, however deep or broken. The broken texts are made from a sample of the
//! whole notation.

use super::tests::{outline, read, sound};
use crate::diag::Code;

#[test]
fn two_hundred_nested_brackets_of_each_kind_parse() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("f(", ")"),
        ("f(x: ", ")"),
        ("f { a = ", " }"),
        ("a[", "]"),
        ("match { else -> ", " }"),
    ] {
        let text = format!("let x = {}1{}", open.repeat(200), close.repeat(200));
        sound(&text);
    }
}

#[test]
fn deep_nesting_is_reported_once_and_skipped() {
    for deep in [
        "(",
        "[",
        "f(",
        "f { a = ",
        "-",
        "not ",
        "live ",
        "1 + ",
        "2 ^ ",
        "a.b.",
        "for d in domains: ",
        "match { a -> ",
        "match { ",
        "a |> ",
        "f { a = b where c = ",
    ] {
        let text = format!("let x = {}1\nlet z = 1", deep.repeat(5_000));
        let (module, diagnostics) = read(&text);
        assert_eq!(
            diagnostics.first().map(|diagnostic| diagnostic.code),
            Some(Code::NestingTooDeep),
            "{deep}"
        );
        assert_eq!(outline(&module).last().map(String::as_str), Some("let z"), "{deep}");
    }
    let closed = format!("let x = {}1{}\nlet z = 1", "(".repeat(5_000), ")".repeat(5_000));
    let (module, diagnostics) = read(&closed);
    assert_eq!((diagnostics.len(), outline(&module).len()), (1, 2), "{diagnostics:#?}");
    // Siblings do not nest.
    sound(&format!("let x = [{}]", "1 + 2, ".repeat(5_000)));
}

/// A path of any length is one mistake, whose fix is of the whole path. If each part were reported, the time
/// would grow with the square of its length.
#[test]
fn a_path_of_another_language_is_reported_once() {
    let (_, diagnostics) = read(&format!("let x = a{}\nlet y = b::c\n", "::a".repeat(5_000)));
    let fixes: Vec<usize> = diagnostics
        .iter()
        .filter_map(|diagnostic| diagnostic.fix.as_ref())
        .map(|fix| fix.replacement.len())
        .collect();
    assert_eq!(fixes, [10_000, 2], "{}", diagnostics.len());
}

/// Every new line is one form of the notation.
const NOTATION: &str = r#"
template hinted = "{prompt}\n\nHint: {hint}"
template worked(exposure: fraction = 1) = "{prompt}\n{first(solution, exposure)}"
divergence squeezed(u) = u * log(u) - (1 + u) * log((1 + u) / 2)
rollout calibrated = sample(n: 8, temperature: 1, max_tokens: 512)
  |> rewrite("Confidence: {_}" -> "Confidence: {mean(correct, over: group)}")
rollout drafts(n: count = 8) = sample(n: n, temperature: 1, max_tokens: 512)
rollout edits = turns("python3 env.py", at_most: 30, sample(n: 1)) |> keep(correct and reward > 0.5)
  |> retry(until: correct, at_most: 8) |> best(reward, of: 1)
rollout mixed = mix(0.5, refine(by: teacher, of: sample(n: 1), sees: worked),
  replay(sample(n: 1), capacity: 10_000, share: 0.25))
panel duo = debate([big, mid]) { rounds = 2, max_tokens = 16, sees = asked, confidence = integer(0..=100) }
sweep { beta in [0.1, 0.5, 0.9], k in [16, 64] }
eval math500 { prompts = "data/math500.jsonl", reward = numeric, samples = 16,
  metrics = [pass_at(1), pass_at(16), distinct] }
teacher insider = self.ema(0.99) { sees = worked }
teacher insider2(exposure: fraction) = self { sees = worked(exposure) }
teacher late = self.every(100 steps)
teacher far = served("vllm", url: env("TEACHER_URL"), model: "Qwen/Qwen3-32B", answers: top_k(20))
teacher star = logits(dpo) + w * (logits(dpo) - logits(rev)) where w = 15 * tv(dpo, rev) + 1e-3
teacher pool = mixture([a, b], weights: [0.7, 0.3])
teacher region[r in 0..=26] = expert_of(r)
model m = hf("Qwen/Qwen3-0.6B", revision: "main")
model pair = train {
  steps = 1000, prompts = 64, domains = domains, lr = 1e-6
  trains student = start
  trains guide   = start { sees = feedback_template }
  step follow { updates = student, objective = follow(guide),
    rollout = sample(n: 1, temperature: 1, max_tokens: 512) }
  step refine { updates = guide, objective = preference(beta: 0.1), rollout = sample(n: 8), every = 5 }
}
objective o(guide: teacher, duo: panel, stream: rollout, hint: template, k: count = 64) {
  let each[t in duo] = t.logp - student.logp
  let w = match {
    span.answer and not truncated -> 1
    data.kind == "proof"          -> 0.5 @unpublished
    else                          -> 0
  }
  term all[t in duo] = -each[t] * live student.logp { when = correct, weight = w,
    reduce = mean(token), data = stream }
  term far = match { position > 10 -> live jsd(guide, student, beta: 0.5, normalized: true), else -> 0 }
  term blended = live kl(blend(teacher: a, student: 1 - a) || student,
    support: union(top_k(guide, k), nucleus(student, 0.9)), mass: tail)
  reduce = mean(token, over: batch) by domain {
    target = 1/3, follow_gap = 1, clamp = 0.05..=20, observe = true }
}
objective p {
  term x = live nll(teacher)
  reduce = sum(token, over: batch) / sum(w, over: batch)
}
schedule s = piecewise([0 -> 1e-3, 100 -> 1e-4])
schedule t = ladder([1024, 2048], advance_if: mean(student.entropy, over: batch) >= 0.4)
schedule v = linear(1 -> 0, over: 25%)
route {
  domain == math and data.level >= 3 -> insider2(0.5)
  else -> mixture([a, b], weights: equal)
}
model d = distill(start) { objective = dopd(guide: big, insider: self), 
  lr = match { step < 10 -> 0, else -> 1e-6 }, steps = 2 epochs }
"#;

#[test]
fn the_whole_notation_parses() {
    assert_eq!(sound(NOTATION).items.len(), 26);
}

#[test]
fn any_text_can_be_parsed() {
    const SOURCE: &str = include_str!("../../../../examples/quickstart.mopd");
    sound(SOURCE);
    let start = SOURCE.find("model student").expect("the quickstart trains a student");
    let sample = &SOURCE[start - 200..start + 200];
    any_edit_can_be_parsed(sample);
    let start = NOTATION.find("sweep").expect("a sweep");
    any_edit_can_be_parsed(&NOTATION[start..start + 100]);
    let start = NOTATION.find("trains student").expect("two models");
    any_edit_can_be_parsed(&NOTATION[start..start + 140]);
    let start = NOTATION.find("let w = match").expect("a match");
    any_edit_can_be_parsed(&NOTATION[start..start + 200]);
}

fn any_edit_can_be_parsed(sample: &str) {
    let check = |text: &str| {
        let (_, diagnostics) = read(text);
        for diagnostic in diagnostics {
            let span = diagnostic.primary.span;
            assert!(text.get(span.start as usize..span.end as usize).is_some(), "{diagnostic:#?}\n{text}");
        }
    };
    for at in 0..sample.len() {
        check(&sample[..at]);
        check(&sample[at..]);
        for inserted in [
            "(", ")", "]", "{", "}", "\"", "'", "\n", ",", "=", "->", "#", "é", "“", "\u{1}", "\\", "/*",
            "live ", "@", "0x",
        ] {
            check(&format!("{}{inserted}{}", &sample[..at], &sample[at..]));
        }
        check(&format!("{}{}", &sample[..at], &sample[at + 1..]));
    }
}
