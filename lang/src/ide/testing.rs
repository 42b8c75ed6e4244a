//! Programs for tests, with a `<CURSOR>` in them.

use std::rc::Rc;

use super::{IdeHost, LibraryModule};
use crate::check::{Analysis, analyse};
use crate::source::SourceFile;

const OPD: &str = "//! Distillation.\n\n/// The sampled token's log-ratio is the advantage.\npub objective \
                   mopd(clip_at: nats = 5) {\n  let advantage = clip(teacher.logp - student.logp, -clip_at, \
                   clip_at)\n  term distill = -advantage * live student.logp\n  reduce = mean(token) then \
                   mean(sequence)\n}\nlet hidden = 1\n";

pub const MODULES: &[(&str, &str)] = &[
    ("opd", OPD),
    ("rl", include_str!("../../../stdlib/rl.mopd")),
    ("sft", include_str!("../../../stdlib/sft.mopd")),
];

/// The text without its cursor, and the cursor's offset.
pub fn cursor(marked: &str) -> (String, u32) {
    let offset = marked.find("<CURSOR>").expect("a cursor");
    (marked.replacen("<CURSOR>", "", 1), offset as u32)
}

pub fn check(text: &str) -> Analysis {
    let load = |path: &str| {
        let name = path.strip_prefix("std:")?.strip_suffix(".mopd")?;
        let (_, text) = MODULES.iter().find(|(module, _)| *module == name)?;
        Some(SourceFile { path: path.to_owned(), text: (*text).to_owned() })
    };
    analyse(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() }, &load)
}

/// A small experiment without mistakes.
pub const GOOD: &str = r#"use std.opd.mopd

experiment "tiny" { seed = 1 }

domain sort { prompts = "sort.jsonl", tests = "sort.jsonl", reward = exact_match, share = 1 }

model base   = llama { layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }
model start  = sft(base, on: domains) { target = demonstration, steps = 2, batch = 2, lr = 1e-3 }
model expert[d in domains] = grpo(start, on: d) {
  steps = 2, prompts = 2, samples = 2, max_tokens = 8, lr = 1e-3
}

teacher one[d in domains] = expert[d]

route { for d in domains: domain == d -> one[d] }

/// How long a completion may get.
let longest = 8

objective mine(k: count = 4) {
  let gap = teacher.logp - student.logp
  term distill = -gap * live student.logp
  reduce = mean(token) then mean(sequence)
}

model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: longest)
  prompts   = 2
  steps     = 2
  lr        = 1e-3
}

compare "tiny" { models = [start, student], samples = 2, temperature = 1.0, max_tokens = longest, seeds = 1 }
"#;

/// Surroundings that have only modules.
impl<F: Fn() -> Vec<LibraryModule>> IdeHost for F {
    fn modules(&self) -> Vec<Rc<LibraryModule>> {
        self().into_iter().map(Rc::new).collect()
    }
}
