//! Which model samples the tokens that are trained on: `tests/mechanisms/rollouts.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("skd", |run: &Run| {
        let [with, without] = ["by_proposed", "by_own"].map(|stage| run.first(stage, "reward"));
        let [student, own] = ["by_proposed", "by_own"].map(|model| run.score_in(model, "sort"));
        shown(
            with > without + 0.15,
            format!(
                "first rollouts {with:.2} right where the teacher replaces tokens, {without:.2} where not; \
                 students {student:.2} and {own:.2}"
            ),
        )
    }),
    ("draft_opd", |run: &Run| {
        let (before, after) =
            (run.first("drafter", "accepted_length"), run.last("drafter", "accepted_length"));
        let (share, last) = (run.first("drafter", "accepted"), run.last("drafter", "accepted"));
        shown(
            after > before + 0.4 && last > share,
            format!(
                "tokens per draft {before:.1} to {after:.1} in 60 steps, accepted share {share:.2} to {last:.2}"
            ),
        )
    }),
    ("dagger", |run: &Run| {
        let [visits, cloned] = ["by_visits", "cloned"].map(|model| run.score_in(model, "sort"));
        Figure::NotAtThisScale(format!(
            "{visits:.2} right after labels where the learner went, {cloned:.2} after labels on the expert's text alone"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn rollout_sources_have_their_effects() {
    shows("rollouts", FIGURES);
}
