//! The same student, prompts and steps under one divergence after another:
//! `tests/mechanisms/divergences.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("gkd", |run| {
        let (with, forward) = (run.normalized("by_gkd"), run.normalized("by_forward"));
        let (norm, full) = (run.mean("by_gkd", "gradient_norm"), run.mean("by_forward", "gradient_norm"));
        shown(
            norm < full / 2.0 && with > forward - 0.15,
            format!(
                "{with:.2} of the way to the teachers at a mean gradient norm of {norm:.1}; forward {forward:.2} at {full:.1}"
            ),
        )
    }),
    ("mopd", |run| {
        let (short, whole) = (run.normalized("by_top_k"), run.normalized("by_reverse"));
        shown(
            (short - whole).abs() < 0.15,
            format!(
                "on the teacher's 64 likeliest entries {short:.2} of the way to the teachers, on all {whole:.2}"
            ),
        )
    }),
    ("abkd", |run| {
        let [own, forward, reverse] =
            ["by_abkd", "by_forward", "by_reverse"].map(|model| run.normalized(model));
        shown(
            own > forward.min(reverse) - 0.1,
            format!(
                "{own:.2} of the way to the teachers at alpha 0.2, beta 0.7; forward {forward:.2}, reverse {reverse:.2}"
            ),
        )
    }),
    ("adaptive_kl", |run| {
        let [own, forward, reverse] =
            ["by_adaptive", "by_forward", "by_reverse"].map(|model| run.normalized(model));
        shown(
            own > forward.min(reverse) - 0.1,
            format!(
                "{own:.2} of the way to the teachers with both directions; forward {forward:.2}, reverse {reverse:.2}"
            ),
        )
    }),
    ("total_variation", |run| {
        let largest = |stage| run.steps(stage, "gradient_norm").into_iter().fold(0.0, f64::max);
        let (with, without) = (largest("by_tv"), largest("by_reverse"));
        shown(
            with < without / 2.0,
            format!("largest gradient norm {with:.1}; {without:.1} under the reverse divergence"),
        )
    }),
    ("word_level_kd", |run| {
        let (hot, cold) = (run.normalized("by_word_level"), run.normalized("by_forward"));
        shown(
            hot > cold - 0.1,
            format!("{hot:.2} of the way to the teachers at temperature 2, {cold:.2} at 1"),
        )
    }),
    ("ranking", |run| {
        let (order, forward) = (run.last("by_order", "entropy"), run.last("by_forward", "entropy"));
        let score = run.normalized("by_order");
        shown(
            order > forward && score > 0.15,
            format!(
                "the order of four tokens alone: {score:.2} of the way to the teachers; entropy {order:.2} at the end, \
                 {forward:.2} under forward KL"
            ),
        )
    }),
    ("top_k_kd", |run| {
        let [bare, tail, guarded] =
            ["renormalized", "with_tail", "generalized"].map(|model| run.normalized(model));
        shown(
            bare < tail - 0.2 && bare < guarded - 0.1,
            format!(
                "two entries, renormalised: {bare:.2} of the way to the teachers; generalised {guarded:.2}; with a tail {tail:.2}"
            ),
        )
    }),
    ("distillm", |run| {
        let (skew, plain) = (run.mean("by_skew", "gradient_norm"), run.mean("by_forward", "gradient_norm"));
        let (with, without) = (run.normalized("by_skew"), run.normalized("by_forward"));
        shown(
            skew < plain,
            format!(
                "mean gradient norm {skew:.1}, without the skew {plain:.1}; {with:.2} and {without:.2} of the way to the teachers"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn divergence_choice_has_its_effect() {
    shows("divergences", FIGURES);
}
