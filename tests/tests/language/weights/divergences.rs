//! Terms that are exact divergences: the test compares which divergence it is, and its coefficient.

use crate::weights::case::{Case, of};
use crate::weights::table::At;

/// Objective, value of a parameter that it leaves open, term, divergence, coefficient.
type Row = (&'static str, Option<(&'static str, &'static str)>, &'static str, &'static str, f64);

/// One row for each term; rows of one objective stand together.
const ROWS: &[Row] = &[
    // arXiv:2606.30406, eq. 5: the teacher's top-k, each summand p log(p / q) - p + q; and the full
    // vocabulary.
    (
        "opd.mopd_top_k",
        None,
        "distill",
        "kl(student || teacher, support: top_k(teacher, 64), mass: generalized)",
        1.0,
    ),
    ("opd.mopd_full", None, "distill", "kl(student || teacher)", 1.0),
    // Card B5, verl: forward on the teacher's top-k.
    (
        "estimators.forward_top_k",
        Some(("k", "16")),
        "distill",
        "kl(teacher || student, support: top_k(teacher, 16), mass: tail)",
        1.0,
    ),
    // Card B5, GKD; B0.4: jsd / (beta * (1 - beta)) is the continuous form; card B2.2: lambda * rev + (1 -
    // lambda) * fwd.
    ("gkd.gkd", None, "distill", "jsd(teacher, student, beta: 0.5)", 1.0),
    ("gkd.forward", None, "distill", "kl(teacher || student)", 1.0),
    ("gkd.both_directions", Some(("reverse_share", "0.2")), "cover", "kl(teacher || student)", 0.8),
    ("gkd.both_directions", None, "seek", "kl(student || teacher)", 0.2),
    (
        "gkd.gkd_normalized",
        Some(("beta", "0.2")),
        "distill",
        "jsd(teacher, student, beta: 0.2, normalized: true)",
        1.0,
    ),
    // Card B5: temperature tau, multiplied by tau^2; top-k supports; total variation; ranking.
    ("kd.word_level", Some(("temperature", "2")), "cover", "kl(teacher || student, temperature: 2)", 4.0),
    (
        "kd.top_k_renormalized",
        Some(("k", "8")),
        "cover",
        "kl(teacher || student, support: top_k(teacher, 8), mass: renormalized)",
        1.0,
    ),
    (
        "kd.top_k_tail",
        Some(("k", "8")),
        "cover",
        "kl(teacher || student, support: top_k(teacher, 8), mass: tail)",
        1.0,
    ),
    (
        "kd.top_k_generalized",
        Some(("k", "8")),
        "cover",
        "kl(teacher || student, support: top_k(teacher, 8), mass: generalized)",
        1.0,
    ),
    (
        "kd.top_k_of_student",
        Some(("k", "8")),
        "seek",
        "kl(student || teacher, support: top_k(student, 8), mass: tail)",
        1.0,
    ),
    (
        "kd.top_k_of_both",
        Some(("k", "8")),
        "seek",
        "kl(student || teacher, support: union(top_k(student, 8), top_k(teacher, 8)), mass: tail)",
        1.0,
    ),
    ("kd.total_variation", None, "near", "tv(teacher, student)", 1.0),
    ("kd.in_order", Some(("k", "8")), "order", "ranking(order: top_k(teacher, 8))", 1.0),
    // Card B5, DistiLLM: KL(T || lambda T + (1 - lambda) S), and mirrored; lambda 0.1.
    ("distillm.distillm", None, "distill", "skew(teacher || student, lambda: 0.1)", 1.0),
    ("distillm.distillm_reverse", None, "distill", "skew(student || teacher, lambda: 0.1)", 1.0),
    // Card A1.25: tail bucket; partial sum; partial with the student's log detached, whose gradient is the
    // generalised one's (card A0.4, trap 2); the intersection renormalised.
    (
        "many_faces.reverse_tail",
        None,
        "seek",
        "kl(student || teacher, support: top_k(student, 20), mass: tail)",
        1.0,
    ),
    (
        "many_faces.reverse_partial",
        None,
        "seek",
        "kl(student || teacher, support: top_k(student, 20), mass: raw)",
        1.0,
    ),
    (
        "many_faces.reverse_detached",
        None,
        "seek",
        "kl(student || teacher, support: top_k(student, 20), mass: generalized)",
        1.0,
    ),
    (
        "many_faces.reverse_shared",
        None,
        "seek",
        "kl(student || teacher, support: intersection(top_k(student, 20), top_k(teacher, 20)), mass: \
         renormalized)",
        1.0,
    ),
    // Card M2.8: the student's top 16, renormalised.
    (
        "open_mopd.open_mopd",
        None,
        "distill",
        "kl(student || teacher, support: top_k(student, 16), mass: renormalized)",
        1.0,
    ),
    // Card A1.22: JSD(beta), logits / 1.1; the teacher's top 50 renormalised.
    ("opsd.opsd", None, "follow", "jsd(teacher, student, beta: 0.5, temperature: 1.1)", 1.0),
    (
        "opsd.opsd_top_k",
        None,
        "follow",
        "jsd(teacher, student, beta: 0.5, support: top_k(teacher, 50), mass: renormalized, temperature: 1.1)",
        1.0,
    ),
    // Card A1.19, M-step: KL(pi || sg q).
    ("vpd.follow", None, "follow", "kl(student || guide)", 1.0),
    // Card B5, DAgger: the expert's choice is the label.
    ("dagger.labels", None, "imitate", "nll(teacher)", 1.0),
    // Card B1.11: KL(T || S) of Gaussians, the mean over dimensions 0, 1 and 5; or the squared distance of
    // means, summed over dimensions.
    ("compass.compass", None, "follow", "gaussian_kl(teacher || student, dimensions: [0, 1, 5])", 1.0 / 3.0),
    (
        "compass.compass_means",
        Some(("kept", "[0, 2]")),
        "follow",
        "mse(student.mean, teacher.mean, dimensions: [0, 2])",
        1.0,
    ),
    // Card B1.10: Gaussian KL or squared error of actions.
    ("dress.dress", None, "follow", "gaussian_kl(teacher || student)", 1.0),
    ("dress.dress_means", None, "follow", "mse(student.mean, teacher.mean)", 1.0),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<(&str, Case)> = Vec::new();
    for (path, parameter, term, divergence, coefficient) in ROWS {
        let case = match cases.pop_if(|(known, _)| known == path) {
            Some((_, case)) => case,
            None => of(path),
        };
        let case = match parameter {
            Some((name, value)) => case.with(name, value),
            None => case,
        };
        cases.push((path, case.linear(term, divergence, |_| *coefficient)));
    }
    cases.into_iter().map(|(_, case)| case).chain(by_text()).collect()
}

/// Objectives on tokens that begin a span together with a token of the teacher.
fn by_text() -> [Case; 2] {
    fn shared(t: At) -> f64 {
        t.s("size(matched)") / 259.0
    }
    let begins = |t: At| t.s("size(matched)") > 0.0;
    [
        // Card B5, ULD: L1 between sorted probability vectors, of which `sorted_l1` is half.
        of("cross_tokenizer.uld").select(begins).linear("distill", "sorted_l1(student, teacher)", |_| 2.0),
        // Card B5, GOLD: matched vocabulary by JSD, the rest by sorted L1, weights the matched share.
        of("cross_tokenizer.gold")
            .select(begins)
            .linear("same", "jsd(teacher, student, beta: 0.5, support: matched, mass: raw)", shared)
            .linear("other", "sorted_l1(student, teacher, support: unmatched, mass: raw)", |t| {
                2.0 * (1.0 - shared(t))
            }),
    ]
}
