//! Weights and gates of whole completions: by their outcome, by what several teachers say, by what came
//! before.

use mopd_plan::Axis;

use crate::weights::case::{Case, of};
use crate::weights::math::{largest, mean, sigmoid, smallest, softmax, standardised_population};
use crate::weights::table::{At, STEP, STEPS, values};

fn right(t: At) -> bool {
    t.s("reward") >= 1.0
}

/// The samples of the same prompt that are as right as this one.
fn alike<'a>(t: At<'a>) -> Vec<At<'a>> {
    t.samples().into_iter().filter(|s| right(*s) == right(t)).collect()
}

pub fn cases() -> Vec<Case> {
    [outcomes(), margins(), panels(), others()].into_iter().flatten().collect()
}

/// SCOPE (card A1.15): w proportional to PPL_S^(1/tau) among the correct, to PPL_T^(-1/tau) among the wrong;
/// mean 1.
fn outcomes() -> Vec<Case> {
    let perplexity = |s: At, of: &str| (-s.mean(Axis::Sequence, |u| u.s(of))).exp();
    let share = |t: At, number: &dyn Fn(At) -> f64| {
        let all = alike(t);
        all.len() as f64 * number(t) / values(&all, number).iter().sum::<f64>()
    };
    let rare = move |t: At| {
        if right(t) { share(t, &|s| perplexity(s, "student.logp").powf(1.0 / 0.7)) } else { 0.0 }
    };
    let teachable = move |t: At| {
        if right(t) { 0.0 } else { share(t, &|s| perplexity(s, "teacher.logp").powf(-1.0 / 0.7)) }
    };
    let imitate = move |path| {
        of(path).with("tau", "0.7").linear("imitate", "student.logp", |_| -1.0).when(right).weighing(rare)
    };
    vec![
        imitate("scope.scope")
            .with("k", "8")
            .linear(
                "follow",
                "kl(student || teacher, support: top_k(teacher, 8), mass: renormalized)",
                |_| 1.0,
            )
            .when(|t| !right(t))
            .weighing(teachable),
        imitate("scope.scope_sampled")
            .linear("follow", "student.logp", |t| -t.gap())
            .when(|t| !right(t))
            .weighing(teachable),
    ]
}

/// Uni-OPD (card A1.14): where the margin is below delta, what is missing is added to the correct, taken from
/// the wrong, or both in halves; tokens with |s - t| >= bound and those that the teacher did not answer are
/// dropped.
fn margins() -> Vec<Case> {
    fn advantage(t: At) -> f64 {
        if t.is("available(teacher)") { t.sampled_gap() } else { 0.0 }
    }
    fn shifted(t: At, lifted: f64, delta: f64, lead: fn(&[f64], &[f64]) -> f64) -> f64 {
        let level = |s: At| s.mean(Axis::Sequence, advantage);
        let (good, bad): (Vec<At>, Vec<At>) = t.samples().into_iter().partition(|s| right(*s));
        if good.is_empty() || bad.is_empty() {
            return advantage(t);
        }
        let missing = (delta - lead(&values(&good, level), &values(&bad, level))).max(0.0);
        advantage(t) + if right(t) { lifted * missing } else { -(1.0 - lifted) * missing }
    }
    let on_average = |good: &[f64], bad: &[f64]| mean(good) - mean(bad);
    let at_worst = |good: &[f64], bad: &[f64]| smallest(good) - largest(bad);
    let usable = |t: At| f64::from(t.is("available(teacher)") && t.gap().abs() < 10.0);
    // Correctness balance: the majority is masked at random down to 1 : 1; a group of one kind is left as it
    // is (the code's `rollout_sample_balance`). The margin counts all samples (`margin_shift`).
    fn balanced(t: At) -> bool {
        let same = alike(t);
        let others = t.samples().len() - same.len();
        let luckier = same.iter().filter(|s| s.s("uniform 0") > t.s("uniform 0")).count();
        others == 0 || luckier < others
    }
    vec![
        of("uni_opd.uni_opd")
            .weight(usable)
            .clipped("distill", 0.2, 0.28, move |t| shifted(t, 0.5, 0.4, on_average)),
        of("uni_opd.uni_opd").with("lifted", "1").with("margin", "0.7").weight(usable).clipped(
            "distill",
            0.2,
            0.28,
            move |t| shifted(t, 1.0, 0.7, on_average),
        ),
        of("uni_opd.uni_opd_strict").with("margin", "0.3").weight(usable).clipped(
            "distill",
            0.2,
            0.28,
            move |t| shifted(t, 0.5, 0.3, at_worst),
        ),
        of("uni_opd.uni_opd_balanced").select(balanced).weight(usable).clipped(
            "distill",
            0.2,
            0.28,
            move |t| shifted(t, 0.5, 0.4, on_average),
        ),
    ]
}

/// MAD-OPD (card B1.1): w = softmax over teachers of (c / 100) / tau; confidence missing: uniform; a teacher
/// missing: the other gets all.
fn panels() -> Vec<Case> {
    const BOTH: [&str; 2] = ["duo first", "duo second"];
    fn trust(t: At, one: usize) -> f64 {
        let here: Vec<&str> = BOTH.into_iter().filter(|name| t.is(&format!("available({name})"))).collect();
        let said: Vec<f64> =
            here.iter().map(|name| t.s(&format!("{name}.confidence")) / 100.0 / 0.5).collect();
        match here.iter().position(|name| *name == BOTH[one]) {
            None => 0.0,
            Some(_) if said.iter().any(|x| x.is_nan()) => 1.0 / said.len() as f64,
            Some(place) => softmax(said[place], &said),
        }
    }
    let each = |path, first: &'static str, second: &'static str| {
        of(path).with("tau", "0.5").linear("each[duo first]", first, |t| trust(t, 0)).linear(
            "each[duo second]",
            second,
            |t| trust(t, 1),
        )
    };
    vec![
        each("mad.mad", "jsd(duo first, student, beta: 0.5)", "jsd(duo second, student, beta: 0.5)"),
        each("mad.mad_reverse", "kl(student || duo first)", "kl(student || duo second)"),
        each(
            "mad.mad_top_k",
            "jsd(duo first, student, beta: 0.5, support: top_k(duo first, 8), mass: renormalized)",
            "jsd(duo second, student, beta: 0.5, support: top_k(duo second, 8), mass: renormalized)",
        )
        .with("k", "8"),
    ]
}

fn others() -> Vec<Case> {
    // Card B5, DistiLLM-2: alpha = clip(1 - c / (p_T - p_S), 0.01, alpha_0), c = (1 - alpha_0) * a typical
    // p_T - p_S; mirrored for the student's texts.
    fn skew(t: At, ahead: &str, behind: &str, usual: f64) -> f64 {
        let probability = |of: &str| t.mean(Axis::Sequence, |u| u.s(of)).exp();
        (1.0 - (1.0 - 0.6) * usual / (probability(ahead) - probability(behind))).clamp(0.01, 0.6)
    }
    let a = |t: At| skew(t, "teacher.logp", "student.logp", 0.4);
    let b = |t: At| skew(t, "student.logp", "teacher.logp", 0.3);
    // 1 + 0.5 * min(1, 2 * step / steps)
    let ramp = || 1.0 + 0.5 * (2.0 * f64::from(STEP) / f64::from(STEPS)).min(1.0);
    vec![
        // V-Zero (card B2.9, and the code's `compute_relative_evidence_opd_weights`): Delta = lp_T(good
        // crop) - lp_T(bad crop); score = mean(relu(Delta) - relu(-Delta)); w = clip(1 + 0.5 * zG(score), 0,
        // 2), population deviation; A = -clip(s - t, +-10) * w.
        of("v_zero.v_zero")
            .with("clip_low", "0.2")
            .with("clip_high", "0.3")
            .with("loss_of_doubt", "0.6")
            .with("most", "1.4")
            .clipped("follow", 0.2, 0.3, |t| {
                let score = |s: At| {
                    s.mean(Axis::Sequence, |u| {
                        let shown = u.s("near.logp") - u.s("far.logp");
                        if shown > 0.0 { shown } else { 0.6 * shown }
                    })
                };
                let trust = 1.0 + 0.5 * standardised_population(score(t), &values(&t.samples(), score));
                -(t.student() - t.teacher()).clamp(-10.0, 10.0) * trust.clamp(0.0, 1.4)
            }),
        // OPCoD (card A1.2): the peer's feedback where its success rate on the prompt reaches the threshold,
        // else the own attempt, else nothing; SDPO's importance ratio at most 2.
        of("opcod.co_distillation")
            .with("reliable", "0.6")
            .weight(|t| t.ratio().min(2.0))
            .linear(
                "learn",
                "jsd(tutor, student, beta: 0.5, support: top_k(student, 100), mass: tail)",
                |t| f64::from(trusted(t) && t.is("available(tutor)")),
            )
            .plus("jsd(fallback, student, beta: 0.5, support: top_k(student, 100), mass: tail)", |t| {
                f64::from(!(trusted(t) && t.is("available(tutor)")) && t.is("available(fallback)"))
            })
            .when(|t| trusted(t) && t.is("available(tutor)") || t.is("available(fallback)")),
        // RAFT (card B1.8): L_sft + lambda * L_distill, lambda = ema(L_sft) / ema(L_distill).
        of("raft.raft")
            .with("k", "8")
            .with("temperature", "2")
            .with("rate", "0.9")
            .linear("imitate", "student.logp", |_| -1.0)
            .linear(
                "preserve",
                "kl(insider || student, support: top_k(insider, 8), mass: renormalized, temperature: 2)",
                |_| 1.0,
            )
            .weighing(|t| {
                let average = |of: &str| 0.9 * t.s(&format!("before {of}")) + (1.0 - 0.9) * t.s(of);
                average("loss.imitate") / average("loss.preserve")
            }),
        // VPD, E-step (card A1.19): r = beta * log(q / pi) over the sequence, delta = EMA of (E r+ + E r-) /
        // 2, L = -E+ log sigma(r - delta) - E- log sigma(-(r - delta)). The term stands once for
        // each token of the sequence.
        of("vpd.unpaired_preference")
            .with("rate", "0.9")
            .bent(
                "accept",
                "student.logp",
                |t| -sigmoid(lead(t) - middle(t)).ln(),
                |t| -0.1 * t.s("length") * sigmoid(middle(t) - lead(t)),
            )
            .when(right)
            .bent(
                "refuse",
                "student.logp",
                |t| -sigmoid(middle(t) - lead(t)).ln(),
                |t| 0.1 * t.s("length") * sigmoid(lead(t) - middle(t)),
            )
            .when(|t| !right(t)),
        // (2 - beta) * SKL(teacher text) + beta * SRKL(student text), the student detached inside the
        // reverse mixture.
        of("distillm.distillm2")
            .with("usual_teacher", "0.4")
            .with("usual_student", "0.3")
            .with("most", "0.6")
            .linear("imitate", "kl(teacher || blend(...", move |_| 2.0 - ramp())
            .inside(a)
            .inside(move |t| 1.0 - a(t))
            .linear("correct", "kl(student || detached(blend(...", move |_| ramp())
            .inside(b)
            .inside(move |t| 1.0 - b(t)),
    ]
}

fn trusted(t: At) -> bool {
    mean(&values(&t.samples(), |s| s.s("peer.correct"))) >= 0.6
}

fn lead(t: At) -> f64 {
    0.1 * values(&t.peers(Axis::Sequence), |u| u.student() - u.s("policy.logp")).iter().sum::<f64>()
}

fn middle(t: At) -> f64 {
    let (good, bad): (Vec<At>, Vec<At>) =
        t.each(Axis::Sequence, Axis::Batch).into_iter().partition(|s| right(*s));
    0.9 * t.s("before") + (1.0 - 0.9) * (mean(&values(&good, lead)) + mean(&values(&bad, lead))) / 2.0
}
