//! Distillation from the sampled token: the log-ratio as an advantage, its bounds, its importance weights.
//! `t` is a token; the teacher's log-probability minus the student's is `gap`, minus the sampler's
//! `sampled_gap`.

use mopd_plan::Axis;

use crate::weights::case::{Case, of};
use crate::weights::math::{deviation, log_odds, mean};
use crate::weights::table::{At, values};

/// -A * live student.logp
fn score(case: Case, name: &'static str, advantage: impl Fn(At) -> f64 + 'static) -> Case {
    case.linear(name, "student.logp", move |t| -advantage(t))
}

/// G-OPD (card A1.12): -[(s - ref) - scale * (t - ref)].
fn beyond(scale: f64, t: At) -> f64 {
    -((t.student() - t.s("reference.logp")) - scale * (t.teacher() - t.s("reference.logp")))
}

/// ListOPD (card A1.26): 1 + ln c / (logit p - logit b).
fn safe_scale() -> f64 {
    1.0 + 5.0_f64.ln() / (log_odds(0.9993) - log_odds(0.5))
}

/// Prune-OPD (card A1.27): w = clip(1 - d * cumsum(bad), 0, 1) + w_base.
fn pruned(t: At, step_down: f64, floor: f64, bad: impl Fn(At) -> bool) -> f64 {
    let before =
        t.peers(Axis::Sequence).into_iter().filter(|other| other.token <= t.token && bad(*other)).count();
    (1.0 - step_down * before as f64).clamp(0.0, 1.0) + floor
}

/// KL(student || teacher) under vOPD (card A1.16) is a baseline: A = gap + KL.
fn baseline(t: At, of: &str) -> f64 {
    t.gap() + t.s(of)
}

pub fn cases() -> Vec<Case> {
    [opd(), estimators(), beyond_the_teacher(), trust_regions(), bands(), others()]
        .into_iter()
        .flatten()
        .collect()
}

fn opd() -> Vec<Case> {
    vec![
        // arXiv:2606.30406, eqs. 2-4: A = clip(log pi_d - log pi_theta, +-5).
        score(of("opd.mopd"), "distill", |t| t.gap().clamp(-5.0, 5.0)),
        // Card M2.6: A = log pi_d - log mu, importance sampling, unclipped.
        of("opd.opd").importance("distill", |t| t.sampled_gap()),
        // Card A1.10: per-token clip 1.0.
        of("opd.opd_clipped").importance("distill", |t| t.sampled_gap().clamp(-1.0, 1.0)),
        // Card M2.6: A_t = sum over i >= t of discount^(i - t) * gap_i.
        of("opd.opd_discounted").with("discount", "0.9").importance("distill", |t| {
            t.onwards(|later| 0.9_f64.powi((later.token - t.token) as i32) * later.sampled_gap())
        }),
        // Card A1.17: A = t.lp (cached) - s.lp (fresh).
        score(of("lightning_opd.lightning_loss"), "distill", |t| t.gap()),
        // Card B2.11: r = sg(t_lp - s_lp), importance-weighted.
        of("video_opd.video_opd").importance("distill", |t| t.gap()),
        // Card A1.22: the sampled-token variant.
        score(of("opsd.opsd_sampled"), "follow", |t| t.gap()),
        // Card B2.10: sg(s_lp - t_lp) * s_lp under the truncated importance weight, cap 2.
        score(of("vision_opd.vision_opd_sampled").weight(|t| t.ratio().min(2.0)), "distill", |t| t.gap()),
        // Likelihood: -log S(y).
        of("sft.nll").linear("imitate", "student.logp", |_| -1.0),
        // Algorithm 1 with prompts drawn by the domain weights: the loss itself is plain.
        of("doremi.doremi").linear("imitate", "student.logp", |_| -1.0),
    ]
}

/// Card B0.4, with d = s_lp - t_lp.
fn estimators() -> Vec<Case> {
    vec![
        // k1 in score-function form: sg(d) * s_lp.
        of("estimators.k1").linear("distill", "student.logp", |t| -t.gap()),
        // k2 = d^2 / 2.
        of("estimators.k2").curved("distill", |t| t.gap().powi(2) / 2.0, |t| -t.gap()),
        // k3 = exp(-d) - 1 + d.
        of("estimators.k3").curved("distill", |t| t.gap().exp() - 1.0 - t.gap(), |t| 1.0 - t.gap().exp()),
        // |d|
        of("estimators.absolute").curved("distill", |t| t.gap().abs(), |t| -t.gap().signum()),
        // A = -sg(loss), bounded, in a clipped surrogate.
        of("estimators.k1_clipped")
            .with("most", "3")
            .clipped("distill", 0.2, 0.2, |t| t.sampled_gap().clamp(-3.0, 3.0)),
    ]
}

fn beyond_the_teacher() -> Vec<Case> {
    let capped = |path| of(path).weight(|t| t.mismatch().min(5.0));
    vec![
        // Card A1.12, scale 1.25, token cap 5.
        score(capped("g_opd.g_opd"), "distill", |t| beyond(1.25, t)),
        // Scale 1 is plain distillation: the reference cancels.
        score(capped("g_opd.g_opd").with("scale", "1"), "distill", |t| t.gap()),
        score(capped("g_opd.list_opd"), "distill", |t| beyond(safe_scale(), t)),
        // Scale at most 1 where t.H < 0.5 or t.top1 > 0.9.
        score(capped("g_opd.list_opd_guarded"), "distill", |t| {
            let settled = t.s("teacher.entropy") < 0.5 || t.s("teacher.top1") > 0.9;
            beyond(if settled { 1.0 } else { 1.22 }, t)
        }),
        // Card B1.7: log E(y) - log ref(y), under a ratio clip.
        of("erpd.erpd")
            .with("clip_low", "0.2")
            .with("clip_high", "0.3")
            .clipped("policy", 0.2, 0.3, |t| t.s("strong.logp") - t.s("reference.logp")),
        // sum over k of a_k * (lp(E_k) - lp(ref)), the weak one with a minus.
        of("erpd.erpd_signed").with("away", "0.5").with("clip_low", "0.2").with("clip_high", "0.3").clipped(
            "policy",
            0.2,
            0.3,
            |t| {
                (t.s("strong.logp") - t.s("reference.logp"))
                    - 0.5 * (t.s("weak.logp") - t.s("reference.logp"))
            },
        ),
    ]
}

fn trust_regions() -> Vec<Case> {
    // The published advantage is the reward over the mean of its group; ours is the log-ratio to the teacher.
    fn over_group(t: At) -> f64 {
        t.s("reward") - mean(&values(&t.samples(), |s| s.s("reward")))
    }
    fn to_teacher(t: At) -> f64 {
        t.sampled_gap()
    }
    // Card A1.7: L = -A * rho + |A| * mu * (rho - 1)^2 / (2 eps), whose weight on the gradient of log pi is
    // rho * A * (1 - sign(A * (rho - 1)) * |pi - mu| / eps).
    fn smooth(path: &'static str, term: &'static str, advantage: fn(At) -> f64) -> Case {
        of(path).curved(
            term,
            move |t| region(advantage(t), t.drift(), t.sampler().exp(), 12.5),
            move |t| {
                let moved = (t.student().exp() - t.sampler().exp()).abs();
                -t.drift() * advantage(t) * (1.0 - (advantage(t) * (t.drift() - 1.0)).signum() * moved / 12.5)
            },
        )
    }
    // Without mu: a plain quadratic in rho.
    fn plain(path: &'static str, term: &'static str, advantage: fn(At) -> f64) -> Case {
        of(path).with("width", "4").curved(
            term,
            move |t| region(advantage(t), t.drift(), 1.0, 4.0),
            move |t| {
                let moved = (t.drift() - 1.0).abs();
                -t.drift() * advantage(t) * (1.0 - (advantage(t) * (t.drift() - 1.0)).signum() * moved / 4.0)
            },
        )
    }
    // arXiv:2602.04879: masked where pi - mu is beyond 0.15 on the side to which the advantage leads.
    fn masked(path: &'static str, term: &'static str, advantage: fn(At) -> f64) -> Case {
        of(path)
            .weight(move |t| {
                let moved = t.student().exp() - t.sampler().exp();
                f64::from(advantage(t) == 0.0 || moved * advantage(t).signum() <= 0.15)
            })
            .importance(term, advantage)
    }
    fn region(advantage: f64, ratio: f64, held: f64, width: f64) -> f64 {
        -advantage * ratio + advantage.abs() * held * (ratio - 1.0).powi(2) / (2.0 * width)
    }
    vec![
        smooth("drpo.drpo", "policy", over_group),
        plain("drpo.drpo_plain", "policy", over_group),
        masked("drpo.dppo", "policy", over_group),
        smooth("drpo.drpo_distill", "distill", to_teacher),
        plain("drpo.drpo_plain_distill", "distill", to_teacher),
        masked("drpo.dppo_distill", "distill", to_teacher),
    ]
}

fn bands() -> Vec<Case> {
    let inside = |x: f64, low: f64, high: f64| x >= low && x <= high;
    vec![
        // arXiv:2601.02780, eqs. 5-9 (card M2.4): w = rho inside the band, else 0; A = gap + alpha * A_ORM.
        score(
            of("mimo.mimo")
                .with("alpha", "0.5")
                .with("low", "0.7")
                .with("high", "1.6")
                .weight(move |t| if inside(t.drift(), 0.7, 1.6) { t.drift() } else { 0.0 }),
            "distill",
            |t| {
                t.gap()
                    + 0.5
                        * crate::weights::math::standardised(
                            t.s("reward"),
                            &values(&t.samples(), |s| s.s("reward")),
                        )
            },
        ),
        // Card M2.5: w = r * 1[0.5 <= r <= 2], the mean over valid tokens only.
        score(
            of("nemotron.nemotron_cascade")
                .select(move |t| inside(t.drift(), 0.5, 2.0))
                .weight(|t| t.drift()),
            "distill",
            |t| t.gap(),
        ),
        // Card M8, TIS: clamp(k, 0.2, 5); A cut at 20 (card M2.7).
        score(of("nemotron.nemotron_ultra").weight(|t| t.mismatch().clamp(0.2, 5.0)), "distill", |t| {
            t.gap().clamp(-20.0, 20.0)
        })
        .one_way("clip", "no log-ratio of this batch reaches 20 nats: `mopd` has the bound that bites"),
        // Card M8, sequence mask: raw k, but 0 for all of a sequence with exp(mean log k) outside [0.999,
        // 1.002].
        score(
            of("nemotron.nemotron_sequence_band").weight(move |t| {
                let apart = t.mean(Axis::Sequence, |u| u.old() - u.sampler()).exp();
                if inside(apart, 0.999, 1.002) { t.mismatch() } else { 0.0 }
            }),
            "distill",
            |t| t.gap(),
        ),
    ]
}

fn others() -> Vec<Case> {
    vec![
        // Card A1.16: A = sg(t.lp - s.lp + KL(p_S || p_T)).
        score(of("vopd.vopd"), "distill", |t| baseline(t, "kl(student || teacher)")),
        // The baseline on the student's top-k, both sides renormalised.
        score(of("vopd.vopd_top_k"), "distill", |t| {
            baseline(t, "kl(student || teacher, support: top_k(student, 100), mass: renormalized)")
        }),
        // The reward bounded below at log(share) / (1 - share).
        score(of("vopd.vopd_bounded").with("share", "0.4"), "distill", |t| {
            t.gap().max(0.4_f64.ln() / (1.0 - 0.4)) + t.s("kl(student || teacher)")
        }),
        // Card A1.20: A = c * (t.lp - s.lp), in the code `kl_coef * (teacher_log_probs - old_log_probs)`,
        // times the mask of responses and that of what the teacher answered.
        of("tcod.tcod_loss")
            .with("scale", "0.5")
            .clipped("distill", 0.2, 0.2, |t| 0.5 * t.sampled_gap() * t.s("available(teacher)")),
        of("tcod.tcod_sequence_loss")
            .clipped("distill", 0.2, 0.2, |t| t.sampled_gap() * t.s("available(teacher)")),
        // Card M2.9: A * clip(sigma_all / sigma_d, 0.25, 4), population deviations of the log-ratio to the
        // rollout policy, over tokens.
        of("dn_mopd.dn_mopd")
            .with("least", "1")
            .clipped("distill", 0.2, 0.2, |t| {
                let spread = |over| deviation(&values(&t.peers(over), |u| u.sampled_gap()), false);
                (spread(Axis::Batch) / spread(Axis::Domain)).clamp(1.0, 4.0) * t.sampled_gap()
            })
            .one_way("max", "the floor of 1e-6 keeps 0 / 0 away where a domain has no spread"),
        // Card A1.27: bad where overlap(k) < 0.7.
        of("prune_opd.prune_opd")
            .with("k", "16")
            .with("step_down", "0.3")
            .with("floor_weight", "0.5")
            .weight(|t| pruned(t, 0.3, 0.5, |u| u.s("overlap(student, teacher, k: 16)") < 0.7))
            .importance("distill", |t| t.sampled_gap()),
        // Alternative test: y_t outside the teacher's nucleus.
        of("prune_opd.prune_opd_nucleus")
            .with("p", "0.9")
            .with("step_down", "0.3")
            .weight(|t| pruned(t, 0.3, 0.0, |u| !u.is("in_nucleus(teacher, p: 0.9)")))
            .importance("distill", |t| t.sampled_gap()),
        // Card B2.6: both heads, A = gap; the confidence head learns min(1, p_T(y) / p_S(y)).
        score(
            score(of("pipo.pipo_sampled"), "first_head", |t| t.gap()).when(|t| t.s("head") == 0.0),
            "second_head",
            |t| t.gap(),
        )
        .when(|t| t.s("head") == 1.0)
        .linear("confidence", "bce(student.confidence, min(exp(teacher.logp - student.logp), 1))", |_| 1.0)
        .when(|t| t.s("head") == 1.0)
        .inside(|t| (t.teacher().exp() / t.student().exp()).min(1.0)),
        // Card B5, MiniLLM: reward-to-go of t_lp - s_lp over the remaining length, whitened over the batch,
        // clipped; single-step reverse KL; likelihood of plain text.
        of("minillm.minillm")
            .with("plain_weight", "0.7")
            .with("discount", "0.95")
            .clipped_at("long_run", |t| t.drift(), [0.2, 0.2], credit)
            .linear("step", "kl(student || teacher)", |_| 1.0)
            .linear("language", "student.logp", |_| -0.7),
        of("minillm.minillm_without_text")
            .with("discount", "0.95")
            .clipped_at("long_run", |t| t.drift(), [0.2, 0.2], credit)
            .linear("step", "kl(student || teacher)", |_| 1.0),
    ]
}

/// MiniLLM's advantage, with a discount of 0.95.
fn credit(t: At) -> f64 {
    let ahead = |u: At| {
        u.onwards(|later| 0.95_f64.powi((later.token - u.token) as i32) * later.gap())
            / (u.s("remaining") + 1.0)
    };
    let all = values(&t.peers(Axis::Batch), ahead);
    (ahead(t) - mean(&all)) / (deviation(&all, false) + 1e-4)
}
