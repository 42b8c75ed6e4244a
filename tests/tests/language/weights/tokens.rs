//! Which tokens are trained on, and how much each one weighs.

use mopd_plan::Axis;

use crate::weights::case::{Case, of};
use crate::weights::math::{mean, minmax, part, quantile, softmax, top};
use crate::weights::table::{At, Table, values};

const REVERSE: &str = "kl(student || teacher)";
const FORWARD: &str = "kl(teacher || student)";

fn gate(holds: bool) -> f64 {
    f64::from(holds)
}

pub fn cases() -> Vec<Case> {
    [important(), bounded(), routed(), masked(), drafts(), pieces(), others()].into_iter().flatten().collect()
}

/// TIP (card B2.1).
fn important() -> Vec<Case> {
    // h = minmax(winsor(entropy / log V, top 2%)), over the batch.
    fn unsure(table: &Table) -> Vec<f64> {
        let entropy = table.each(|t| t.s("student.entropy") / t.s("vocab_size").ln());
        let bound = quantile(&entropy, 0.98);
        minmax(&entropy.iter().map(|h| h.min(bound)).collect::<Vec<f64>>())
    }
    // delta = minmax of the forward KL: it ranks, the reverse one trains.
    fn apart(table: &Table) -> Vec<f64> {
        minmax(&table.each(|t| t.s(FORWARD)))
    }
    fn soft_or(table: &Table) -> Vec<f64> {
        unsure(table).iter().zip(apart(table)).map(|(h, d)| h + d - h * d).collect()
    }
    fn best(scores: &[f64], share: f64) -> Vec<bool> {
        top(scores, part(share, scores.len()))
    }
    // Weight h^alpha * (jsd / ln 2)^gamma, rho * N drawn without replacement: those with the smallest -log(u)
    // / weight (Efraimidis and Spirakis, 2006), u here being 1 minus the random number.
    fn drawn(table: &Table) -> Vec<bool> {
        let keys = table.each(|t| {
            let weight = (t.s("student.entropy") / t.s("vocab_size").ln()).powf(1.5)
                * (t.s("jsd(teacher, student, beta: 0.5)") / 2.0_f64.ln()).powf(0.5);
            (1.0 - t.s("uniform 0")).ln() / weight
        });
        best(&keys, 0.5)
    }
    vec![
        of("tip.tip").selection(|table| best(&soft_or(table), 0.5)).linear("distill", REVERSE, |_| 1.0),
        // Q3: delta * (1 - h).
        of("tip.tip_confident")
            .selection(|table| {
                let scores: Vec<f64> =
                    apart(table).iter().zip(unsure(table)).map(|(d, h)| d * (1.0 - h)).collect();
                best(&scores, 0.1)
            })
            .linear("distill", REVERSE, |_| 1.0),
        of("tip.tip_drawn").with("unsure", "1.5").with("disagree", "0.5").selection(drawn).linear(
            "distill",
            REVERSE,
            |_| 1.0,
        ),
        // Companion weight: N * softmax over the batch of R / beta_r.
        of("tip.tip_rewarded")
            .with("tau", "0.5")
            .selection(|table| best(&soft_or(table), 0.5))
            .weight(|t| {
                let rewards = values(&t.each(Axis::Sequence, Axis::Batch), |s| s.s("reward") / 0.5);
                rewards.len() as f64 * softmax(t.s("reward") / 0.5, &rewards)
            })
            .linear("distill", REVERSE, |_| 1.0),
    ]
}

/// A bound on the summand of an entry is inside its divergence: `tests/methods/numbers` has the sum.
fn bounded() -> Vec<Case> {
    // ReNIO (card A1.24): rho_t = min(s.lp - t.lp, c); S = {t: rho_t >= thr}; w = exp(mean_S rho / tau), 1 if
    // S is empty, over its mean in the batch, at most 10.
    fn worst(t: At, threshold: f64) -> f64 {
        let rho = values(&t.peers(Axis::Sequence), |u| (-u.gap()).min(2.5));
        let wrong: Vec<f64> = rho.into_iter().filter(|rho| *rho >= threshold).collect();
        if wrong.is_empty() { 1.0 } else { mean(&wrong).exp() }
    }
    fn over_mean(t: At, threshold: f64, most: f64) -> f64 {
        let all = values(&t.each(Axis::Sequence, Axis::Batch), |s| worst(s, threshold));
        (worst(t, threshold) / mean(&all)).min(most)
    }
    vec![
        of("renio.renio")
            .with("most", "1.3")
            .with("threshold", "1.4")
            .weight(|t| over_mean(t, 1.4, 1.3))
            .linear("cover", "positive_part(teacher || student, most: 0.05, temperature: 1.1)", |_| 1.0),
        // Card A1.22, a fork's clip of 0.05 for each entry.
        of("opsd.opsd_bounded").linear(
            "follow",
            "jsd(teacher, student, beta: 0.5, temperature: 1.1, clip_each: 0.05)",
            |_| 1.0,
        ),
    ]
}

/// DOPD (card A1.1): hi = adv >= mean(adv), qt = t.prob >= mean(t.prob), qs = ps.prob >= mean(ps.prob), means
/// over the batch.
fn routed() -> Vec<Case> {
    fn case(t: At) -> (bool, bool, bool) {
        let at_least_mean = |number: &dyn Fn(At) -> f64| number(t) >= t.mean(Axis::Batch, number);
        (
            at_least_mean(&|u| (u.s("guide.logp") - u.s("insider.logp")).abs()),
            at_least_mean(&|u| u.s("guide.logp").exp()),
            at_least_mean(&|u| u.s("insider.logp").exp()),
        )
    }
    vec![
        of("dopd.dopd")
            .linear("routed", "jsd(guide, student, beta: 0.5)", |t| gate(case(t) == (true, true, false)))
            // The two rows of the table, and, unpublished, both sure but far apart.
            .plus("kl(student || guide, support: top_k(guide, 128), mass: tail)", |t| match case(t) {
                (false, true, true) => 0.6,
                (_, true, _) if case(t) != (true, true, false) => 0.6,
                _ => 0.0,
            })
            .plus("kl(student || insider, support: top_k(insider, 128), mass: tail)", |t| match case(t) {
                (true, false, true) => 0.6,
                (false, false, false) => 0.3,
                // Unpublished: near, only the insider is sure.
                (false, false, true) => 0.3,
                _ => 0.0,
            }),
    ]
}

fn masked() -> Vec<Case> {
    // Card A1.4: of the still-masked positions of the current block, the 2 with the highest teacher
    // confidence.
    fn surest(t: At) -> bool {
        let block = t.peers(Axis::Block);
        let higher = |u: &&At| u.is("masked") && u.s("teacher.top1") > t.s("teacher.top1");
        t.is("masked") && block.iter().filter(higher).count() < 2
    }
    // Card A1.5: response, still masked, without the end-of-turn token; a text that was cut off has none.
    fn open(t: At) -> bool {
        let ends = t.s("remaining") == 0.0 && !t.is("truncated");
        t.is("masked") && !ends
    }
    // Card A1.18: the first 3 loss tokens are skipped; optional mask of the top entropies.
    fn late(t: At) -> bool {
        t.s("position") >= 3.0
    }
    vec![
        // Wrong completions stay in the mean, with a loss of 0.
        of("d_opsd.d_opsd")
            .select(surest)
            .linear(
                "follow",
                "kl(student || teacher, support: top_k(teacher, 20), mass: renormalized, clip_each: 0.05)",
                |_| 1.0,
            )
            .weight(|t| gate(t.s("reward") >= 1.0)),
        // (1 - w) * fkl + w * rkl.
        of("opdlm.opdlm_loss_full")
            .with("reverse_share", "0.25")
            .select(open)
            .linear("cover", FORWARD, |_| 0.75)
            .linear("seek", REVERSE, |_| 0.25),
        // The teacher's top 16 with raw mass.
        of("opdlm.opdlm_loss").select(open).linear(
            "cover",
            "kl(teacher || student, support: top_k(teacher, 16), mass: raw)",
            |_| 1.0,
        ),
        of("caopd.caopd").linear("cover", FORWARD, |_| 1.0).when(late),
        // The code's quantile is over the tokens that are not skipped, and its mask leaves the mean as it is.
        of("caopd.caopd_unsure").with("keep", "0.4").linear("cover", FORWARD, |_| 1.0).when(late).weighing(
            |t| {
                let late: Vec<At> = t.peers(Axis::Batch).into_iter().filter(|u| late(*u)).collect();
                gate(t.s("student.entropy") >= quantile(&values(&late, |u| u.s("student.entropy")), 0.6))
            },
        ),
        // Card A1.3: the final assistant turn.
        of("ccopd.ccopd_loss").select(in_final_turn).linear("follow", REVERSE, |_| 1.0),
    ]
}

fn in_final_turn(t: At) -> bool {
    let last = *t.peers(Axis::Sequence).last().expect("a sequence has tokens");
    last.element(Axis::Turn) == t.element(Axis::Turn)
}

/// Draft-OPD (card B2.12): rejected tokens weigh 2 * 0.9^(offset - 1), accepted ones 1.
fn drafts() -> Vec<Case> {
    fn worth(t: At) -> f64 {
        if t.is("accepted") { 1.0 } else { 2.0 * 0.9_f64.powf(t.s("offset") - 1.0) }
    }
    // Log-ratio clamp 10, floor -10.
    fn floored(t: At) -> f64 {
        (t.teacher().max(-10.0) - t.student().max(-10.0)).clamp(-10.0, 10.0)
    }
    vec![
        of("draft_opd.draft_opd").linear(
            "local",
            "kl(teacher || student, support: sampled, mass: tail)",
            worth,
        ),
        // k3: r - 1 - log r, r = p_T / p_S; no gradient through the floor.
        of("draft_opd.draft_opd_k3")
            .curved(
                "local",
                |t| worth(t) * (floored(t).exp() - 1.0 - floored(t)),
                |t| {
                    if t.student() < -10.0 { 0.0 } else { worth(t) * (1.0 - floored(t).exp()) }
                },
            )
            .one_way("clip", "two log-probabilities in [-10, 0] are never further apart than 10"),
        of("draft_opd.draft_opd_tv").linear("local", "tv(teacher, student)", worth),
    ]
}

/// OmniOPD (card A1.21): anchors at the highest entropies, chunks of C tokens from there; pi = (k + alpha *
/// p) / (N + alpha), p = (prod of pi_theta)^(1/C); elsewhere beta * KL(ref || theta).
fn pieces() -> Vec<Case> {
    fn unsure(t: At) -> bool {
        let sequence = t.peers(Axis::Sequence);
        let anchors = top(&values(&sequence, |u| u.s("student.entropy")), 2);
        sequence.iter().zip(anchors).any(|(u, anchor)| anchor && (u.token..u.token + 2).contains(&t.token))
    }
    vec![
        of("omniopd.omniopd")
            .with("pieces", "2")
            .with("width", "2")
            .with("stay", "0.3")
            .linear("imitate", "student.logp", |t| {
                let block = values(&t.peers(Axis::Block), |u| u.student().exp());
                let prior = block.iter().product::<f64>().powf(1.0 / block.len() as f64);
                -(t.s("agreement(teacher, samples: 10, by: edit)") + prior) / (10.0 + 1.0)
            })
            .when(unsure)
            .linear("anchor", "kl(reference || student)", |_| 0.3)
            .when(|t| !unsure(t)),
    ]
}

fn others() -> Vec<Case> {
    const PAIRED: &str =
        "kl(student || teacher, support: union(top_k(student, 32), top_k(teacher, 32), sampled), mass: tail)";
    const SCORED: &str = "kl(student || teacher, support: top_k(student, 16), mass: generalized)";
    let head = |number: f64| move |t: At| t.s("head") == number;
    let paired = |path, divergence| {
        of(path)
            .linear("first_head", divergence, |_| 1.0)
            .when(head(0.0))
            .linear("second_head", divergence, |_| 1.0)
            .when(head(1.0))
    };
    // Card A1.28: -(log p_S - log p_T) * omega, omega the student's softmax-normalised probability on the
    // support: the generalised divergence over the support's mass.
    let scored = |t: At| 1.0 / t.s("mass(student, support: top_k(student, 16))");
    vec![
        // Card B2.6: alpha = min(1, p_T / p_S), or the sum over v of min(p_S, p_T).
        paired("pipo.pipo", PAIRED)
            .linear("confidence", "bce(student.confidence, min(exp(teacher.logp - student.logp), 1))", |_| {
                1.0
            })
            .when(head(1.0))
            .inside(|t| (t.teacher().exp() / t.student().exp()).min(1.0)),
        paired("pipo.pipo_full", REVERSE)
            .linear("confidence", "bce(student.confidence, 1 - tv(student, teacher))", |_| 1.0)
            .when(head(1.0))
            .inside(|t| 1.0 - t.s("tv(student, teacher)")),
        of("brts.brts").linear("own", SCORED, scored).linear("taught", SCORED, move |t| 0.05 * scored(t)),
        // Card B2.7: (beta / w) * KL(S || z*), w = beta_2 * sum over v of |p_dpo - p_rev| + 1e-3; the L1
        // distance is twice the total variation.
        of("aligndistil.aligndistil").in_program("aligndistil", "student").linear(
            "follow",
            "kl(student || star)",
            |t| 0.1 / (15.0 * (2.0 * t.s("tv(liked, disliked)")) + 1e-3),
        ),
        // Card A1.25: -(pos / max) * log p_S(EOS), a gate on length, NLL on teacher rollouts.
        of("many_faces.reverse_short")
            .with("ending", "0.5")
            .with("imitation", "0.2")
            .with("longest", "8")
            .linear("seek", "kl(student || teacher, support: top_k(student, 20), mass: generalized)", |_| 1.0)
            .when(|t| t.s("length") <= 8.0)
            .linear("end", "student.end_logp", |t| -0.5 * t.s("position") / 8.0)
            .when(|t| t.s("length") <= 8.0)
            .linear("imitate", "student.logp", |_| -0.2),
        // arXiv:2404.02657: the forward divergence by the head's share of the L1 distance, the reverse one
        // by the tail's.
        of("kd.adaptive")
            .linear("cover", FORWARD, head_share)
            .linear("seek", REVERSE, |t| 1.0 - head_share(t))
            .one_way("max", "the floor of 1e-6 keeps 0 / 0 away where the two agree exactly"),
        // Card A1.11: (1 - alpha) * CE + alpha * KD; a reader's gate on s.nll - t.nll.
        of("strong_teacher.corpus_distillation")
            .with("share", "0.3")
            .linear("imitate", "student.logp", |_| -0.7)
            .linear("follow", FORWARD, |_| 0.3),
        of("strong_teacher.corpus_distillation_gated")
            .with("share", "0.3")
            .linear("imitate", "student.logp", |_| -0.7)
            .linear("follow", FORWARD, |_| 0.3)
            .weighing(|t| gate(-t.student() - -t.teacher() > 0.0)),
        // Card B2.10: JSD on the student's top 100 with a tail bucket, times min(exp(s_lp - old_lp), 2).
        of("vision_opd.vision_opd").weight(|t| t.ratio().min(2.0)).linear(
            "distill",
            "jsd(teacher, student, beta: 0.5, support: top_k(student, 100), mass: tail)",
            |_| 1.0,
        ),
    ]
}

fn head_share(t: At) -> f64 {
    t.s("tv(teacher, student, support: nucleus(teacher, 0.5), mass: raw)") / t.s("tv(teacher, student)")
}
