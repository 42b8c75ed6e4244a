//! The numbers of `metrics.parquet`, by the names of their columns. The worker writes a column per field of a
//! row of its own, and a test there holds that each is in one of these lists.

/// What each domain has of its own, in the order in which it is shown.
pub const OF_DOMAIN: [&str; 24] = [
    "reward",
    "dropped",
    "divergence",
    "entropy",
    "length",
    "truncated",
    "signal_mean",
    "clipped_fraction",
    "domain_weight",
    "accepted",
    "accepted_length",
    "tokens_per_step",
    "agreement",
    "correct_of_others",
    "unavailable",
    "unstated",
    "derived",
    "replayed",
    "staleness",
    "chosen_prompts",
    "priority",
    "prompt_share",
    "token_share",
    "signal_share",
];
/// What the whole step has.
pub const OF_STEP: [&str; 12] = [
    "loss",
    "validation_loss",
    "gradient_norm",
    "trained_share",
    "learning_rate",
    "learned",
    "extrapolated",
    "judged",
    "expert_entropy",
    "expert_largest_share",
    "seconds",
    "memory",
];
/// What is in neither: what a row is of, and what is shown in other ways or not at all.
pub const OTHERS: [&str; 12] = [
    "seed",
    "stage",
    "step",
    "domain",
    "teacher",
    "terms",
    "divergence_floor",
    "tokens",
    "rollout_seconds",
    "scoring_seconds",
    "update_seconds",
    "time",
];
