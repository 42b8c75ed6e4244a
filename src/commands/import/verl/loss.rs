//! What verl minimises: `distillation_loss`, or its policy gradient on rewards.

use super::super::draft::{COUNT, Draft, number};
use super::{ACTOR, LOSS, ROLLOUT, Settings};

/// Of `kl_penalty_forward`: the log-ratio of `k3` is bounded by one, its value by the other.
const LOG_RATIO_BOUND: f64 = 20.0;
const K3_BOUND: f64 = 10.0;

fn reduce(settings: &Settings, draft: &mut Draft) -> &'static str {
    match settings.text(&format!("{ACTOR}.loss_agg_mode")).as_str() {
        "token-mean" => "mean(token, over: batch)",
        "seq-mean-token-mean" => "mean(token) then mean(sequence)",
        "seq-mean-token-sum" => "sum(token) then mean(sequence)",
        "token-sum" => "sum(token, over: batch)",
        other => {
            let why = "written as the mean over tokens: see `reduce`";
            draft.leave(format!("{ACTOR}.loss_agg_mode = {other}"), why);
            "mean(token, over: batch)"
        }
    }
}

/// The objective `pull`. Whether its value at a prefix does not depend on how the prefix was drawn: the
/// rollout may then leave tokens out.
pub fn distillation(settings: &Settings, temperature: f64, draft: &mut Draft) -> bool {
    let of = |name: &str| format!("{LOSS}.{name}");
    let mode = settings.text(&of("loss_mode"));
    let as_reward = settings.flag(&of("use_policy_gradient"));
    let reduce = reduce(settings, draft);
    let bound = settings.given.number(&of("loss_max_clamp"));
    if settings.flag(&of("use_task_rewards")) {
        let coefficient = settings.number(&of("distillation_loss_coef"));
        draft.leave(
            format!("{} = true, distillation_loss_coef = {coefficient}", of("use_task_rewards")),
            "a policy gradient on rewards is a term of its own: `std.rl` has its forms",
        );
    }
    if let Some(least) = settings.given.number(&of("log_prob_min_clamp")) {
        let why = "log-probabilities have no bound; `clip` bounds their difference";
        draft.leave(format!("{} = {least}", of("log_prob_min_clamp")), why);
    }
    // Of a value that is not negative; where it is reached, the gradient stops, as with `torch.clamp`.
    let bounded = |value: String| match bound {
        Some(bound) => format!("term distill = min({value}, {})", number(bound)),
        None => format!("term distill = {value}"),
    };
    let term = match (mode.as_str(), as_reward) {
        ("forward_kl_topk", _) => {
            if as_reward {
                draft.note(
                    "As a reward, a divergence over entries does not depend on the token taken, so that its \
                     mean gradient is 0; it is differentiated here.",
                );
            }
            draft.note(
                "verl sets a partial sum below 0 to 0, which deletes its gradient; `mass: tail` is never \
                 below 0.",
            );
            let k = draft.within(&of("topk"), settings.number(&of("topk")), 32.0, COUNT);
            let heat = if temperature == 1.0 {
                String::new()
            } else {
                format!(", temperature: {}", number(temperature))
            };
            bounded(format!("live kl(teacher || student, support: top_k(teacher, {k}), mass: tail{heat})"))
        }
        ("k1" | "kl", true) => policy_gradient(settings, bound, draft),
        ("k1" | "kl", false) => {
            draft.note(
                "Differentiated directly, the mean gradient of this estimator is 0: it is written as an \
                 advantage, whose gradient is that of KL(student || teacher).",
            );
            format!("{}\n{UNCLIPPED}", advantage(bound))
        }
        ("k2" | "mse", false) => bounded("(live student.logp - teacher.logp)^2 / 2".to_owned()),
        ("abs", false) => bounded("abs(live student.logp - teacher.logp)".to_owned()),
        ("k3" | "low_var_kl", false) => {
            draft.note(
                "verl bounds the log-ratio of k3 by 20 and its value by 10 (`kl_penalty_forward`): no \
                 gradient passes beyond.",
            );
            let gap =
                format!("clip(teacher.logp - live student.logp, -{LOG_RATIO_BOUND}, {LOG_RATIO_BOUND})");
            let most = bound.map_or(K3_BOUND, |bound| bound.min(K3_BOUND));
            format!(
                "// allow(other-gradient): that is what the estimator is\n\
                 term distill = min(exp({gap}) - 1 - {gap}, {})",
                number(most)
            )
        }
        (other, as_reward) => {
            let how = if as_reward { "as a reward" } else { "differentiated" };
            draft.leave(
                format!("{} = {other}", of("loss_mode")),
                format!("{how}, it follows no divergence: written as k1"),
            );
            if as_reward {
                policy_gradient(settings, bound, draft)
            } else {
                format!("{}\n{UNCLIPPED}", advantage(bound))
            }
        }
    };
    draft.objective.push(format!("objective pull {{\n{term}\nreduce = {reduce}\n}}"));
    draft.set("objective", "pull");
    mode == "forward_kl_topk"
}

const UNCLIPPED: &str = "term distill = -advantage * live student.logp";

/// k1 as an advantage: of the student as it is at each pass, as verl computes it.
fn advantage(bound: Option<f64>) -> String {
    let gap = "teacher.logp - student.logp";
    match bound {
        Some(bound) => format!("let advantage = clip({gap}, -{0}, {0})", number(bound)),
        None => format!("let advantage = {gap}"),
    }
}

fn policy_gradient(settings: &Settings, bound: Option<f64>, draft: &mut Draft) -> String {
    let advantage = advantage(bound);
    let (low, high) = clip_ratios(settings, LOSS);
    if super::updates(settings) > 1.0 {
        draft.note(
            "From the second update from a batch on the ratio to the policy that drew is not 1: it is clipped \
             as verl does, at 3 too where the advantage is negative (arXiv:1912.09729). \
             `std.estimators.k1_clipped` is without that.",
        );
        return format!("{advantage}\nterm distill = {}", surrogate(low, high, 3.0));
    }
    draft.note(
        "Of one update from each batch the ratio to the policy that drew is 1, and PPO's clip does nothing.",
    );
    for (name, value) in [("clip_ratio_low", low), ("clip_ratio_high", high)] {
        if settings.given.setting(&format!("{LOSS}.{name}")).is_some() {
            let why = "a ratio of 1 is never clipped: `std.estimators.k1_clipped`";
            draft.leave(format!("{LOSS}.{name} = {value}"), why);
        }
    }
    format!("{advantage}\n{UNCLIPPED}")
}

/// verl's bounds of a ratio. Both have defaults, so that `clip_ratio` holds only where they are null.
fn clip_ratios(settings: &Settings, section: &str) -> (f64, f64) {
    let both = format!("{section}.clip_ratio");
    let one = |name: &str| {
        let path = format!("{section}.{name}");
        if settings.given.is_null(&path) { settings.number(&both) } else { settings.number(&path) }
    };
    (one("clip_ratio_low"), one("clip_ratio_high"))
}

/// PPO's surrogate with a second bound where the advantage is negative: `min(loss, -most * advantage)` is
/// the same there as a ratio of `most` at most. Where it is positive the ratio is clipped below that anyway.
fn surrogate(low: f64, high: f64, most: f64) -> String {
    let (below, above) = (number(1.0 - low), number(1.0 + high));
    format!(
        "-min(min(live ratio, {}) * advantage, clip(live ratio, {below}, {above}) * advantage)",
        number(most.max(1.0 + high))
    )
}

/// The objective `rewarded`: verl's own loss has another mean than `grpo_loss`, and bounds of its own.
pub fn grpo(settings: &Settings, draft: &mut Draft) {
    let estimator = settings.text("algorithm.adv_estimator");
    if estimator != "grpo" {
        let why = "written as grpo: `std.rl` and `std.ppo` have others";
        draft.leave(format!("algorithm.adv_estimator = {estimator}"), why);
    }
    let advantage = if settings.number(&format!("{ROLLOUT}.n")) < 2.0 {
        // A group of one has the mean 0 and the deviation 1 in verl.
        "reward"
    } else if settings.flag("algorithm.norm_adv_by_std_in_grpo") {
        "zscore(reward, over: group, deviation: sample)"
    } else {
        "reward - mean(reward, over: group)"
    };
    let reduce = reduce(settings, draft);
    let (low, high) = clip_ratios(settings, ACTOR);
    let most = settings.number(&format!("{ACTOR}.clip_ratio_c"));
    let surrogate = surrogate(low, high, most);
    draft.objective.push(format!(
        "objective rewarded {{\nlet advantage = {advantage}\nterm policy = {surrogate}\nreduce = {reduce}\n}}"
    ));
    draft.set("objective", "rewarded");
    if settings.given.flag(&format!("{ACTOR}.use_kl_loss")) == Some(true) {
        let coefficient = settings.number(&format!("{ACTOR}.kl_loss_coef"));
        draft.leave(
            format!("{ACTOR}.use_kl_loss = true, kl_loss_coef = {coefficient}"),
            "`objective = std.kl_penalty.grpo_anchored` with `reference = start`",
        );
    }
}
