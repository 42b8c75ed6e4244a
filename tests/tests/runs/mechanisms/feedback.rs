//! Teachers that read or write about attempts: `tests/mechanisms/feedback.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("opcod", |run: &Run| {
        let [left, taught_left, alone] =
            ["sorter", "pair", "by_self"].map(|model| run.score_in(model, "pieces"));
        let [right, taught_right] = ["counter", "pair.right"].map(|model| run.score_in(model, "sort"));
        shown(
            taught_left > left + 0.2 && taught_right > right + 0.2,
            format!(
                "what the other knows: {left:.2} to {taught_left:.2} right, from own attempts alone to {alone:.2}; \
                 {right:.2} to {taught_right:.2}"
            ),
        )
    }),
    ("trd", |run: &Run| {
        let (before, after) = (run.score_in("start", "sort"), run.score_in("by_refined", "sort"));
        let refined = run.mean("by_refined", "reward");
        shown(
            refined > before + 0.3 && after > before + 0.3,
            format!("drafts {before:.2} right, refined {refined:.2}; the student afterwards {after:.2}"),
        )
    }),
    ("brts", |run: &Run| {
        let [best, any] = ["best_of_eight", "any_one"].map(|stage| run.of_term(stage, "taught", "reward"));
        shown(
            best > any + 0.05,
            format!(
                "of the teacher's rollouts that are shown {best:.2} are right, chosen of eight; {any:.2} unchosen"
            ),
        )
    }),
    ("vpd", |run: &Run| {
        let [learning, still] = ["learning", "still"].map(|student| run.score_in(student, "sort"));
        Figure::NotAtThisScale(format!(
            "{learning:.2} right with a guide that learns to read verdicts, {still:.2} with one that does not learn; \
             other rates turned it round"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn teachers_that_read_attempts_have_their_effect() {
    shows("feedback", FIGURES);
}
