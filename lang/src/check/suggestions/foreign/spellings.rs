//! Names of other libraries in expressions.

use crate::diag::same_letters;

/// The counterpart of another library's name in an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A name that replaces it, whatever follows.
    Name(&'static str),
    /// Words that say how to write it.
    Otherwise(&'static str),
}

const LOGITS: Spelling = Spelling::Otherwise(
    "the log-probability of the sampled token is `student.logp`; a divergence compares whole distributions: \
     `live kl(student || teacher)`",
);

/// Functions, roles and signals. A name that is one letter away from one of the language is listed only if
/// suggesting that one would mislead.
const NAMES: &[(&[&str], Spelling)] = &[
    (&["clamp", "clip_by_value"], Spelling::Name("clip")),
    (&["kl_div", "kl_divergence", "kld", "kldiv"], Spelling::Name("kl")),
    (&["log_softmax", "logits", "teacher_logits", "student_logits"], LOGITS),
    (
        &["default", "otherwise", "others"],
        Spelling::Otherwise("the remaining cases are written `else -> ...`"),
    ),
    (
        &["load", "load_from_disk", "open", "read_json", "read_text"],
        Spelling::Otherwise(
            "a model is `hf(\"FOLDER\")`, data is its path in quotes, and the text of a template \
             `file(\"shown.txt\")`",
        ),
    ),
    (
        &["uniform", "rand", "randn", "random_uniform"],
        Spelling::Otherwise("`random(per: token)` is drawn uniformly from [0, 1)"),
    ),
    (
        &["optim", "optimizers"],
        Spelling::Otherwise("an optimizer is a setting of the stage: `optimizer = adamw(weight_decay: 0.1)`"),
    ),
    (&["when", "cond", "choose", "select_where"], Spelling::Name("where")),
    (
        &["replace", "copy", "deepcopy", "clone"],
        Spelling::Otherwise("a model with other settings is `student with { lr = 1e-4 }`"),
    ),
    (
        &["len", "size_of", "num_rows"],
        Spelling::Otherwise(
            "the number of rows is no value here: `steps = 2 epochs` is the length of a stage in passes over \
             its data",
        ),
    ),
    (
        &["os", "Path", "pathlib"],
        Spelling::Otherwise(
            "a path is one text in quotes, relative to the folder of this file: `\"data/math.jsonl\"`",
        ),
    ),
    (&["js_div", "js_divergence", "js", "jensen_shannon"], Spelling::Name("jsd")),
    (&["total_variation", "tvd"], Spelling::Name("tv")),
    (&["chi_squared", "chi_square"], Spelling::Name("chi2")),
    (&["minimum"], Spelling::Name("min")),
    (&["maximum"], Spelling::Name("max")),
    (&["logarithm", "ln"], Spelling::Name("log")),
    (
        &["if", "ifelse", "iff", "ternary"],
        Spelling::Otherwise("a choice is written `where(condition, a, b)`"),
    ),
    (
        &["epochs", "epoch"],
        Spelling::Otherwise("the length of a stage is set in passes over its data by `steps = 2 epochs`"),
    ),
    (&["range"], Spelling::Otherwise("a list is written out, `[1, 2, 3]`, or as `1..=3`")),
    (&["pow", "square"], Spelling::Otherwise("a power is written `x^2`")),
    (
        &["std", "var"],
        Spelling::Otherwise("`zscore(x, over: group, deviation: sample)` is (x - mean) / deviation"),
    ),
    (
        &["whiten", "normalize", "standardize"],
        Spelling::Otherwise("write `zscore(x, over: batch, deviation: sample)`"),
    ),
    (
        &["reverse_kl", "rkl"],
        Spelling::Otherwise(
            "the reverse divergence is `kl(student || teacher)`, the forward one `kl(teacher || student)`",
        ),
    ),
    (
        &["forward_kl", "fkl"],
        Spelling::Otherwise(
            "the forward divergence is `kl(teacher || student)`, the reverse one `kl(student || teacher)`",
        ),
    ),
    (
        &["cross_entropy", "ce", "nll_loss"],
        Spelling::Otherwise(
            "`-live student.logp` is the loss of the token taken, `live nll(teacher)` that of the teacher's",
        ),
    ),
    (
        &["stop_gradient", "stop_grad", "stopgrad", "sg", "detach", "no_grad"],
        Spelling::Otherwise("nothing needs to be detached: only what is marked `live` carries gradient"),
    ),
    (
        &[
            "old_log_prob",
            "old_log_probs",
            "old_logprobs",
            "old_logp",
            "log_prob_old",
            "behavior_logp",
            "rollout_log_probs",
        ],
        Spelling::Name("sampler.logp"),
    ),
    (
        &[
            "log_prob",
            "log_probs",
            "logprobs",
            "logprob",
            "logp",
            "logp_student",
            "student_logp",
            "policy_logp",
            "log_pi",
            "new_log_probs",
        ],
        Spelling::Name("student.logp"),
    ),
    (
        &["teacher_log_probs", "teacher_logprobs", "teacher_logp", "logp_teacher", "log_prob_teacher"],
        Spelling::Name("teacher.logp"),
    ),
    (&["ref_log_prob", "ref_log_probs", "ref_logp", "ref_logprobs"], Spelling::Name("reference.logp")),
    (&["student_entropy"], Spelling::Name("student.entropy")),
    (&["teacher_entropy"], Spelling::Name("teacher.entropy")),
    (&["ref_policy", "ref_model", "ref", "reference_policy", "pi_ref"], Spelling::Name("reference")),
    (&["old_policy", "pi_old"], Spelling::Name("old")),
    (&["old_log_prob", "old_log_probs", "old_logp", "old_logprobs"], Spelling::Name("old.logp")),
    (
        &["rollout_log_prob", "rollout_log_probs", "sampling_logprobs", "sampling_per_token_logps"],
        Spelling::Name("sampler.logp"),
    ),
    (&["behavior", "behaviour"], Spelling::Name("sampler")),
    (&["policy", "actor", "pi_theta"], Spelling::Otherwise("the model that is trained is called `student`")),
    (
        &["advantage", "advantages"],
        Spelling::Otherwise(
            "an advantage is written out: `let advantage = zscore(reward, over: group, deviation: sample)`",
        ),
    ),
    (&["rewards", "returns"], Spelling::Name("reward")),
    (&["vocab", "num_vocab"], Spelling::Name("vocab_size")),
    (&["adam", "adam_w"], Spelling::Name("adamw")),
    (
        &["from_pretrained", "load_model", "huggingface", "AutoModel", "AutoModelForCausalLM"],
        Spelling::Name("hf"),
    ),
    (&["load_dataset", "load_data"], Spelling::Name("dataset")),
    (&["LoraConfig", "get_peft_model"], Spelling::Name("lora")),
    (&["exact", "exact_match_reward", "string_match"], Spelling::Name("exact_match")),
    (&["math_verify", "numeric_match"], Spelling::Name("numeric")),
    (
        &["on_policy", "generate", "rollouts", "completions", "vllm", "sglang"],
        Spelling::Otherwise(
            "the student's own completions are `sample(n: 1, temperature: 1, max_tokens: 256)`",
        ),
    ),
    (
        &["off_policy_data", "offline"],
        Spelling::Otherwise(
            "completions of the data are `data(answer)`, those of the teacher `from(teacher, ...)`",
        ),
    ),
    (&["filter"], Spelling::Name("keep")),
    (
        &["cosine_with_warmup", "cosine_annealing", "CosineAnnealingLR", "get_cosine_schedule_with_warmup"],
        Spelling::Otherwise("write `warmup(10 steps, then: cosine(1e-3 -> 1e-4))`"),
    ),
    (&["ece", "expected_calibration_error", "brier", "brier_score"], Spelling::Name("calibration")),
    (
        &["accuracy", "acc", "pass_rate"],
        Spelling::Otherwise(
            "the mean reward is in every cell; metrics are `pass_at(k)`, `distinct`, `length`, \
             `calibration` and `entropy`",
        ),
    ),
];

/// The counterpart of a name in an expression.
pub fn name(name: &str) -> Option<Spelling> {
    let (_, ours) =
        NAMES.iter().find(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)))?;
    Some(*ours)
}

/// Whether a name is a library's, as in `torch.clamp`.
pub fn is_library(name: &str) -> bool {
    matches!(
        name,
        "torch"
            | "F"
            | "nn"
            | "np"
            | "numpy"
            | "math"
            | "jnp"
            | "jax"
            | "tf"
            | "transformers"
            | "AutoModelForCausalLM"
            | "AutoModel"
            | "peft"
            | "trl"
    )
}

/// The counterpart of another library's name for a part of a role.
pub fn part(name: &str) -> Option<Spelling> {
    const PARTS: &[(&[&str], Spelling)] = &[
        (
            &["log_prob", "log_probs", "logprob", "logprobs", "log_p", "lp", "logps", "per_token_logps"],
            Spelling::Name("logp"),
        ),
        (&["ent", "entropies"], Spelling::Name("entropy")),
        (&["distribution"], Spelling::Name("dist")),
        (&["max_prob", "top_1", "maximum"], Spelling::Name("top1")),
        (&["std", "stddev"], Spelling::Name("deviation")),
        (&["values", "v"], Spelling::Name("value")),
        (
            &["p", "prob", "probs", "probability", "probabilities"],
            Spelling::Otherwise(
                "the probability of the sampled token is `exp(student.logp)`; a divergence compares whole \
                 distributions: `live kl(student || teacher)`",
            ),
        ),
        (&["logit", "logits", "softmax", "log_softmax"], LOGITS),
        (&["kl", "kl_div"], Spelling::Otherwise("a divergence is a function: `live kl(student || teacher)`")),
        (
            &["generate", "sample"],
            Spelling::Otherwise(
                "the student's own completions are `sample(n: 1, temperature: 1, max_tokens: 256)`",
            ),
        ),
    ];
    let (_, ours) =
        PARTS.iter().find(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)))?;
    Some(*ours)
}
