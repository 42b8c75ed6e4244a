//! The settings of every block.

use super::{
    ALIGNMENTS, ArgumentKind, BUDGETS, CHARGES, DEVICES, DTYPES, FORMATS, KEEPS, MERGES, ORIGINS, REVEALS,
    SettingKey, TOKENIZERS,
};

const fn req(name: &'static str, takes: ArgumentKind, doc: &'static str) -> SettingKey {
    SettingKey { name, required: true, takes, doc }
}

const fn opt(name: &'static str, takes: ArgumentKind, doc: &'static str) -> SettingKey {
    SettingKey { name, required: false, takes, doc }
}

pub static EXPERIMENT: &[SettingKey] = &[
    req(
        "seed",
        ArgumentKind::Count,
        "The first seed; a comparison over `n` seeds runs `seed`, `seed + 1`, ...",
    ),
    opt("out", ArgumentKind::Text, "Folder for results; the default is `runs/<experiment>`."),
    opt(
        "device",
        ArgumentKind::Words(DEVICES),
        "The device; the default is a GPU if there is one, otherwise the CPU.",
    ),
    opt("dtype", ArgumentKind::Words(DTYPES), "The compute dtype; `float32` by default."),
    opt(
        "deterministic",
        ArgumentKind::Truth,
        "Whether a GPU computes the same bits each time; `true` by default. The CPU always does.",
    ),
    opt(
        "tf32",
        ArgumentKind::Truth,
        "Whether a GPU may round the factors of float32 matrix products to TF32; `false` by default.",
    ),
];

pub static DOMAIN: &[SettingKey] = &[
    req(
        "prompts",
        ArgumentKind::Dataset,
        "Training rows with a `prompt` field: a path in quotes, relative to this file, or `dataset(...)`.",
    ),
    opt("tests", ArgumentKind::Dataset, "Held-out rows in the same layout, for `compare`."),
    opt(
        "validation",
        ArgumentKind::Dataset,
        "Rows in the same layout, for `validate`: no stage is trained on them.",
    ),
    opt("fields", ArgumentKind::Columns, "Fields in columns with other names: `columns(prompt: question)`."),
    opt(
        "format",
        ArgumentKind::Words(FORMATS),
        "How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.",
    ),
    opt(
        "system",
        ArgumentKind::Text,
        "With `format = chat`: the system message of every conversation that has none.",
    ),
    req(
        "reward",
        ArgumentKind::Reward,
        "The reward of a completion, from 0 to 1, or any number with `range: any`.",
    ),
    opt(
        "share",
        ArgumentKind::Number,
        "Share of the prompts if several domains are mixed; all shares add up to 1.",
    ),
    opt("limits", ArgumentKind::Count, "Longest completion in this domain: `limits = 4096 tokens`."),
];

pub static COMPARE: &[SettingKey] = &[
    req("models", ArgumentKind::Models, "The rows of the table: a list of models and families."),
    opt("score", ArgumentKind::Score, "How scores are scaled: `normalized(zero: start, one: expert)`."),
    opt(
        "on",
        ArgumentKind::Benchmarks,
        "The columns: a list of domains and `eval`s; all domains by default.",
    ),
    opt("metrics", ArgumentKind::Metrics, "Further metrics of a cell: `[pass_at(16), distinct]`."),
    req("samples", ArgumentKind::Count, "Completions of each test prompt."),
    req("temperature", ArgumentKind::Number, "Sampling temperature; 0 is greedy decoding."),
    req("max_tokens", ArgumentKind::Count, "Longest completion, in tokens."),
    opt(
        "top_p",
        ArgumentKind::Number,
        "Nucleus (top-p) sampling: draws from the most probable entries with at least this mass; off by \
         default.",
    ),
    opt("top_k", ArgumentKind::Count, "Top-k sampling: draws from this many entries; off by default."),
    opt("stop", ArgumentKind::Texts, "A completion ends after the first of these texts."),
    opt("seeds", ArgumentKind::Count, "Number of seeds that the whole experiment is run with; 1 by default."),
    opt("prompts", ArgumentKind::Count, "Number of test prompts, the first ones; all by default."),
    opt(
        "budget",
        ArgumentKind::Words(BUDGETS),
        "The quantity that every row must have spent the same amount of.",
    ),
    opt("teachers", ArgumentKind::Words(CHARGES), "Whether what the teachers spent counts towards `budget`."),
];

pub static EVAL: &[SettingKey] = &[
    req(
        "prompts",
        ArgumentKind::Text,
        "JSON lines with a `prompt` field, relative to this file: prompts that no model is trained on.",
    ),
    opt("fields", ArgumentKind::Columns, "Fields in columns with other names: `columns(prompt: question)`."),
    opt(
        "format",
        ArgumentKind::Words(FORMATS),
        "How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.",
    ),
    opt(
        "system",
        ArgumentKind::Text,
        "With `format = chat`: the system message of every conversation that has none.",
    ),
    req(
        "reward",
        ArgumentKind::Reward,
        "The reward of a completion, from 0 to 1, or any number with `range: any`.",
    ),
    req("samples", ArgumentKind::Count, "Completions of each prompt."),
    req("temperature", ArgumentKind::Number, "Sampling temperature; 0 is greedy decoding."),
    req("max_tokens", ArgumentKind::Count, "Longest completion, in tokens."),
    opt(
        "top_p",
        ArgumentKind::Number,
        "Nucleus (top-p) sampling: draws from the most probable entries with at least this mass; off by \
         default.",
    ),
    opt("top_k", ArgumentKind::Count, "Top-k sampling: draws from this many entries; off by default."),
    opt("stop", ArgumentKind::Texts, "A completion ends after the first of these texts."),
    opt("metrics", ArgumentKind::Metrics, "Further metrics of a cell: `[pass_at(16), distinct]`."),
];

pub static TEACHER: &[SettingKey] = &[
    opt("sees", ArgumentKind::Template, "What the teacher is shown in place of the plain prompt."),
    opt("temperature", ArgumentKind::Number, "Divides its logits; 1 by default."),
    opt(
        "answers",
        ArgumentKind::Capability,
        "What it returns: `dist`, `top_k(20)`, `sampled` or `text`; `dist` for local weights.",
    ),
    opt(
        "align",
        ArgumentKind::Words(ALIGNMENTS),
        "How the student's tokens are aligned with its input; `positions` by default.",
    ),
    opt(
        "reveals",
        ArgumentKind::Words(REVEALS),
        "What it sees at masked positions of the student: `all`, or `later_blocks(0.25)`.",
    ),
    opt(
        "feedback",
        ArgumentKind::Rollout,
        "The content of `{feedback}` in its template; the verifier's output by default.",
    ),
    opt(
        "origin",
        ArgumentKind::Words(ORIGINS),
        "Whether it descends from the student's checkpoint; required if the file does not determine it.",
    ),
];

pub static DEBATE: &[SettingKey] = &[
    req("rounds", ArgumentKind::Count, "Number of turns of each teacher."),
    req("max_tokens", ArgumentKind::Count, "Longest turn, in tokens."),
    opt(
        "temperature",
        ArgumentKind::Number,
        "Sampling temperature of the turns; 1 by default, 0 is greedy decoding.",
    ),
    opt(
        "sees",
        ArgumentKind::Template,
        "What each teacher is shown: usually the prompt and `{transcript}`; the prompt alone by default.",
    ),
    opt(
        "confidence",
        ArgumentKind::Number,
        "A confidence that each teacher states in its last turn: `integer(0..=100)`.",
    ),
];

/// Settings of `llama`, `qwen2`, `qwen3` and `gemma`.
pub static DECODER: &[SettingKey] = &[
    req("layers", ArgumentKind::Count, "Number of decoder layers."),
    req(
        "width",
        ArgumentKind::Count,
        "Width of the residual stream; divides into `heads` heads of even size.",
    ),
    req("heads", ArgumentKind::Count, "Attention heads."),
    opt(
        "key_value_heads",
        ArgumentKind::Count,
        "Key-value heads, shared by groups of heads (GQA); `heads` by default.",
    ),
    opt(
        "hidden",
        ArgumentKind::Count,
        "Inner width of the feed-forward part; 8/3 of the width by default, rounded up to a multiple of 32.",
    ),
    req("context", ArgumentKind::Count, "Longest sequence in tokens, prompt and completion together."),
    req(
        "tokenizer",
        ArgumentKind::Words(TOKENIZERS),
        "The tokenizer: `bytes`, or in quotes the path of a `tokenizer.json` or of a folder that has one.",
    ),
    opt("tied", ArgumentKind::Truth, "Whether embedding and `lm_head` are tied; `true` by default."),
    opt("rope_theta", ArgumentKind::Number, "Base of the rotary positions; 10,000 by default."),
    opt("norm_epsilon", ArgumentKind::Number, "Epsilon of RMSNorm; 1e-5 by default."),
    opt(
        "initial_deviation",
        ArgumentKind::Number,
        "Standard deviation of the initial weights; sqrt(2 / (5 width)) by default.",
    ),
];

pub static MERGE: &[SettingKey] = &[
    req("method", ArgumentKind::Words(MERGES), "The merge method."),
    opt(
        "scale",
        ArgumentKind::Number,
        "Factor of the merged differences; every method but `average` needs it.",
    ),
    opt(
        "density",
        ArgumentKind::Number,
        "`ties`: the fraction of each difference that is kept, as a whole number of its entries, rounded; \
         equals at the bound are kept.",
    ),
    opt("drop", ArgumentKind::Number, "`dare`: the fraction of each difference that is dropped at random."),
];

/// Settings of every stage that trains, besides the stage's own.
macro_rules! stage {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            req("steps", ArgumentKind::Count, "Optimizer steps, or `2 epochs`: passes over the prompts."),
            req("lr", ArgumentKind::Schedule, "The learning rate: a number or a schedule."),
            opt(
                "optimizer",
                ArgumentKind::Optimizer,
                "`adamw(...)`, `sgd(...)` or `private_adamw(...)`; `adamw` with its defaults by default."
            ),
            opt(
                "reference",
                ArgumentKind::Model,
                "The frozen model of the role `reference`; a family has one per domain."
            ),
            opt("sees", ArgumentKind::Template, "What the student is shown in place of the plain prompt."),
            opt("passes", ArgumentKind::Count, "Passes over each batch of rollouts; 1 by default."),
            opt("mini_batches", ArgumentKind::Count, "Parts of a batch, an update for each; 1 by default."),
            opt(
                "filter",
                ArgumentKind::Condition,
                "Trains only on prompts for which this holds, one boolean per prompt."
            ),
            opt(
                "priority",
                ArgumentKind::Formula,
                "Prompts with larger numbers come first, one number per prompt, measured before steps."
            ),
            opt(
                "refresh",
                ArgumentKind::Count,
                "Steps after which filter and priority are measured again of all prompts; never by default."
            ),
            opt(
                "shares",
                ArgumentKind::Formula,
                "What the domains' shares of a step's prompts are proportional to, one number per domain: \
                 `0.1 + state.gap`."
            ),
            opt(
                "adapter",
                ArgumentKind::Adapter,
                "Trains small matrices beside frozen weights: `lora(...)` or `dora(...)`."
            ),
            opt(
                "train_only",
                ArgumentKind::Weights,
                "The parts of the model that are trained, `[attention, layers(8..=11)]`; all by default."
            ),
            opt("freeze", ArgumentKind::Weights, "Parts of the model that are not trained."),
            opt(
                "micro_batch",
                ArgumentKind::Count,
                "Sequences per forward and backward pass; all of a step by default. Less memory, the same \
                 result up to rounding."
            ),
            opt(
                "checkpointing",
                ArgumentKind::Layers,
                "Number of layers, or `all`, that recompute their activations in the backward pass; none by \
                 default. Less memory, more work, the same result up to rounding."
            ),
            opt(
                "ema",
                ArgumentKind::Number,
                "Makes the exponential moving average of the weights, with this decay, the output of the \
                 stage."
            ),
            opt(
                "extrapolate",
                ArgumentKind::Formula,
                "Extrapolates the weights beyond the updates so far: `extrapolate(factor: 2, ...)`."
            ),
            opt(
                "validate",
                ArgumentKind::Formula,
                "Computes the validation loss as it trains: `validate(target: answer, every: 10 steps)`."
            ),
            opt(
                "guards",
                ArgumentKind::Guards,
                "What to do when the numbers of steps go wrong: `[warn(entropy < 0.1, for: 10 steps)]`."
            ),
            opt(
                "gradient_alignment",
                ArgumentKind::Formula,
                "Compares the gradients of terms or domains as it trains: `gradient_alignment(every: 20 steps)`."
            ),
        ]
    };
}

pub static SFT: &[SettingKey] = stage![
    opt("target", ArgumentKind::Field, "The field of the data to imitate; or write `rollout`."),
    opt(
        "rollout",
        ArgumentKind::Rollout,
        "Imitate completions, usually the routed teachers': `from(teacher, ...)`; or write `target`."
    ),
    opt("keep", ArgumentKind::Words(KEEPS), "Which rollouts of the teachers are imitated."),
    req("batch", ArgumentKind::Count, "Sequences per step; or write `prompts`."),
    opt("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
    opt("objective", ArgumentKind::Objective, "The objective; `std.sft.nll` by default."),
];

pub static GRPO: &[SettingKey] = stage![
    req("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
    opt("batch", ArgumentKind::Count, "Sequences per step; or write `prompts`."),
    req("samples", ArgumentKind::Count, "Samples of each prompt: the size of a group."),
    req("max_tokens", ArgumentKind::Schedule, "Longest completion, in tokens: a number or a schedule."),
    opt(
        "temperature",
        ArgumentKind::Schedule,
        "Sampling temperature of the rollouts, a number or a schedule; 1 by default.",
    ),
    opt(
        "top_p",
        ArgumentKind::Number,
        "Nucleus (top-p) sampling of the rollouts: draws from the most probable entries with at least this \
         mass; off by default."
    ),
    opt(
        "top_k",
        ArgumentKind::Count,
        "Top-k sampling of the rollouts: draws from this many entries; off by default."
    ),
    opt("stop", ArgumentKind::Texts, "A completion ends after the first of these texts."),
    opt(
        "rollout",
        ArgumentKind::Rollout,
        "A rollout in place of `samples`, `max_tokens`, `temperature` and similar settings."
    ),
    opt("objective", ArgumentKind::Objective, "The objective; `std.rl.grpo_loss` by default."),
];

pub static DISTILL: &[SettingKey] = stage![
    req("objective", ArgumentKind::Objective, "The objective, such as `mopd` of `std.opd`."),
    req(
        "rollout",
        ArgumentKind::Rollout,
        "Where completions come from: `sample(...)`, `from(teacher, ...)`, `data(field)`, ..."
    ),
    req("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
    opt("batch", ArgumentKind::Count, "Sequences per step; or write `prompts`."),
    opt("domains", ArgumentKind::Domains, "The domains trained on; all by default."),
];

pub static DPO: &[SettingKey] = stage![
    req("chosen", ArgumentKind::Rollout, "The preferred completions."),
    req("rejected", ArgumentKind::Rollout, "The rejected completions."),
    req("beta", ArgumentKind::Schedule, "Strength of the anchor to the reference."),
    req("batch", ArgumentKind::Count, "Pairs per step; or write `prompts`."),
    opt("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
];

/// Settings of all steps of a `train`, unless a step has its own.
pub static TRAIN: &[SettingKey] = stage![
    opt("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
    opt("batch", ArgumentKind::Count, "Sequences per step; or write `prompts`."),
    opt("domains", ArgumentKind::Domains, "The domains trained on; all by default."),
    opt("rollout", ArgumentKind::Rollout, "Where completions come from."),
];

/// Settings of `trains name = model { ... }`.
pub static MEMBER: &[SettingKey] =
    &[opt("sees", ArgumentKind::Template, "What the model is shown in place of the plain prompt.")];

/// Settings of one kind of update of a `train`.
pub static STEP: &[SettingKey] = stage![
    req("updates", ArgumentKind::Model, "The trained model that this step updates."),
    req(
        "objective",
        ArgumentKind::Objective,
        "The objective; `student` in it is the model that the step updates."
    ),
    opt("every", ArgumentKind::Count, "Steps between two updates; 1 by default."),
    opt("rollout", ArgumentKind::Rollout, "Where completions come from; optional if every term has its own."),
    opt("prompts", ArgumentKind::Count, "Prompts per step; or write `batch`."),
    opt("batch", ArgumentKind::Count, "Sequences per step; or write `prompts`."),
    opt("domains", ArgumentKind::Domains, "The domains trained on; all by default."),
];

pub static OBJECTIVE: &[SettingKey] = &[
    opt("select", ArgumentKind::Condition, "Which tokens are trained on: a boolean per token or sequence."),
    opt("weight", ArgumentKind::Formula, "The weight of each token, detached."),
    opt(
        "temperature",
        ArgumentKind::Number,
        "Divides the logits of every `logp`. By default that of the rollout if the student samples the \
         completions, otherwise 1.",
    ),
    req("reduce", ArgumentKind::Reduce, "How tokens and sequences are reduced to one number."),
];

pub static TERM: &[SettingKey] = &[
    opt("when", ArgumentKind::Condition, "Where the term applies: a boolean per token or sequence."),
    opt("weight", ArgumentKind::Formula, "The weight of each token in this term."),
    opt("reduce", ArgumentKind::Reduce, "How this term alone is averaged."),
    opt(
        "data",
        ArgumentKind::Rollout,
        "The completions that this term is trained on; the stage's by default.",
    ),
];

/// Settings of `by domain { ... }` after a `reduce`.
pub static BALANCE: &[SettingKey] = &[
    opt(
        "target",
        ArgumentKind::Number,
        "Share of the loss that each domain should have; its share of the batch's prompts by default.",
    ),
    opt(
        "follow_gap",
        ArgumentKind::Number,
        "Exponent of a domain's mean signal relative to all domains': 1, the default, feeds what is far from its teacher.",
    ),
    opt("clamp", ArgumentKind::Number, "Bounds of that power: `0.05..=20`."),
    opt("observe", ArgumentKind::Truth, "Computes and records the factors without applying them."),
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
