//! The reverse divergence from one sampled token, by one estimator after another:
//! `tests/mechanisms/estimators.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("verl_losses", |run| {
        let [k1, k2] = ["by_k1", "by_k2"].map(|stage| run.steps(stage, "gradient_norm"));
        let apart = k1.iter().zip(&k2).map(|(k1, k2)| (k1 / k2 - 1.0).abs()).fold(0.0, f64::max);
        let k3 = run.normalized("by_k3");
        shown(
            k1.len() == k2.len() && apart < 0.01,
            format!(
                "k1 as an advantage and k2 differentiated take the same steps: gradient norms differ by {:.1}% at most; k3 \
                 differentiated ends at {k3:.2} of the way, they at {:.2}",
                100.0 * apart,
                run.normalized("by_k1")
            ),
        )
    }),
    ("opd", |run| {
        let (first, last) = (run.first("by_opd", "divergence"), run.last("by_opd", "divergence"));
        let (exact, sampled) = (run.normalized("exact"), run.normalized("by_opd"));
        shown(
            last < 0.7 * first,
            format!(
                "divergence {first:.2} to {last:.2} nats in 100 steps; {sampled:.2} of the way to the teachers from one token, \
                 {exact:.2} from the whole vocabulary"
            ),
        )
    }),
    ("sparse_updates", |run| {
        let (with, without) = (run.mean("clipped", "gradient_norm"), run.mean("by_opd", "gradient_norm"));
        let (bounded, free) = (run.normalized("clipped"), run.normalized("by_opd"));
        shown(
            with < without / 2.0 && bounded > free - 0.15,
            format!(
                "mean gradient norm {with:.1} with the bound, {without:.1} without; {bounded:.2} and {free:.2} of the way to the \
                 teachers"
            ),
        )
    }),
    ("minillm", |run| {
        let (guided, own) = (run.first("guided_by_teacher", "divergence"), run.first("by_opd", "divergence"));
        let (with, without) = (run.normalized("guided_by_teacher"), run.normalized("by_opd"));
        shown(
            guided < own && with > without - 0.1,
            format!(
                "divergence of the first tokens drawn: {guided:.2} nats with the teacher's fifth, {own:.2} without; {with:.2} and \
                 {without:.2} of the way to the teachers"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn estimators_of_the_reverse_divergence() {
    shows("estimators", FIGURES);
}
