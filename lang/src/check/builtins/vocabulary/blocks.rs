//! The settings of every block.

use mopd_experiment::Checkpointing;

use crate::check::builtins::declare_settings::{keys, settings};
use crate::check::builtins::kinds::SettingKey;
use crate::check::builtins::types::*;

settings! {
    EXPERIMENT => ExperimentBlock {
        /// The first seed; a comparison over `n` seeds runs `seed`, `seed + 1`, ...
        seed: Seed,
        /// Folder for results; the default is `runs/<experiment>`.
        out: Option<Text>,
        /// The device; the default is a GPU if there is one, otherwise the CPU.
        device: Option<Device>,
        /// The compute dtype; `float32` by default.
        dtype: Option<Dtype>,
        /// Whether a GPU computes the same bits each time; `true` by default. The CPU always does.
        deterministic: Truth = true,
        /// Whether a GPU may round the factors of float32 matrix products to TF32; `false` by default.
        tf32: Truth = false,
    }

    DOMAIN => DomainBlock {
        /// Training rows with a `prompt` field: a path in quotes, relative to this file, or `dataset(...)`.
        prompts: Dataset,
        /// Held-out rows in the same layout, for `compare`.
        tests: Option<Dataset>,
        /// Rows in the same layout, for `validate`: no stage is trained on them.
        validation: Option<Dataset>,
        /// Fields in columns with other names: `columns(prompt: question)`.
        fields: Option<FieldColumns>,
        /// How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.
        format: Option<Format>,
        /// With `format = chat`: the system message of every conversation that has none.
        system: Option<Text>,
        /// The reward of a completion, from 0 to 1, or any number with `range: any`. Needed where
        /// something reads it.
        reward: Option<Reward>,
        /// Share of the prompts if several domains are mixed; all shares add up to 1.
        share: Option<Fraction>,
        /// Longest completion in this domain: `limits = 4096 tokens`.
        limits: Option<Count>,
    }

    // How models are judged, by an `eval` or a `compare`.
    EVALUATION => EvaluationBlock {
        /// Sampling temperature; 0 is greedy decoding.
        temperature: GreedyTemperature,
        /// Longest completion, in tokens.
        max_tokens: Count,
        /// Nucleus (top-p) sampling: draws from the most probable entries with at least this mass; off by
        /// default.
        top_p: Option<Fraction>,
        /// Top-k sampling: draws from this many entries; off by default.
        top_k: Option<Count>,
        /// A completion ends after the first of these texts.
        stop: Option<Stop>,
    }

    COMPARE_OWN => CompareBlock {
        /// The rows of the table: a list of models and families.
        models: Models,
        /// How scores are scaled: `normalized(zero: start, one: expert)`.
        score: Option<Score>,
        /// The columns: a list of domains and `eval`s; all domains by default.
        on: Option<Columns>,
        /// Further metrics of a cell: `[pass_at(16), distinct]`.
        metrics: Option<Metrics>,
        /// Completions of each test prompt.
        samples: Count,
        /// Number of seeds that the whole experiment is run with; 1 by default.
        seeds: Count = 1,
        /// Number of test prompts, the first ones; all by default.
        prompts: Option<Count>,
        /// The quantity that every row must have spent the same amount of.
        budget: Option<BudgetUnit>,
        /// Whether what the teachers spent counts towards `budget`.
        teachers: Option<Charges>,
    }

    EVAL_OWN => EvalBlock {
        /// JSON lines with a `prompt` field, relative to this file: prompts that no model is trained on.
        prompts: Text,
        /// Fields in columns with other names: `columns(prompt: question)`.
        fields: Option<FieldColumns>,
        /// How prompts are passed to a model; required if the model is loaded, otherwise `text` by default.
        format: Option<Format>,
        /// With `format = chat`: the system message of every conversation that has none.
        system: Option<Text>,
        /// The reward of a completion, from 0 to 1, or any number with `range: any`.
        reward: Reward,
        /// Completions of each prompt.
        samples: Count,
        /// Further metrics of a cell: `[pass_at(16), distinct]`.
        metrics: Option<Metrics>,
    }

    TEACHER => TeacherBlock {
        /// What the teacher is shown in place of the plain prompt.
        sees: Option<Template>,
        /// Divides its logits; 1 by default.
        temperature: Option<TeacherTemperature>,
        /// What it returns: `dist`, `top_k(20)`, `sampled` or `text`; `dist` for local weights.
        answers: Option<Capability>,
        /// How the student's tokens are aligned with its input; `positions` by default.
        align: Option<Alignment>,
        /// What it sees at masked positions of the student: `all`, or `later_blocks(0.25)`.
        reveals: Option<Reveals>,
        /// The content of `{feedback}` in its template; the verifier's output by default.
        feedback: Option<Rollout>,
        /// Whether it descends from the student's checkpoint; required if the file does not determine it.
        origin: Option<Origin>,
    }

    DEBATE => DebateBlock {
        /// Number of turns of each teacher.
        rounds: Count,
        /// Longest turn, in tokens.
        max_tokens: Count,
        /// Sampling temperature of the turns; 1 by default, 0 is greedy decoding.
        temperature: GreedyTemperature = 1.0,
        /// What each teacher is shown: usually the prompt and `{transcript}`; the prompt alone by default.
        sees: Option<Template>,
        /// A confidence that each teacher states in its last turn: `integer(0..=100)`.
        confidence: Option<Confidence>,
    }

    // `llama`, `qwen2`, `qwen3` and `gemma`.
    DECODER => DecoderBlock {
        /// Number of decoder layers.
        layers: Count,
        /// Width of the residual stream; divides into `heads` heads of even size.
        width: Count<2>,
        /// Attention heads.
        heads: Count,
        /// Key-value heads, shared by groups of heads (GQA); `heads` by default.
        key_value_heads: Option<Count>,
        /// Inner width of the feed-forward part; 8/3 of the width by default, rounded up to a multiple of 32.
        hidden: Option<Count>,
        /// Longest sequence in tokens, prompt and completion together.
        context: Count<2>,
        /// The tokenizer: `bytes`, or in quotes the path of a `tokenizer.json` or of a folder that has one.
        tokenizer: Tokenizer,
        /// Whether embedding and `lm_head` are tied; `true` by default.
        tied: Truth = true,
        /// Base of the rotary positions; 10,000 by default.
        rope_theta: Positive = 10_000.0,
        /// Epsilon of RMSNorm; 1e-5 by default.
        norm_epsilon: Positive = 1e-5,
        /// Standard deviation of the initial weights; sqrt(2 / (5 width)) by default.
        initial_deviation: Option<Positive>,
    }

    MERGE => MergeBlock {
        /// The merge method.
        method: MergeMethod,
        /// Factor of the merged differences; every method but `average` needs it.
        scale: Option<Real>,
        /// `ties`: the fraction of each difference that is kept, as a whole number of its entries, rounded;
        /// equals at the bound are kept.
        density: Option<Fraction>,
        /// `dare`: the fraction of each difference that is dropped at random.
        drop: Option<Fraction>,
    }

    // Of every stage that trains, besides its own.
    STAGE => StageBlock {
        /// Optimizer steps, or `2 epochs`: passes over the prompts.
        steps: Steps,
        /// The learning rate: a number or a schedule.
        lr: Schedule,
        /// `adamw(...)`, `sgd(...)` or `private_adamw(...)`; `adamw` with its defaults by default.
        optimizer: Option<Optimizer>,
        /// The frozen model of the role `reference`; a family has one per domain.
        reference: Option<References>,
        /// What the student is shown in place of the plain prompt.
        sees: Option<Template>,
        /// Passes over each batch of rollouts; 1 by default.
        #[at_most(65_536, "each of them goes through the same batch again")]
        passes: Count = 1,
        /// Parts of a batch, an update for each; 1 by default.
        #[at_most(65_536, "each of them is an update of the weights")]
        mini_batches: Count = 1,
        /// Trains only on prompts for which this holds, one boolean per prompt.
        filter: Option<Condition>,
        /// Prompts with larger numbers come first, one number per prompt, measured before steps.
        priority: Option<Formula>,
        /// Steps after which filter and priority are measured again of all prompts; never by default.
        refresh: Option<Count>,
        /// What the domains' shares of a step's prompts are proportional to, one number per domain: `0.1 +
        /// state.gap`.
        shares: Option<Formula>,
        /// Trains small matrices beside frozen weights: `lora(...)` or `dora(...)`.
        adapter: Option<Adapter>,
        /// The parts of the model that are trained, `[attention, layers(8..=11)]`; all by default.
        train_only: Option<Weights>,
        /// Parts of the model that are not trained.
        freeze: Option<Weights>,
        /// Sequences per forward and backward pass; all of a step by default. Less memory, the same result up
        /// to rounding.
        micro_batch: Option<Count>,
        /// Number of layers, or `all`, that recompute their activations in the backward pass; none by
        /// default. Less memory, more work, the same result up to rounding.
        checkpointing: Layers = Checkpointing::None,
        /// Makes the exponential moving average of the weights, with this decay, the output of the stage.
        ema: Option<AverageDecay>,
        /// Extrapolates the weights beyond the updates so far: `extrapolate(factor: 2, ...)`.
        extrapolate: Option<Extrapolation>,
        /// Computes the validation loss as it trains: `validate(target: answer, every: 10 steps)`.
        validate: Option<Validation>,
        /// What to do when the numbers of steps go wrong: `[warn(entropy < 0.1, for: 10 steps)]`.
        guards: Option<Guards>,
        /// Compares the gradients of terms or domains as it trains: `gradient_alignment(every: 20 steps)`.
        gradient_alignment: Option<GradientAlignment>,
    }

    SFT_OWN => SftBlock {
        /// The field of the data to imitate; or write `rollout`.
        target: Option<Field>,
        /// Imitate completions, usually the routed teachers': `from(teacher, ...)`; or write `target`.
        rollout: Option<Rollout>,
        /// Which rollouts of the teachers are imitated.
        keep: Option<Keep>,
        /// Sequences per step; or write `prompts`.
        batch: Count,
        /// Prompts per step; or write `batch`.
        prompts: Option<Count>,
        /// The objective; `std.sft.nll` by default.
        objective: Option<Objective>,
    }

    GRPO_OWN => GrpoBlock {
        /// Prompts per step; or write `batch`.
        prompts: Count,
        /// Sequences per step; or write `prompts`.
        batch: Option<Count>,
        /// Samples of each prompt: the size of a group.
        samples: Count,
        /// Longest completion, in tokens: a number or a schedule.
        max_tokens: Whole,
        /// Sampling temperature of the rollouts, a number or a schedule; 1 by default.
        temperature: Option<PositiveTemperature>,
        /// Nucleus (top-p) sampling of the rollouts: draws from the most probable entries with at least this
        /// mass; off by default.
        top_p: Option<Fraction>,
        /// Top-k sampling of the rollouts: draws from this many entries; off by default.
        top_k: Option<Count>,
        /// A completion ends after the first of these texts.
        stop: Option<Stop>,
        /// A rollout in place of `samples`, `max_tokens`, `temperature` and similar settings.
        rollout: Option<Rollout>,
        /// The objective; `std.rl.grpo_loss` by default.
        objective: Option<Objective>,
    }

    DISTILL_OWN => DistillBlock {
        /// The objective, such as `mopd` of `std.opd`.
        objective: Objective,
        /// Where completions come from: `sample(...)`, `from(teacher, ...)`, `data(field)`, ...
        rollout: Rollout,
        /// Prompts per step; or write `batch`.
        prompts: Count,
        /// Sequences per step; or write `prompts`.
        batch: Option<Count>,
        /// The domains trained on; all by default.
        domains: Option<Domains>,
    }

    DPO_OWN => DpoBlock {
        /// The preferred completions.
        chosen: Rollout,
        /// The rejected completions.
        rejected: Rollout,
        /// Strength of the anchor to the reference.
        beta: Schedule,
        /// Pairs per step; or write `prompts`.
        batch: Count,
        /// Prompts per step; or write `batch`.
        prompts: Option<Count>,
    }

    // One kind of update of a `train`.
    STEP_OWN => StepBlock {
        /// The trained model that this step updates.
        updates: Model,
        /// The objective; `student` in it is the model that the step updates.
        objective: Objective,
        /// Steps between two updates; 1 by default.
        every: Count = 1,
        /// Where completions come from; optional if every term has its own.
        rollout: Option<Rollout>,
        /// Prompts per step; or write `batch`.
        prompts: Option<Count>,
        /// Sequences per step; or write `prompts`.
        batch: Option<Count>,
        /// The domains trained on; all by default.
        domains: Option<Domains>,
    }

    // `trains name = model { ... }`
    MEMBER => MemberBlock {
        /// What the model is shown in place of the plain prompt.
        sees: Option<Template>,
    }

    TERM => TermBlock {
        /// Where the term applies: a boolean per token or sequence.
        when: Option<Condition>,
        /// The weight of each token in this term.
        weight: Option<Formula>,
        /// How this term alone is averaged.
        reduce: Option<Reduce>,
        /// The completions that this term is trained on; the stage's by default.
        data: Option<Rollout>,
    }

    // `by domain { ... }`, after a `reduce`.
    BALANCE => BalanceBlock {
        /// Share of the loss that each domain should have; its share of the batch's prompts by default.
        target: Option<BalanceTarget>,
        /// Exponent of a domain's mean signal relative to all domains': 1, the default, feeds what is far
        /// from its teacher.
        follow_gap: Real = 1.0,
        /// Bounds of that power: `0.05..=20`.
        clamp: Option<BalanceClamp>,
        /// Computes and records the factors without applying them.
        observe: Truth = false,
    }
}

// Settings of all steps of a `train`, unless a step has its own.
keys! {
    TRAIN_OWN {
        /// Prompts per step; or write `batch`.
        prompts: Option<Count>,
        /// Sequences per step; or write `prompts`.
        batch: Option<Count>,
        /// The domains trained on; all by default.
        domains: Option<Domains>,
        /// Where completions come from.
        rollout: Option<Rollout>,
    }
}

// An objective also holds `let`, `state` and `term`, and reads its settings itself.
keys! {
    OBJECTIVE {
        /// Which tokens are trained on: a boolean per token or sequence.
        select: Option<Condition>,
        /// The weight of each token, detached.
        weight: Option<Formula>,
        /// Divides the logits of every `logp`. By default that of the rollout if the student samples the
        /// completions, otherwise 1.
        temperature: Option<Real>,
        /// How tokens and sequences are reduced to one number.
        reduce: Reduce,
    }
}

/// The block's own keys, with those of a group before the one of index `before`.
const fn with<const N: usize>(own: &[SettingKey], before: usize, group: &[SettingKey]) -> [SettingKey; N] {
    let mut keys = [group[0]; N];
    let mut index = 0;
    while index < N {
        keys[index] = match index {
            _ if index < before => own[index],
            _ if index < before + group.len() => group[index - before],
            _ => own[index - group.len()],
        };
        index += 1;
    }
    keys
}

macro_rules! with {
    ($own:ident, $before:expr, $group:ident) => {
        &with::<{ $own.len() + $group.len() }>($own, $before, $group)
    };
}

pub const COMPARE: &[SettingKey] = with!(COMPARE_OWN, 5, EVALUATION);
pub const EVAL: &[SettingKey] = with!(EVAL_OWN, 6, EVALUATION);
pub const SFT: &[SettingKey] = with!(SFT_OWN, SFT_OWN.len(), STAGE);
pub const GRPO: &[SettingKey] = with!(GRPO_OWN, GRPO_OWN.len(), STAGE);
pub const DISTILL: &[SettingKey] = with!(DISTILL_OWN, DISTILL_OWN.len(), STAGE);
pub const DPO: &[SettingKey] = with!(DPO_OWN, DPO_OWN.len(), STAGE);
pub const STEP: &[SettingKey] = with!(STEP_OWN, STEP_OWN.len(), STAGE);
pub const TRAIN: &[SettingKey] = with!(TRAIN_OWN, TRAIN_OWN.len(), STAGE);

/// Every block that has settings: an item such as `domain`, a stage such as `grpo`.
pub const BLOCKS: &[(&str, &[SettingKey])] = &[
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
