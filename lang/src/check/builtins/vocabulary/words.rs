//! The words of fixed lists, with types, signals and parts of roles.

use std::borrow::Cow;
use std::sync::LazyLock;

use mopd_experiment::formula::{ModelSignal, PlainSignal, SignalDefinition};

use crate::check::builtins::kinds::{SignalName, Word};

const fn word(name: &'static str, doc: &'static str) -> Word {
    Word { name, doc }
}

const fn signal_name(name: &'static str, shape: &'static str, doc: &'static str) -> SignalName {
    SignalName { name, shape: Cow::Borrowed(shape), doc }
}

impl From<&'static SignalDefinition> for SignalName {
    fn from(signal: &'static SignalDefinition) -> SignalName {
        let shape = format!("{}[{}]", signal.unit.name(), signal.axis.name());
        SignalName { name: signal.name, shape: shape.into(), doc: signal.doc }
    }
}

pub static TOKENIZERS: &[Word] = &[word("bytes", "256 bytes, then begin, end and padding: 259 tokens")];

pub static KEEPS: &[Word] = &[word("all", "every rollout"), word("correct", "only rollouts with reward 1")];

pub static MERGES: &[Word] = &[
    word("average", "the mean of the weights"),
    word("task_arithmetic", "the base plus a scaled sum of differences"),
    word("ties", "differences trimmed to the largest, then merged where their signs agree"),
    word("dare", "differences thinned out at random and rescaled, then summed"),
];

pub static AXES: &[Word] = &[
    word("token", "one number per token"),
    word("block", "one number per block of tokens inside a turn"),
    word("turn", "one number per turn of the student's"),
    word("sequence", "one number per completion"),
    word("group", "one number per prompt, over its samples"),
    word("domain", "one number per domain in the batch"),
    word("batch", "one number per step"),
    word("run", "one number for the whole run"),
];

/// The axes that a number per token can be reduced over: all but the finest.
pub static OVER: &[Word] = AXES.split_at(1).1;

pub static REDUCTIONS: &[Word] =
    &[word("mean", "the mean along an axis"), word("sum", "the sum along an axis")];

pub static DEVIATIONS: &[Word] = &[word("population", "divided by n"), word("sample", "divided by n - 1")];

pub static MASSES: &[Word] = &[
    word("generalized", "each summand gets `- left + right`: student = teacher stays a stationary point"),
    word("renormalized", "both sides divided by their mass on the support"),
    word("tail", "one more entry has the remaining mass"),
    word("raw", "the bare partial sum"),
];

pub static FULL: &[Word] = &[
    word("full", "the whole vocabulary"),
    word("sampled", "the sampled token"),
    word("matched", "entries whose text both vocabularies have"),
    word("unmatched", "entries whose text only one vocabulary has"),
];

pub static DEVICES: &[Word] = &[word("cpu", "CPU"), word("cuda", "NVIDIA GPU")];

pub static DTYPES: &[Word] =
    &[word("float32", "32-bit numbers"), word("bfloat16", "16-bit numbers, master weights in 32")];

pub static ORIGINS: &[Word] = &[
    word("same", "it descends from the student's checkpoint"),
    word("foreign", "it descends from another checkpoint, intentionally"),
];

pub static FORMATS: &[Word] = &[
    word("text", "as they are"),
    word("chat", "as messages of a conversation, by the model's own chat template"),
];

pub static WEIGHTS: &[Word] = &[
    word(
        "attention",
        "attention in every layer, or what a layer has in place of it: projections and their biases",
    ),
    word("feed_forward", "the feed-forward part of every layer, including experts and routers"),
    word("embedding", "the embedding, and the `lm_head` if it is not tied"),
    word("norm", "every normalisation"),
];

pub static PROJECTIONS: &[Word] = &[
    word("attention", "queries, keys, values and the output projection"),
    word("feed_forward", "the three matrices of the feed-forward part"),
    word("gated_delta", "all matrices of the gated delta rule, in layers that have it in place of attention"),
    word(
        "short_conv",
        "both matrices of the short convolution, in layers that have it in place of attention",
    ),
    word("query", "the query projection"),
    word("key", "the key projection"),
    word("value", "the value projection"),
    word("output", "the output projection of attention"),
    word("gate", "the gate projection"),
    word("up", "the up projection"),
    word("down", "the down projection"),
    word("delta_input", "the gated delta rule's projection of queries, keys and values"),
    word("delta_gate", "the gated delta rule's projection of the gate of its output"),
    word("delta_strength", "the gated delta rule's projection of write strengths"),
    word("delta_decay", "the gated delta rule's projection of decays"),
    word("delta_output", "the gated delta rule's output projection"),
    word("conv_input", "the short convolution's projection of gates and inputs"),
    word("conv_output", "the short convolution's output projection"),
];

pub static ALIGNMENTS: &[Word] = &[
    word("positions", "the same tokens at the end of both inputs"),
    word("tokens", "another tokenizer: by the text that tokens stand for"),
    word("shifted", "the teacher predicts the next token where the student fills this one"),
];

pub static REVEALS: &[Word] = &[word("all", "the finished sequence")];

pub static RANGES: &[Word] = &[
    word("unit", "from 0 to 1"),
    word("any", "any finite number; `pass_at` and `calibration` can't be had"),
];

pub static KEPT: &[Word] =
    &[word("rollouts", "the stored completions"), word("prompts", "stored prompts, with new completions")];

pub static BETWEEN: &[Word] =
    &[word("terms", "the terms of the objective"), word("domains", "the completions of each domain")];

pub static CAPABILITIES: &[Word] = &[
    word("dist", "the whole next-token distribution"),
    word("sampled", "the log-probability of the sampled token"),
    word("text", "completions only"),
];

pub static METRICS: &[Word] = &[
    word("distinct", "share of different completions among the samples of a prompt"),
    word("length", "mean number of completion tokens"),
    word("calibration", "how well the confidence that answers state agrees with how often they are right"),
    word("entropy", "mean entropy of the next-token distribution"),
];

pub static BUDGETS: &[Word] = &[
    word("steps", "optimizer steps"),
    word("sequences", "completions trained on"),
    word("tokens", "tokens trained on"),
];

pub static CHARGES: &[Word] = &[
    word("free", "what the teachers spent is not counted"),
    word("charged", "what the teachers spent is counted"),
];

pub static SIMILARITIES: &[Word] =
    &[word("edit", "1 minus the edit distance over the longer length"), word("rouge", "ROUGE-1")];

pub static MISSING: &[Word] =
    &[word("uniform", "a member without a number counts as the mean of the others")];

pub static TYPES: &[Word] = &[
    word("model", "weights: the value of a stage"),
    word("models", "a family or a list of models"),
    word("teacher", "a frozen model in the role of a teacher"),
    word("teachers", "a family or a list of teachers"),
    word("panel", "teachers that discuss a prompt before they score it"),
    word("rollout", "where completions come from"),
    word("environment", "the program or class of Python that replies to a student in turns"),
    word("template", "a text with slots"),
    word("objective", "the loss of a stage"),
    word("reward", "the reward of a completion"),
    word("domain", "a source of prompts"),
    word("domains", "a list of domains"),
    word("text", "a text in quotes"),
    word("bool", "`true` or `false`"),
    word("eval", "a benchmark"),
    word("count", "a whole number"),
    word("counts", "a list of whole numbers"),
    word("fraction", "a number from 0 to 1"),
    word("real", "any number"),
    word("number", "any number"),
    word("nats", "a difference of log-probabilities, an entropy, a divergence"),
    word("ratio", "a quotient of like things"),
    word("logp", "the log of a probability"),
    word("prob", "a probability"),
    word("schedule", "a number or a schedule over the run"),
    word("settings", "settings of a stage, a model or a teacher: `{ lr = 1e-4, steps = 12 }`"),
];

/// The roles and the signals of an objective, in the order of the book.
pub static SIGNALS: LazyLock<Vec<SignalName>> = LazyLock::new(|| {
    let roles = [
        signal_name("student", "role", "The model being trained."),
        signal_name("teacher", "role", "The teacher that the route chose for the prompt."),
        signal_name("reference", "role", "A frozen model that the stage names with `reference = ...`."),
        signal_name(
            "old",
            "role",
            "The student before the first update from the batch, as the trainer scores it, whoever drew the \
             tokens.",
        ),
        signal_name(
            "sampler",
            "role",
            "The policy that generated the tokens, at the temperature it used: its log-probabilities are \
             recorded when it samples.",
        ),
        signal_name(
            "ratio",
            "ratio[token]",
            "`exp(student.logp - old.logp)`: how much likelier the updates from this batch have made the token, \
             1 in the first.",
        ),
    ];
    let domain = signal_name(
        "domain",
        "domain",
        "The domain of the prompt, to compare with: `match { domain == math -> 0.1, else -> 0.2 }`.",
    );
    let (before, after) = PlainSignal::TABLE.split_at(PlainSignal::Position as usize);
    let numbers = |rows: &'static [SignalDefinition]| rows.iter().map(SignalName::from);
    roles.into_iter().chain(numbers(before)).chain([domain]).chain(numbers(after)).collect()
});

/// The parts of a role, which follow a dot.
pub static PARTS: LazyLock<Vec<SignalName>> = LazyLock::new(|| {
    let doc = "The next-token distribution, an argument of divergences only.";
    let distribution = signal_name("dist", "distribution[token]", doc);
    let (before, after) = ModelSignal::TABLE.split_at(ModelSignal::EndLogp as usize);
    let parts = |rows: &'static [SignalDefinition]| {
        rows.iter().filter(|part| !part.doc.is_empty()).map(SignalName::from)
    };
    parts(before).chain([distribution]).chain(parts(after)).collect()
});

/// The usual spans, which follow `span.`
pub static SPANS: &[SignalName] = &[
    signal_name("answer", "bool[token]", "Inside the answer."),
    signal_name("think", "bool[token]", "Inside the reasoning."),
    signal_name("tool", "bool[token]", "Inside a tool call."),
    signal_name("final_turn", "bool[token]", "Inside the last turn."),
];
