//! The experiment that is measured: generated source text and its prompts.

use std::fmt::Write as _;
use std::path::Path;

use mopd_plan::Dtype;

use crate::args::{BenchDistillArgs, DistillObjective};
use crate::host;
use crate::problem::Problem;

/// The stage that is measured, and the file of prompts beside the source.
pub const STAGE: &str = "learner";
pub const PROMPTS: &str = "prompts.jsonl";

/// More than a short run needs: no prompt is used twice.
const LEAST_PROMPTS: u32 = 64;

/// The source. Every teacher has a domain of its own and an equal share of the prompts.
pub fn source(arguments: &BenchDistillArgs) -> Result<String, Problem> {
    let BenchDistillArgs { batch, new, steps, .. } = arguments;
    let dtype = Dtype::from(arguments.dtype).name();
    let objective = match arguments.objective {
        DistillObjective::Full => "mopd_full",
        DistillObjective::TopK => "mopd_top_k",
        DistillObjective::Sampled => "mopd",
    };
    let format = if arguments.chat { "chat" } else { "text" };
    let count = arguments.teachers.len();
    let mut text = format!(
        "use std.opd.{objective}\n\nexperiment \"bench distill\" {{ seed = 1, dtype = {dtype} }}\n\n"
    );
    let mut line = |line: String| _ = writeln!(text, "{line}");
    for index in 0..count {
        line(format!(
            "domain d{index} {{ prompts = \"{PROMPTS}\", format = {format}, reward = exact_match, share = \
             1/{count} }}"
        ));
    }
    line(format!("\nmodel start = hf({})", quoted(&arguments.student)?));
    for (index, teacher) in arguments.teachers.iter().enumerate() {
        line(format!("model guide{index} = hf({})", quoted(teacher)?));
    }
    for (index, teacher) in arguments.teachers.iter().enumerate() {
        // Only the cost is measured, not the quality. A copy of the student is not a foreign teacher.
        let (allowed, origin) = match quoted(teacher)? == quoted(&arguments.student)? {
            true => ("", ""),
            false => ("// allow(foreign-teacher): only its cost is measured\n", " { origin = foreign }"),
        };
        line(format!("{allowed}teacher t{index} = guide{index}{origin}"));
    }
    line("route {".to_owned());
    for index in 0..count {
        line(format!("  domain == d{index} -> t{index}"));
    }
    line(format!("}}\n\nmodel {STAGE} = distill(start) {{\n  objective = {objective}()"));
    line(format!("  rollout   = sample(n: 1, temperature: 1.0, max_tokens: {new})"));
    line(format!("  prompts   = {batch}\n  steps     = {steps}\n  lr        = 1e-6"));
    if let Some(rank) = arguments.lora {
        line(format!(
            "  adapter   = lora(rank: {rank}, alpha: {}, targets: [attention, feed_forward])",
            2 * rank
        ));
    }
    if let Some(size) = arguments.micro_batch {
        line(format!("  micro_batch = {size}"));
    }
    if let Some(layers) = &arguments.checkpointing {
        line(format!("  checkpointing = {layers}"));
    }
    line("}".to_owned());
    Ok(text)
}

/// Prompts of small sums, all of about the same length.
pub fn prompts(arguments: &BenchDistillArgs) -> String {
    let mut state = 7u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        100 + (state >> 33) as i64 % 900
    };
    let mut text = String::new();
    for _ in 0..arguments.batch.saturating_mul(arguments.steps).max(LEAST_PROMPTS) {
        let (a, b, c) = (number(), number(), number());
        let question = format!("State the final answer to: {a} + {b} - {c}");
        let _ = writeln!(text, r#"{{"prompt": "{question}", "answer": "{}"}}"#, a + b - c);
    }
    text
}

/// A path, made independent of the experiment's folder, or a name on the hub, as a text of the language.
fn quoted(model: &str) -> Result<String, Problem> {
    let path = Path::new(model);
    let absolute = path.is_absolute() || model.starts_with('.') || path.is_dir();
    let named = if absolute {
        host::as_text(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))?
    } else {
        model.to_owned()
    };
    Ok(format!(
        "\"{}\"",
        named.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t")
    ))
}
