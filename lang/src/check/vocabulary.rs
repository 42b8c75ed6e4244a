//! The fixed words of the language and what they mean: the settings of every block, the words that a setting or an argument
//! knows, the signals. The checker reads the names, editors the explanations.

use super::functions::{Builtin, Kind};

/// One setting of a block.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Must be written.
    pub required: bool,
    pub takes: Takes,
    /// One sentence.
    pub doc: &'static str,
}

/// What stands in a place: after a key, for an argument.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// A whole number known before the run.
    Count,
    /// A number known before the run.
    Number,
    Truth,
    Text,
    /// A number or a schedule.
    Schedule,
    /// One of a fixed list, written bare.
    Words(&'static [Word]),
    /// The name of a field of the data, written bare.
    Field,
    Model,
    Models,
    /// A domain or a list of them.
    Domains,
    Objective,
    Rollout,
    Reward,
    Optimizer,
    Score,
    Support,
    Role,
    /// `mean(token) then mean(sequence)`
    Reduce,
    /// A number per token, sequence or step.
    Formula,
    /// Part of the language, but not built: never proposed.
    NotYet,
}

/// One word of a fixed list.
#[derive(Debug)]
pub struct Word {
    pub name: &'static str,
    pub doc: &'static str,
}

const fn must(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, required: true, takes, doc }
}

const fn may(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, required: false, takes, doc }
}

const fn word(name: &'static str, doc: &'static str) -> Word {
    Word { name, doc }
}

pub static EXPERIMENT: &[Key] = &[
    must("seed", Takes::Count, "The first seed; a comparison over `n` seeds runs `seed`, `seed + 1`, ..."),
    may("out", Takes::Text, "Folder for results; without it `runs/<experiment>`."),
    may("device", Takes::NotYet, "Where to run."),
    may("dtype", Takes::NotYet, "The numbers that a run computes with."),
];

pub static DOMAIN: &[Key] = &[
    must("prompts", Takes::Text, "JSON lines with a `prompt` field, relative to this file: what is trained on."),
    may("tests", Takes::Text, "Held-out prompts, the same layout: what a `compare` judges on."),
    must("reward", Takes::Reward, "How a completion is judged, from 0 to 1."),
    may("share", Takes::Number, "Share of the prompts where several domains are mixed; all shares add up to 1."),
    may("limits", Takes::NotYet, "Limits of a domain."),
];

pub static COMPARE: &[Key] = &[
    must("models", Takes::Models, "The rows of the table: a list of models and families."),
    may("score", Takes::Score, "How scores are scaled: `normalized(zero: start, one: expert)`."),
    must("samples", Takes::Count, "Completions of each test prompt."),
    must("temperature", Takes::Number, "Of the judged completions; 0 is greedy."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may("seeds", Takes::Count, "How many seeds the whole experiment is run with; 1 if not written."),
    may("prompts", Takes::Count, "Judge on the first so many test prompts only."),
];

pub static LLAMA: &[Key] = &[
    must("layers", Takes::Count, "Number of decoder layers."),
    must("width", Takes::Count, "Width of the residual stream; divides into `heads` heads of even size."),
    must("heads", Takes::Count, "Attention heads."),
    may("key_value_heads", Takes::Count, "Heads of keys and values, shared by groups of heads; `heads` if not written."),
    may("hidden", Takes::Count, "Inner width of SwiGLU; 8/3 of the width, rounded up to a multiple of 32, if not written."),
    must("context", Takes::Count, "Longest sequence, in tokens, prompt and completion together."),
    must("tokenizer", Takes::Words(TOKENIZERS), "How text becomes tokens."),
    may("tied", Takes::Truth, "One matrix for embedding and output; `true` if not written."),
    may("rope_theta", Takes::Number, "Base of the rotary positions; 10,000 if not written."),
    may("norm_epsilon", Takes::Number, "Added to the variance in RMSNorm; 1e-5 if not written."),
    may("initial_deviation", Takes::Number, "Standard deviation of the initial weights; sqrt(2 / (5 width)) if not written."),
];

pub static MERGE: &[Key] = &[
    must("method", Takes::Words(MERGES), "How the weights are put together."),
    may("scale", Takes::Number, "Factor of the merged differences; every method but `average` needs it."),
    may("density", Takes::Number, "`ties`: the fraction of each difference that is kept."),
    may("drop", Takes::Number, "`dare`: the fraction of each difference that is dropped at random."),
];

pub static SFT: &[Key] = &[
    may("target", Takes::Field, "The field of the data to imitate; or write `rollout`."),
    may("rollout", Takes::Rollout, "Imitate the routed teachers' rollouts: `from(teacher, ...)`; or write `target`."),
    may("keep", Takes::Words(KEEPS), "Which rollouts of the teachers are imitated."),
    must("steps", Takes::Count, "Optimiser steps."),
    must("batch", Takes::Count, "Sequences a step."),
    must("lr", Takes::Schedule, "The learning rate: a number or a schedule."),
    may("objective", Takes::Objective, "What is trained on; `std.sft.nll` if not written."),
    may("optimizer", Takes::Optimizer, "`adamw(...)`; its usual values if not written."),
];

pub static GRPO: &[Key] = &[
    must("steps", Takes::Count, "Optimiser steps."),
    must("prompts", Takes::Count, "Prompts a step."),
    must("samples", Takes::Count, "Samples of each prompt: the size of a group."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may("temperature", Takes::Number, "Of the rollouts; 1 if not written."),
    must("lr", Takes::Schedule, "The learning rate: a number or a schedule."),
    may("objective", Takes::Objective, "What is trained on; `std.rl.grpo_loss` if not written."),
    may("optimizer", Takes::Optimizer, "`adamw(...)`; its usual values if not written."),
];

pub static DISTILL: &[Key] = &[
    must("objective", Takes::Objective, "What is trained on, such as `mopd` of `std.opd`."),
    must("rollout", Takes::Rollout, "How the student's own completions are drawn: `sample(...)`."),
    must("prompts", Takes::Count, "Prompts a step."),
    must("steps", Takes::Count, "Optimiser steps."),
    must("lr", Takes::Schedule, "The learning rate: a number or a schedule."),
    may("domains", Takes::Domains, "The domains trained on; all of them if not written."),
    may("optimizer", Takes::Optimizer, "`adamw(...)`; its usual values if not written."),
];

pub static OBJECTIVE: &[Key] = &[
    may("select", Takes::Formula, "Which tokens count: a truth value per token or sequence."),
    may("weight", Takes::Formula, "How much each token counts: a number without gradient."),
    must("reduce", Takes::Reduce, "How tokens and sequences are averaged into one number."),
];

/// The settings of a block: of an item such as `domain`, or of a stage such as `grpo`.
pub fn keys(owner: &str) -> Option<&'static [Key]> {
    Some(match owner {
        "experiment" => EXPERIMENT,
        "domain" => DOMAIN,
        "compare" => COMPARE,
        "objective" => OBJECTIVE,
        "llama" => LLAMA,
        "merge" => MERGE,
        "sft" => SFT,
        "grpo" => GRPO,
        "distill" => DISTILL,
        _ => return None,
    })
}

/// Whether a block may hold a `route` of its own.
pub fn may_route(owner: &str) -> bool {
    matches!(owner, "sft" | "grpo" | "distill")
}

pub fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
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
    word("sequence", "one number per completion"),
    word("group", "one number per prompt, over its samples"),
    word("batch", "one number per step"),
    word("run", "one number for the whole run"),
];

pub static REDUCTIONS: &[Word] = &[word("mean", "the mean along an axis"), word("sum", "the sum along an axis")];

pub static DEVIATIONS: &[Word] = &[word("population", "divided by n"), word("sample", "divided by n - 1")];

pub static MASSES: &[Word] = &[
    word("generalized", "each summand gets `- left + right`: student = teacher stays a stationary point"),
    word("renormalized", "both sides divided by their mass on the support"),
    word("tail", "one more entry holds the rest"),
    word("raw", "the bare partial sum"),
];

pub static FULL: &[Word] = &[word("full", "the whole vocabulary")];

pub static ROUTED_TEACHER: &[Word] = &[word("teacher", "whatever the route chose for the prompt's domain")];

pub static TYPES: &[Word] = &[
    word("model", "weights: the value of a stage"),
    word("models", "a family or a list of models"),
    word("teacher", "a frozen model in the role of a teacher"),
    word("objective", "what a stage is trained on"),
    word("reward", "how a completion is judged"),
    word("domain", "a source of prompts"),
    word("domains", "a list of domains"),
    word("text", "a text in quotes"),
    word("bool", "`true` or `false`"),
    word("count", "a whole number of things"),
    word("fraction", "a number from 0 to 1"),
    word("real", "any number"),
    word("number", "any number"),
    word("nats", "a difference of log-probabilities, an entropy, a divergence"),
    word("ratio", "a quotient of like things"),
    word("logp", "the log of a probability"),
    word("prob", "a probability"),
    word("schedule", "a number or a schedule over the run"),
];

/// A name that an objective sees without declaring it.
#[derive(Debug)]
pub struct SignalName {
    pub name: &'static str,
    /// A role, or unit and axis: `real[sequence]`.
    pub shape: &'static str,
    pub doc: &'static str,
}

const fn seen(name: &'static str, shape: &'static str, doc: &'static str) -> SignalName {
    SignalName { name, shape, doc }
}

pub static SIGNALS: &[SignalName] = &[
    seen("student", "role", "The model being trained."),
    seen("teacher", "role", "Whatever the route chose for the prompt's domain."),
    seen("sampler", "role", "The policy that generated the tokens, at the temperature it used."),
    seen(
        "ratio",
        "ratio[token]",
        "`exp(student.logp - sampler.logp)`: how much likelier the token has become since it was sampled.",
    ),
    seen("reward", "real[sequence]", "The verifier's verdict on the completion."),
    seen("correct", "bool[sequence]", "`reward >= 1`."),
    seen("position", "count[token]", "Index of the token in its completion, from 0."),
    seen("length", "count[sequence]", "Number of completion tokens."),
    seen("truncated", "bool[sequence]", "Whether the completion was cut off before its end token."),
    seen("progress", "fraction[run]", "step / steps, from 0 at the first step towards 1."),
    seen("step", "count[run]", "The step, from 0."),
    seen("vocab_size", "count[run]", "Number of entries of the vocabulary."),
];

/// What follows a role and a dot.
pub static PARTS: &[SignalName] = &[
    seen("logp", "logp[token]", "Log-probability of the token taken."),
    seen("entropy", "nats[token]", "Entropy of the next-token distribution."),
    seen("top1", "prob[token]", "Largest probability of the next-token distribution."),
];

pub fn signal(name: &str) -> Option<&'static SignalName> {
    SIGNALS.iter().find(|signal| signal.name == name)
}

/// What an argument of a built-in function takes.
pub fn takes(builtin: &Builtin, parameter: &str) -> Takes {
    match (builtin.kind, parameter) {
        (Kind::Schedule, "over" | "steps") => Takes::Count,
        (Kind::Schedule, "then") => Takes::Schedule,
        (Kind::Schedule, _) => Takes::Number,
        (_, "over") => Takes::Words(AXES),
        (Kind::Zscore, "deviation") => Takes::Words(DEVIATIONS),
        (_, "support") => Takes::Support,
        (_, "mass") => Takes::Words(MASSES),
        (Kind::Kl | Kind::Jsd | Kind::TotalVariation, "pair" | "left" | "right") | (Kind::TopK, "role") => Takes::Role,
        (Kind::TopK, "k") => Takes::Count,
        (Kind::Reward, "field") => Takes::Field,
        (Kind::Reward, "pattern" | "command") => Takes::Text,
        (Kind::Reward, "batch") => Takes::Count,
        (Kind::Rollout, "teacher") => Takes::Words(ROUTED_TEACHER),
        (Kind::Rollout, "n" | "sequences" | "max_tokens") => Takes::Count,
        (Kind::Rollout | Kind::Optimizer | Kind::Reward | Kind::Jsd | Kind::Winsor | Kind::TopFraction, "temperature")
        | (Kind::Optimizer, _)
        | (Kind::Reward, _)
        | (Kind::Jsd, "beta")
        | (Kind::Winsor, "upper")
        | (Kind::TopFraction, "keep") => Takes::Number,
        (Kind::Normalized, _) => Takes::Model,
        (Kind::Constructor, "start" | "base") => Takes::Model,
        (Kind::Constructor, "models") => Takes::Models,
        (Kind::Constructor, "on") => Takes::Domains,
        _ => Takes::Formula,
    }
}

/// What a parameter of a declared type takes.
pub fn takes_type(annotation: &str) -> Takes {
    match annotation {
        "model" => Takes::Model,
        "models" => Takes::Models,
        "objective" => Takes::Objective,
        "reward" => Takes::Reward,
        "domain" | "domains" => Takes::Domains,
        "text" => Takes::Text,
        "bool" => Takes::Truth,
        "count" => Takes::Count,
        "schedule" => Takes::Schedule,
        "teacher" => Takes::NotYet,
        "fraction" | "real" | "number" => Takes::Number,
        _ => Takes::Formula,
    }
}
