//! Rewards compared within the samples of a prompt, and what is added to them.

use mopd_plan::Axis;

use crate::weights::case::{Case, of};
use crate::weights::math::{clipped, deviation, mean, sigmoid, smallest, standardised};
use crate::weights::table::{At, STEP, STEPS, values};

/// (R - mean_G) / (std_G + eps): card B5, GRPO.
fn outcome(t: At) -> f64 {
    in_group(t, |s| s.s("reward"))
}

fn in_group(t: At, number: impl Fn(At) -> f64) -> f64 {
    standardised(number(t), &values(&t.samples(), number))
}

fn with_clips(case: Case) -> Case {
    case.with("clip_low", "0.2").with("clip_high", "0.3")
}

pub fn cases() -> Vec<Case> {
    [reinforcement(), with_a_teacher(), critics(), judges()].into_iter().flatten().collect()
}

/// Card B5.
fn reinforcement() -> Vec<Case> {
    let anchored = |path| of(path).with("anchor", "0.1").clipped("policy", 0.2, 0.2, outcome);
    let apart = |t: At| t.student() - t.s("reference.logp");
    vec![
        // GRPO (arXiv:2402.03300) with the clip of PPO.
        of("rl.grpo_loss").clipped("policy", 0.2, 0.2, outcome),
        // Dr. GRPO (arXiv:2503.20783): R - mean, no deviation.
        of("rl.dr_grpo")
            .clipped("policy", 0.2, 0.2, |t| t.s("reward") - mean(&values(&t.samples(), |s| s.s("reward")))),
        // DAPO (arXiv:2503.14476): clip 0.2 / 0.28.
        of("rl.dapo").clipped("policy", 0.2, 0.28, outcome),
        // Its soft overlong penalty (eq. 13): 0 up to L_max - L_cache, then ((L_max - L_cache) - |y|) /
        // L_cache, -1 from L_max on.
        of("rl.dapo_overlong").with("longest", "8").with("margin", "3").clipped("policy", 0.2, 0.28, |t| {
            in_group(t, |s| {
                let length = s.s("length");
                let penalty = if length <= 8.0 - 3.0 {
                    0.0
                } else if length <= 8.0 {
                    (8.0 - 3.0 - length) / 3.0
                } else {
                    -1.0
                };
                s.s("reward") + penalty
            })
        }),
        // GSPO (arXiv:2507.18071): s = exp(mean_t log ratio), one clipped ratio per sequence; its derivative
        // is shared by the tokens, and the term stands once for each of them.
        of("rl.gspo").curved(
            "policy",
            |t| clipped(drift(t), outcome(t), 3e-4, 4e-4),
            |t| crate::weights::math::clipped_derivative(drift(t), outcome(t), 3e-4, 4e-4),
        ),
        // RLOO (arXiv:2402.14740, eq. 8): R(y_i) - mean of R(y_j), j other than i, times the gradient of the
        // log-probability.
        of("rl.rloo").linear("policy", "student.logp", |t| {
            let all = values(&t.samples(), |s| s.s("reward"));
            let others = (all.iter().sum::<f64>() - t.s("reward")) / (all.len() as f64 - 1.0);
            others - t.s("reward")
        }),
        // The anchor as k2 (card B0.4): half the squared log-ratio.
        anchored("kl_penalty.grpo_anchored").curved(
            "near",
            move |t| 0.1 * apart(t).powi(2) / 2.0,
            move |t| 0.1 * apart(t),
        ),
        // k3 to the reference, as published: exp(-d) - 1 + d.
        anchored("kl_penalty.grpo_k3").curved(
            "near",
            move |t| 0.1 * ((-apart(t)).exp() - 1.0 + apart(t)),
            move |t| 0.1 * (1.0 - (-apart(t)).exp()),
        ),
        anchored("kl_penalty.grpo_anchored_full").linear("near", "kl(student || reference)", |_| 0.1),
        // Card B1.7, stage 1: reward with nothing that holds it back; the weak side the other way.
        of("erpd.extreme").with("side", "-1").linear("push", "student.logp", outcome),
        // Card A1.6: A = (r - mean_G) / (std_G + eps), then normalised over the batch without groups that
        // are all zero; 0.2 / 0.28.
        of("zppo.zppo_loss").clipped("policy", 0.2, 0.28, |t| {
            let telling = |s: At| s.samples().into_iter().any(|other| outcome(other) != 0.0);
            let all: Vec<At> =
                t.each(Axis::Sequence, Axis::Batch).into_iter().filter(|s| telling(*s)).collect();
            if telling(t) { standardised(outcome(t), &values(&all, outcome)) } else { 0.0 }
        }),
    ]
}

/// exp(mean over the sequence of log(pi / pi_old))
fn drift(t: At) -> f64 {
    t.mean(Axis::Sequence, |u| u.student() - u.old()).exp()
}

fn with_a_teacher() -> Vec<Case> {
    // Card B1.2: d_k = mean over step k of |s_lp - t_lp|; w_1 = 1, w_k = min(prod (d_u + eps) / (d_(u+1) +
    // eps), 1 + delta).
    let trust = |t: At| {
        let steps = t.each(Axis::Turn, Axis::Sequence);
        let distance: Vec<f64> = values(&steps, |step| step.mean(Axis::Turn, |u| u.gap().abs()));
        let here = steps
            .iter()
            .position(|step| step.element(Axis::Turn) == t.element(Axis::Turn))
            .expect("a token has a turn");
        let product: f64 = (0..here).map(|u| (distance[u] + 1e-6) / (distance[u + 1] + 1e-6)).product();
        product.min(1.2)
    };
    vec![
        // Card B1.3: J = J_GRPO - lambda * KL, the divergence in the loss; or k1 of it in the advantage.
        with_clips(of("dgrpo.dgrpo").with("guidance", "0.4")).clipped("policy", 0.2, 0.3, outcome).linear(
            "follow",
            "kl(student || teacher)",
            |_| 0.4,
        ),
        with_clips(of("dgrpo.dgrpo_advantage").with("guidance", "0.4"))
            .clipped("policy", 0.2, 0.3, |t| outcome(t) + 0.4 * t.sampled_gap()),
        // A = A_grpo + c * w_step * sg(t_lp - old_lp).
        of("sod.sod").clipped("policy", 0.2, 0.28, move |t| outcome(t) + trust(t) * t.sampled_gap()),
        // beta_t = beta_min + (beta_max - beta_min) * sigmoid(-gamma * A_task); A = A_task + beta_t * gap.
        of("sod.sod_gated").with("least", "0.1").with("most", "0.9").with("steepness", "2").clipped(
            "policy",
            0.2,
            0.28,
            |t| outcome(t) + (0.1 + (0.9 - 0.1) * sigmoid(-2.0 * outcome(t))) * t.gap(),
        ),
    ]
}

/// Card B1.13: PPO with GAE, and an imitation term that falls along half a cosine.
fn critics() -> Vec<Case> {
    // A_t = sum over l of (gamma * lambda)^l * delta_(t+l), delta_t = r_t + gamma * V_(t+1) - V_t, the reward
    // with the last action.
    let estimated = |t: At, critic: &'static str, discount: f64, trace: f64| {
        let delta = move |u: At| {
            let after = u.peers(Axis::Sequence).into_iter().find(|other| other.token == u.token + 1);
            let reward = if after.is_none() { u.s("reward") } else { 0.0 };
            reward + discount * after.map_or(0.0, |after| after.s(critic)) - u.s(critic)
        };
        t.onwards(|later| (discount * trace).powi((later.token - t.token) as i32) * delta(later))
    };
    // The code standardises advantages, with the deviation of a sample.
    let standard = move |t: At, discount: f64| {
        let all = t.peers(Axis::Batch);
        let all: Vec<f64> = all.into_iter().map(|u| estimated(u, "critic.value", discount, 0.9)).collect();
        standardised(estimated(t, "critic.value", discount, 0.9), &all)
    };
    let falling = || 0.5 * (std::f64::consts::PI * f64::from(STEP) / f64::from(STEPS)).cos() + 0.5;
    vec![
        of("rpd.rpd").clipped("policy", 0.2, 0.2, move |t| standard(t, 0.99)).linear(
            "imitate",
            "mse(student.mean, teacher.mean)",
            move |_| falling(),
        ),
        // clamp(ratio, min 1 - eps) * KL(N_S || N_T)
        of("rpd.rpd_gaussian")
            .with("discount", "0.8")
            .clipped("policy", 0.2, 0.2, move |t| standard(t, 0.8))
            .linear("imitate", "gaussian_kl(student || teacher)", move |t| {
                falling() * t.ratio().max(1.0 - 0.2)
            }),
        // 0.5 * MSE to the return A + V.
        of("rpd.rpd_critic")
            .linear("fit", "mse(student.value, ...)", |_| 0.5)
            .inside(move |t| estimated(t, "student.value", 0.99, 0.9) + t.s("student.value")),
    ]
}

/// Card B1.5: A = alpha_c * zG(r_cap) + alpha_r * zG(r_cot); ill-formed outputs get the minimum of the others
/// in their group less 1.
fn judges() -> Vec<Case> {
    const CAPTION: &str = "score(judge, on: span.caption)";
    const THINK: &str = "score(judge, on: span.think)";
    let judged = |t: At, part: &'static str| {
        in_group(t, |s| {
            if s.s("reward.format") > 0.0 {
                s.s(part)
            } else {
                let formed = s.samples().into_iter().filter(|other| other.s("reward.format") > 0.0);
                let scores: Vec<f64> = formed.map(|other| other.s(part)).collect();
                if scores.is_empty() { -1.0 } else { smallest(&scores) - 1.0 }
            }
        })
    };
    vec![
        of("prism.prism").with("perception", "0.7").with("reasoning", "0.3").linear(
            "policy",
            "student.logp",
            move |t| -(0.7 * judged(t, CAPTION) + 0.3 * judged(t, THINK)),
        ),
        // A = A_v + c * A_align * (1 - F) * (1 - W), F a bad format, W a wrong answer.
        of("prism.prism_gated").with("weight_of_judge", "0.25").linear("policy", "student.logp", |t| {
            let (bad_format, wrong) =
                (f64::from(t.s("reward.format") <= 0.0), f64::from(t.s("reward") < 1.0));
            let accuracy = in_group(t, |s| s.s("reward.accuracy"));
            let align = in_group(t, |s| s.s(CAPTION)) + in_group(t, |s| s.s(THINK));
            -(accuracy + 0.25 * align * (1.0 - bad_format) * (1.0 - wrong))
        }),
    ]
}

/// The table has groups with different rewards and groups with equal ones, so both cases of a deviation
/// occur.
#[test]
fn some_prompts_tell_their_samples_apart_and_some_do_not() {
    let table = crate::weights::table::Table::new();
    let spread = table.each(|t| deviation(&values(&t.samples(), |s| s.s("reward")), false));
    assert!(spread.contains(&0.0) && spread.iter().any(|x| *x > 0.0));
}
