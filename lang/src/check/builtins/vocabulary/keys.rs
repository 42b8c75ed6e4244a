//! The settings of every block.

use super::{
    ALIGNMENTS, BUDGETS, CHARGES, DEVICES, DTYPES, FORMATS, KEEPS, MERGES, ORIGINS, REVEALS, SettingKey,
    TOKENIZERS, Takes,
};

const fn must(name: &'static str, takes: Takes, doc: &'static str) -> SettingKey {
    SettingKey { name, required: true, takes, doc }
}

const fn may(name: &'static str, takes: Takes, doc: &'static str) -> SettingKey {
    SettingKey { name, required: false, takes, doc }
}

pub static EXPERIMENT: &[SettingKey] = &[
    must("seed", Takes::Count, "The first seed; a comparison over `n` seeds runs `seed`, `seed + 1`, ..."),
    may("out", Takes::Text, "Folder for results; the default is `runs/<experiment>`."),
    may(
        "device",
        Takes::Words(DEVICES),
        "The device; the default is a GPU if there is one, otherwise the CPU.",
    ),
    may("dtype", Takes::Words(DTYPES), "The compute dtype; `float32` by default."),
    may(
        "deterministic",
        Takes::Truth,
        "Whether a GPU computes the same bits each time; `true` by default. The CPU always does.",
    ),
    may(
        "tf32",
        Takes::Truth,
        "Whether a GPU may round the factors of float32 matrix products to TF32; `false` by default.",
    ),
];

pub static DOMAIN: &[SettingKey] = &[
    must(
        "prompts",
        Takes::Dataset,
        "Training rows with a `prompt` field: a path in quotes, relative to this file, or `dataset(...)`.",
    ),
    may("tests", Takes::Dataset, "Held-out rows in the same layout, for `compare`."),
    may(
        "validation",
        Takes::Dataset,
        "Rows in the same layout, for `validate`: no stage is trained on them.",
    ),
    may("fields", Takes::Columns, "Fields in columns with other names: `columns(prompt: question)`."),
    may(
        "format",
        Takes::Words(FORMATS),
        "How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.",
    ),
    may(
        "system",
        Takes::Text,
        "With `format = chat`: the system message of every conversation that has none.",
    ),
    must(
        "reward",
        Takes::Reward,
        "The reward of a completion, from 0 to 1, or any number with `range: any`.",
    ),
    may("share", Takes::Number, "Share of the prompts if several domains are mixed; all shares add up to 1."),
    may("limits", Takes::Count, "Longest completion in this domain: `limits = 4096 tokens`."),
];

pub static COMPARE: &[SettingKey] = &[
    must("models", Takes::Models, "The rows of the table: a list of models and families."),
    may("score", Takes::Score, "How scores are scaled: `normalized(zero: start, one: expert)`."),
    may("on", Takes::Benchmarks, "The columns: a list of domains and `eval`s; all domains by default."),
    may("metrics", Takes::Metrics, "Further metrics of a cell: `[pass_at(16), distinct]`."),
    must("samples", Takes::Count, "Completions of each test prompt."),
    must("temperature", Takes::Number, "Sampling temperature; 0 is greedy decoding."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may(
        "top_p",
        Takes::Number,
        "Nucleus (top-p) sampling: draws from the most probable entries with at least this mass; off by \
         default.",
    ),
    may("top_k", Takes::Count, "Top-k sampling: draws from this many entries; off by default."),
    may("stop", Takes::Texts, "A completion ends after the first of these texts."),
    may("seeds", Takes::Count, "Number of seeds that the whole experiment is run with; 1 by default."),
    may("prompts", Takes::Count, "Number of test prompts, the first ones; all by default."),
    may("budget", Takes::Words(BUDGETS), "The quantity that every row must have spent the same amount of."),
    may("teachers", Takes::Words(CHARGES), "Whether what the teachers spent counts towards `budget`."),
];

pub static EVAL: &[SettingKey] = &[
    must(
        "prompts",
        Takes::Text,
        "JSON lines with a `prompt` field, relative to this file: prompts that no model is trained on.",
    ),
    may("fields", Takes::Columns, "Fields in columns with other names: `columns(prompt: question)`."),
    may(
        "format",
        Takes::Words(FORMATS),
        "How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.",
    ),
    may(
        "system",
        Takes::Text,
        "With `format = chat`: the system message of every conversation that has none.",
    ),
    must(
        "reward",
        Takes::Reward,
        "The reward of a completion, from 0 to 1, or any number with `range: any`.",
    ),
    must("samples", Takes::Count, "Completions of each prompt."),
    must("temperature", Takes::Number, "Sampling temperature; 0 is greedy decoding."),
    must("max_tokens", Takes::Count, "Longest completion, in tokens."),
    may(
        "top_p",
        Takes::Number,
        "Nucleus (top-p) sampling: draws from the most probable entries with at least this mass; off by \
         default.",
    ),
    may("top_k", Takes::Count, "Top-k sampling: draws from this many entries; off by default."),
    may("stop", Takes::Texts, "A completion ends after the first of these texts."),
    may("metrics", Takes::Metrics, "Further metrics of a cell: `[pass_at(16), distinct]`."),
];

pub static TEACHER: &[SettingKey] = &[
    may("sees", Takes::Template, "What the teacher is shown in place of the plain prompt."),
    may("temperature", Takes::Number, "Divides its logits; 1 by default."),
    may(
        "answers",
        Takes::Capability,
        "What it returns: `dist`, `top_k(20)`, `sampled` or `text`; `dist` for local weights.",
    ),
    may(
        "align",
        Takes::Words(ALIGNMENTS),
        "How the student's tokens are aligned with its input; `positions` by default.",
    ),
    may(
        "reveals",
        Takes::Words(REVEALS),
        "What it sees at masked positions of the student: `all`, or `later_blocks(0.25)`.",
    ),
    may(
        "feedback",
        Takes::Rollout,
        "The content of `{feedback}` in its template; the verifier's output by default.",
    ),
    may(
        "origin",
        Takes::Words(ORIGINS),
        "Whether it descends from the student's checkpoint; required if the file does not determine it.",
    ),
];

pub static DEBATE: &[SettingKey] = &[
    must("rounds", Takes::Count, "Number of turns of each teacher."),
    must("max_tokens", Takes::Count, "Longest turn, in tokens."),
    may(
        "temperature",
        Takes::Number,
        "Sampling temperature of the turns; 1 by default, 0 is greedy decoding.",
    ),
    may(
        "sees",
        Takes::Template,
        "What each teacher is shown: usually the prompt and `{transcript}`; the prompt alone by default.",
    ),
    may(
        "confidence",
        Takes::Number,
        "A confidence that each teacher states in its last turn: `integer(0..=100)`.",
    ),
];

/// Settings of `llama`, `qwen2`, `qwen3` and `gemma`.
pub static DECODER: &[SettingKey] = &[
    must("layers", Takes::Count, "Number of decoder layers."),
    must("width", Takes::Count, "Width of the residual stream; divides into `heads` heads of even size."),
    must("heads", Takes::Count, "Attention heads."),
    may(
        "key_value_heads",
        Takes::Count,
        "Key-value heads, shared by groups of heads (GQA); `heads` by default.",
    ),
    may(
        "hidden",
        Takes::Count,
        "Inner width of the feed-forward part; 8/3 of the width by default, rounded up to a multiple of 32.",
    ),
    must("context", Takes::Count, "Longest sequence in tokens, prompt and completion together."),
    must(
        "tokenizer",
        Takes::Words(TOKENIZERS),
        "The tokenizer: `bytes`, or in quotes the path of a `tokenizer.json` or of a folder that has one.",
    ),
    may("tied", Takes::Truth, "Whether embedding and `lm_head` are tied; `true` by default."),
    may("rope_theta", Takes::Number, "Base of the rotary positions; 10,000 by default."),
    may("norm_epsilon", Takes::Number, "Epsilon of RMSNorm; 1e-5 by default."),
    may(
        "initial_deviation",
        Takes::Number,
        "Standard deviation of the initial weights; sqrt(2 / (5 width)) by default.",
    ),
];

pub static MERGE: &[SettingKey] = &[
    must("method", Takes::Words(MERGES), "The merge method."),
    may("scale", Takes::Number, "Factor of the merged differences; every method but `average` needs it."),
    may(
        "density",
        Takes::Number,
        "`ties`: the fraction of each difference that is kept, as a whole number of its entries, rounded; \
         equals at the bound are kept.",
    ),
    may("drop", Takes::Number, "`dare`: the fraction of each difference that is dropped at random."),
];

/// Settings of every stage that trains, besides the stage's own.
macro_rules! stage {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            must("steps", Takes::Count, "Optimizer steps, or `2 epochs`: passes over the prompts."),
            must("lr", Takes::Schedule, "The learning rate: a number or a schedule."),
            may(
                "optimizer",
                Takes::Optimizer,
                "`adamw(...)`, `sgd(...)` or `private_adamw(...)`; `adamw` with its defaults by default."
            ),
            may(
                "reference",
                Takes::Model,
                "The frozen model of the role `reference`; a family has one per domain."
            ),
            may("sees", Takes::Template, "What the student is shown in place of the plain prompt."),
            may("passes", Takes::Count, "Updates from each batch of rollouts; 1 by default."),
            may(
                "filter",
                Takes::Condition,
                "Trains only on prompts for which this holds, one boolean per prompt."
            ),
            may(
                "priority",
                Takes::Formula,
                "Prompts with larger numbers come first, one number per prompt, measured before steps."
            ),
            may(
                "refresh",
                Takes::Count,
                "Steps after which filter and priority are measured again of all prompts; never by default."
            ),
            may(
                "shares",
                Takes::Formula,
                "What the domains' shares of a step's prompts are proportional to, one number per domain: \
                 `0.1 + state.gap`."
            ),
            may(
                "adapter",
                Takes::Adapter,
                "Trains small matrices beside frozen weights: `lora(...)` or `dora(...)`."
            ),
            may(
                "train_only",
                Takes::Weights,
                "The parts of the model that are trained, `[attention, layers(8..=11)]`; all by default."
            ),
            may("freeze", Takes::Weights, "Parts of the model that are not trained."),
            may(
                "micro_batch",
                Takes::Count,
                "Sequences per forward and backward pass; all of a step by default. Less memory, the same \
                 result up to rounding."
            ),
            may(
                "checkpointing",
                Takes::Layers,
                "Number of layers, or `all`, that recompute their activations in the backward pass; none by \
                 default. Less memory, more work, the same result up to rounding."
            ),
            may(
                "ema",
                Takes::Number,
                "Makes the exponential moving average of the weights, with this decay, the output of the \
                 stage."
            ),
            may(
                "extrapolate",
                Takes::Formula,
                "Extrapolates the weights beyond the updates so far: `extrapolate(factor: 2, ...)`."
            ),
            may(
                "validate",
                Takes::Formula,
                "Computes the validation loss as it trains: `validate(target: answer, every: 10 steps)`."
            ),
            may(
                "guards",
                Takes::Guards,
                "What to do when the numbers of steps go wrong: `[warn(entropy < 0.1, for: 10 steps)]`."
            ),
            may(
                "gradient_alignment",
                Takes::Formula,
                "Compares the gradients of terms or domains as it trains: `gradient_alignment(every: 20 steps)`."
            ),
        ]
    };
}

pub static SFT: &[SettingKey] = stage![
    may("target", Takes::Field, "The field of the data to imitate; or write `rollout`."),
    may(
        "rollout",
        Takes::Rollout,
        "Imitate completions, usually the routed teachers': `from(teacher, ...)`; or write `target`."
    ),
    may("keep", Takes::Words(KEEPS), "Which rollouts of the teachers are imitated."),
    must("batch", Takes::Count, "Sequences per step; or write `prompts`."),
    may("prompts", Takes::Count, "Prompts per step; or write `batch`."),
    may("objective", Takes::Objective, "The objective; `std.sft.nll` by default."),
];

pub static GRPO: &[SettingKey] = stage![
    must("prompts", Takes::Count, "Prompts per step; or write `batch`."),
    may("batch", Takes::Count, "Sequences per step; or write `prompts`."),
    must("samples", Takes::Count, "Samples of each prompt: the size of a group."),
    must("max_tokens", Takes::Schedule, "Longest completion, in tokens: a number or a schedule."),
    may("temperature", Takes::Number, "Sampling temperature of the rollouts; 1 by default."),
    may(
        "top_p",
        Takes::Number,
        "Nucleus (top-p) sampling of the rollouts: draws from the most probable entries with at least this \
         mass; off by default."
    ),
    may(
        "top_k",
        Takes::Count,
        "Top-k sampling of the rollouts: draws from this many entries; off by default."
    ),
    may("stop", Takes::Texts, "A completion ends after the first of these texts."),
    may(
        "rollout",
        Takes::Rollout,
        "A rollout in place of `samples`, `max_tokens`, `temperature` and similar settings."
    ),
    may("objective", Takes::Objective, "The objective; `std.rl.grpo_loss` by default."),
];

pub static DISTILL: &[SettingKey] = stage![
    must("objective", Takes::Objective, "The objective, such as `mopd` of `std.opd`."),
    must(
        "rollout",
        Takes::Rollout,
        "Where completions come from: `sample(...)`, `from(teacher, ...)`, `data(field)`, ..."
    ),
    must("prompts", Takes::Count, "Prompts per step; or write `batch`."),
    may("batch", Takes::Count, "Sequences per step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all by default."),
];

pub static DPO: &[SettingKey] = stage![
    must("chosen", Takes::Rollout, "The preferred completions."),
    must("rejected", Takes::Rollout, "The rejected completions."),
    must("beta", Takes::Schedule, "Strength of the anchor to the reference."),
    must("batch", Takes::Count, "Pairs per step; or write `prompts`."),
    may("prompts", Takes::Count, "Prompts per step; or write `batch`."),
];

/// Settings of all steps of a `train`, unless a step has its own.
pub static TRAIN: &[SettingKey] = stage![
    may("prompts", Takes::Count, "Prompts per step; or write `batch`."),
    may("batch", Takes::Count, "Sequences per step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all by default."),
    may("rollout", Takes::Rollout, "Where completions come from."),
];

/// Settings of `trains name = model { ... }`.
pub static MEMBER: &[SettingKey] =
    &[may("sees", Takes::Template, "What the model is shown in place of the plain prompt.")];

/// Settings of one kind of update of a `train`.
pub static STEP: &[SettingKey] = stage![
    must("updates", Takes::Model, "The trained model that this step updates."),
    must("objective", Takes::Objective, "The objective; `student` in it is the model that the step updates."),
    may("every", Takes::Count, "Steps between two updates; 1 by default."),
    may("rollout", Takes::Rollout, "Where completions come from; optional if every term has its own."),
    may("prompts", Takes::Count, "Prompts per step; or write `batch`."),
    may("batch", Takes::Count, "Sequences per step; or write `prompts`."),
    may("domains", Takes::Domains, "The domains trained on; all by default."),
];

pub static OBJECTIVE: &[SettingKey] = &[
    may("select", Takes::Condition, "Which tokens are trained on: a boolean per token or sequence."),
    may("weight", Takes::Formula, "The weight of each token, detached."),
    may(
        "temperature",
        Takes::Number,
        "Divides the logits of every `logp`. By default that of the rollout if the student samples the \
         completions, otherwise 1.",
    ),
    must("reduce", Takes::Reduce, "How tokens and sequences are reduced to one number."),
];

pub static TERM: &[SettingKey] = &[
    may("when", Takes::Condition, "Where the term applies: a boolean per token or sequence."),
    may("weight", Takes::Formula, "The weight of each token in this term."),
    may("reduce", Takes::Reduce, "How this term alone is averaged."),
    may("data", Takes::Rollout, "The completions that this term is trained on; the stage's by default."),
];

/// Settings of `by domain { ... }` after a `reduce`.
pub static BALANCE: &[SettingKey] = &[
    may(
        "target",
        Takes::Number,
        "Share of the loss that each domain should have; its share of the batch's prompts by default.",
    ),
    may(
        "follow_gap",
        Takes::Number,
        "Exponent of a domain's mean signal relative to all domains': 1, the default, feeds what is far from its teacher.",
    ),
    may("clamp", Takes::Number, "Bounds of that power: `0.05..=20`."),
    may("observe", Takes::Truth, "Computes and records the factors without applying them."),
];

/// Every block that has settings: an item such as `domain`, a stage such as `grpo`.
pub static BLOCKS: &[(&str, &[SettingKey])] = &[
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

pub fn keys(owner: &str) -> Option<&'static [SettingKey]> {
    BLOCKS.iter().find(|(name, _)| *name == owner).map(|(_, keys)| *keys)
}

/// Whether a block may hold a `route` of its own.
pub fn may_route(owner: &str) -> bool {
    matches!(owner, "sft" | "grpo" | "distill" | "dpo" | "train" | "step")
}
