//! The settings of every block.

use super::{
    ALIGNMENTS, BUDGETS, CHARGES, DEVICES, DTYPES, FORMATS, KEEPS, Key, MERGES, ORIGINS, REVEALS, TOKENIZERS,
    Takes,
};

const fn must(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, required: true, takes, doc }
}

const fn may(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, required: false, takes, doc }
}

pub static EXPERIMENT: &[Key] = &[
    must("seed", Takes::Count, "The first seed; a comparison over `n` seeds runs `seed`, `seed + 1`, ..."),
    may("out", Takes::Text, "Folder for results; without it `runs/<experiment>`."),
    may(
        "device",
        Takes::Words(DEVICES),
        "Where to run; on a graphics card where there is one, if not written.",
    ),
    may("dtype", Takes::Words(DTYPES), "The numbers that models compute with; `float32` if not written."),
];

pub static DOMAIN: &[Key] = &[
    must(
        "prompts",
        Takes::Dataset,
        "Rows with a `prompt` field, relative to this file: a path in quotes, or `dataset(...)`. What is \
         trained on.",
    ),
    may("tests", Takes::Dataset, "Held-out rows, the same layout: what a `compare` judges on."),
    may(
        "fields",
        Takes::Columns,
        "Fields that stand in columns of other names: `columns(prompt: question)`.",
    ),
    may(
        "format",
        Takes::Words(FORMATS),
        "How prompts are handed to a model; must be written where the model is loaded, else `text`.",
    ),
    may(
        "system",
        Takes::Text,
        "The system message of every conversation that has none of its own; of `format = chat`.",
    ),
    must("reward", Takes::Reward, "How a completion is judged, from 0 to 1."),
    may(
        "share",
        Takes::Number,
        "Share of the prompts where several domains are mixed; all shares add up to 1.",
    ),
    may("limits", Takes::Count, "Longest completion in this domain: `limits = 4096 tokens`."),
];

pub static COMPARE: &[Key] = &[
    must("models", Takes::Models, "The rows of the table: a list of models and families."),
    may("score", Takes::Score, "How scores are scaled: `normalized(zero: start, one: expert)`."),
    may("on", Takes::Benchmarks, "The columns: a list of domains and `eval`s; all domains if not written."),
    may("metrics", Takes::Metrics, "What a cell shows besides the mean reward: `[pass_at(16), distinct]`."),
    must("samples", Takes::Count, "Completions of each test prompt."),
    must("temperature", Takes::Number, "Of the judged completions; 0 is greedy."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may(
        "top_p",
        Takes::Number,
        "Only the most probable entries that together hold this much are drawn; all if not written.",
    ),
    may("top_k", Takes::Count, "Only so many entries are drawn; all if not written."),
    may("stop", Takes::Texts, "A completion ends behind the first of these texts."),
    may("seeds", Takes::Count, "How many seeds the whole experiment is run with; 1 if not written."),
    may("prompts", Takes::Count, "Judge on the first so many test prompts only."),
    may("budget", Takes::Words(BUDGETS), "What every row must have spent the same of."),
    may("teachers", Takes::Words(CHARGES), "Whether what the teachers took counts towards `budget`."),
];

pub static EVAL: &[Key] = &[
    must(
        "prompts",
        Takes::Text,
        "JSON lines with a `prompt` field, relative to this file: prompts that no model is trained on.",
    ),
    must("reward", Takes::Reward, "How a completion is judged, from 0 to 1."),
    must("samples", Takes::Count, "Completions of each prompt."),
    must("temperature", Takes::Number, "Of the judged completions; 0 is greedy."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may(
        "top_p",
        Takes::Number,
        "Only the most probable entries that together hold this much are drawn; all if not written.",
    ),
    may("top_k", Takes::Count, "Only so many entries are drawn; all if not written."),
    may("stop", Takes::Texts, "A completion ends behind the first of these texts."),
    may("metrics", Takes::Metrics, "What a cell shows besides the mean reward: `[pass_at(16), distinct]`."),
];

pub static TEACHER: &[Key] = &[
    may("sees", Takes::Template, "What the teacher is shown in place of the plain prompt."),
    may("temperature", Takes::Number, "Its logits are divided by it; 1 if not written."),
    may(
        "answers",
        Takes::Capability,
        "What it can say: `dist`, `top_k(20)`, `sampled` or `text`; of local weights, `dist`.",
    ),
    may(
        "align",
        Takes::Words(ALIGNMENTS),
        "How the student's tokens are found in its input; `positions` if not written.",
    ),
    may(
        "reveals",
        Takes::Words(REVEALS),
        "What it reads where the student has masks: `all`, or `later_blocks(0.25)`.",
    ),
    may(
        "feedback",
        Takes::Rollout,
        "What fills `{feedback}` in its template; the verifier's own words if not written.",
    ),
    may(
        "origin",
        Takes::Words(ORIGINS),
        "Whether it descends from the student's checkpoint; must be written where the file does not say.",
    ),
];

pub static DEBATE: &[Key] = &[
    must("rounds", Takes::Count, "How often each teacher speaks."),
    may("sees", Takes::Template, "What each is shown: usually the prompt and `{transcript}`."),
    may("confidence", Takes::Number, "A number that each states of its own answer: `integer(0..=100)`."),
];

/// Of `llama`, `qwen2`, `qwen3` and `gemma`.
pub static DECODER: &[Key] = &[
    must("layers", Takes::Count, "Number of decoder layers."),
    must("width", Takes::Count, "Width of the residual stream; divides into `heads` heads of even size."),
    must("heads", Takes::Count, "Attention heads."),
    may(
        "key_value_heads",
        Takes::Count,
        "Heads of keys and values, shared by groups of heads; `heads` if not written.",
    ),
    may(
        "hidden",
        Takes::Count,
        "Inner width of the feed-forward part; 8/3 of the width, rounded up to a multiple of 32, if not \
         written.",
    ),
    must("context", Takes::Count, "Longest sequence, in tokens, prompt and completion together."),
    must(
        "tokenizer",
        Takes::Words(TOKENIZERS),
        "How text becomes tokens: `bytes`, or in quotes the path of a `tokenizer.json` or of a folder that \
         has one.",
    ),
    may("tied", Takes::Truth, "One matrix for embedding and output; `true` if not written."),
    may("rope_theta", Takes::Number, "Base of the rotary positions; 10,000 if not written."),
    may("norm_epsilon", Takes::Number, "Added to the variance in RMSNorm; 1e-5 if not written."),
    may(
        "initial_deviation",
        Takes::Number,
        "Standard deviation of the initial weights; sqrt(2 / (5 width)) if not written.",
    ),
];

pub static MERGE: &[Key] = &[
    must("method", Takes::Words(MERGES), "How the weights are put together."),
    may("scale", Takes::Number, "Factor of the merged differences; every method but `average` needs it."),
    may(
        "density",
        Takes::Number,
        "`ties`: the fraction of each difference that is kept, as a whole number of its entries, rounded; \
         equals at the bound are kept.",
    ),
    may("drop", Takes::Number, "`dare`: the fraction of each difference that is dropped at random."),
];

/// What every stage that trains may have besides its own settings.
macro_rules! stage {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            must("steps", Takes::Count, "Optimiser steps, or `2 epochs`: times through the prompts."),
            must("lr", Takes::Schedule, "The learning rate: a number or a schedule."),
            may("optimizer", Takes::Optimizer, "`adamw(...)`, `sgd(...)` or `private_adamw(...)`; `adamw` with its usual values if not written."),
            may("reference", Takes::Model, "The frozen model behind the role `reference`; a family gives each domain its own."),
            may("sees", Takes::Template, "What the student is shown in place of the plain prompt."),
            may("passes", Takes::Count, "Updates from each batch of rollouts; 1 if not written."),
            may("filter", Takes::Condition, "Prompts are trained on where this holds, one truth value per prompt."),
            may("priority", Takes::Formula, "Prompts with larger numbers come first, one number per prompt."),
            may("refresh", Takes::Count, "Filter and priority are computed again after so many steps; never if not written."),
            may("adapter", Takes::Adapter, "Trains small matrices beside frozen weights: `lora(...)` or `dora(...)`."),
            may("train_only", Takes::Weights, "The parts of the model that are trained, `[attention, layers(8..=11)]`; all if not written."),
            may("freeze", Takes::Weights, "Parts of the model that are not trained."),
            may("micro_batch", Takes::Count, "Sequences that go forward and backward at once; all of a step if not written. Less memory, the same result."),
            may("checkpointing", Takes::Layers, "How many layers compute their inner values again on the way back, or `all`; none if not written. Less memory, more work, the same result."),
            may("ema", Takes::Number, "The stage's answer is the exponential moving average of its weights, of which this much is kept at every step."),
            may("extrapolate", Takes::Formula, "Longer steps along the way gone so far: `extrapolate(factor: 2, ...)`."),
        ]
    };
}

pub static SFT: &[Key] = stage![
    may("target", Takes::Field, "The field of the data to imitate; or write `rollout`."),
    may(
        "rollout",
        Takes::Rollout,
        "Imitate completions, usually the routed teachers': `from(teacher, ...)`; or write `target`."
    ),
    may("keep", Takes::Words(KEEPS), "Which rollouts of the teachers are imitated."),
    must("batch", Takes::Count, "Sequences a step; or write `prompts`."),
    may("prompts", Takes::Count, "Prompts a step; or write `batch`."),
    may("objective", Takes::Objective, "What is trained on; `std.sft.nll` if not written."),
];

pub static GRPO: &[Key] = stage![
    must("prompts", Takes::Count, "Prompts a step; or write `batch`."),
    may("batch", Takes::Count, "Sequences a step; or write `prompts`."),
    must("samples", Takes::Count, "Samples of each prompt: the size of a group."),
    must("max_tokens", Takes::Schedule, "Longest completion, in tokens: a number or a schedule."),
    may("temperature", Takes::Number, "Of the rollouts; 1 if not written."),
    may(
        "top_p",
        Takes::Number,
        "Of the rollouts: only the most probable entries that together hold this much are drawn; all if not \
         written."
    ),
    may("top_k", Takes::Count, "Of the rollouts: only so many entries are drawn; all if not written."),
    may("stop", Takes::Texts, "A completion ends behind the first of these texts."),
    may(
        "rollout",
        Takes::Rollout,
        "How completions are drawn, in place of `samples`, `max_tokens`, `temperature` and their like."
    ),
    may("objective", Takes::Objective, "What is trained on; `std.rl.grpo_loss` if not written."),
];

pub static DISTILL: &[Key] = stage![
    must("objective", Takes::Objective, "What is trained on, such as `mopd` of `std.opd`."),
    must(
        "rollout",
        Takes::Rollout,
        "Where completions come from: `sample(...)`, `from(teacher, ...)`, `data(field)`, ..."
    ),
    must("prompts", Takes::Count, "Prompts a step; or write `batch`."),
    may("batch", Takes::Count, "Sequences a step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all of them if not written."),
];

pub static DPO: &[Key] = stage![
    must("chosen", Takes::Rollout, "Completions that are preferred."),
    must("rejected", Takes::Rollout, "Completions that the others are preferred to."),
    must("beta", Takes::Schedule, "How strongly the student is held near the reference."),
    must("batch", Takes::Count, "Pairs a step; or write `prompts`."),
    may("prompts", Takes::Count, "Prompts a step; or write `batch`."),
];

/// What all steps of a `train` have, unless one says otherwise.
pub static TRAIN: &[Key] = stage![
    may("prompts", Takes::Count, "Prompts a step; or write `batch`."),
    may("batch", Takes::Count, "Sequences a step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all of them if not written."),
    may("rollout", Takes::Rollout, "Where completions come from."),
];

/// Of `trains name = model { ... }`.
pub static MEMBER: &[Key] =
    &[may("sees", Takes::Template, "What the model is shown in place of the plain prompt.")];

/// One kind of update of a `train`.
pub static STEP: &[Key] = stage![
    must("updates", Takes::Model, "Which of the models that are trained."),
    must(
        "objective",
        Takes::Objective,
        "What is trained on; `student` in it is the model that the step updates."
    ),
    may("every", Takes::Count, "The update is made every so many steps; 1 if not written."),
    may("rollout", Takes::Rollout, "Where completions come from; not needed where every term has its own."),
    may("prompts", Takes::Count, "Prompts a step; or write `batch`."),
    may("batch", Takes::Count, "Sequences a step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all of them if not written."),
];

pub static OBJECTIVE: &[Key] = &[
    may("select", Takes::Condition, "Which tokens count: a truth value per token or sequence."),
    may("weight", Takes::Formula, "How much each token counts: a number without gradient."),
    may(
        "temperature",
        Takes::Number,
        "Of every `logp`: logits are divided by it. That of the rollout where the student draws the \
         completions, else 1, if not written.",
    ),
    must("reduce", Takes::Reduce, "How tokens and sequences are averaged into one number."),
];

pub static TERM: &[Key] = &[
    may("when", Takes::Condition, "Where the term counts: a truth value per token or sequence."),
    may("weight", Takes::Formula, "How much each token counts in this term."),
    may("reduce", Takes::Reduce, "How this term alone is averaged."),
    may("data", Takes::Rollout, "The completions that this term is trained on; the stage's if not written."),
];

/// Of `by domain { ... }` after a `reduce`.
pub static BALANCE: &[Key] = &[
    may(
        "target",
        Takes::Number,
        "Share of the signal that each domain should have; its share of the prompts if not written.",
    ),
    may("follow_gap", Takes::Number, "How hard a gap to the target is closed; 1 if not written."),
    may("clamp", Takes::Number, "Bounds of a domain's factor: `0.05..=20`."),
    may("observe", Takes::Truth, "Factors are computed and recorded, and applied to nothing."),
];

/// Every block that has settings: an item such as `domain`, a stage such as `grpo`.
pub static BLOCKS: &[(&str, &[Key])] = &[
    ("experiment", EXPERIMENT),
    ("domain", DOMAIN),
    ("eval", EVAL),
    ("compare", COMPARE),
    ("teacher", TEACHER),
    ("debate", DEBATE),
    ("objective", OBJECTIVE),
    ("term", TERM),
    ("by", BALANCE),
    ("llama", DECODER),
    ("qwen2", DECODER),
    ("qwen3", DECODER),
    ("gemma", DECODER),
    ("merge", MERGE),
    ("sft", SFT),
    ("grpo", GRPO),
    ("distill", DISTILL),
    ("dpo", DPO),
    ("train", TRAIN),
    ("step", STEP),
    ("trains", MEMBER),
];

pub fn keys(owner: &str) -> Option<&'static [Key]> {
    BLOCKS.iter().find(|(name, _)| *name == owner).map(|(_, keys)| *keys)
}

/// Whether a block may hold a `route` of its own.
pub fn may_route(owner: &str) -> bool {
    matches!(owner, "sft" | "grpo" | "distill" | "dpo" | "train" | "step")
}
