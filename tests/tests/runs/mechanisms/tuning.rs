//! Tuning on one domain, and on prompts that are hard: `tests/mechanisms/tuning.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("raft", |run: &Run| {
        let [before, bare, kept] = ["start", "sorter", "kept"].map(|model| run.score_in(model, "whole"));
        let [_, sorts, sorts_kept] = ["start", "sorter", "kept"].map(|model| run.score_in(model, "sort"));
        shown(
            kept > bare + 0.2 && sorts_kept > 0.8,
            format!(
                "another domain falls from {before:.2} to {kept:.2} right, under plain tuning to {bare:.2}; the tuned one \
                 {sorts_kept:.2} and {sorts:.2}"
            ),
        )
    }),
    ("zppo", |run: &Run| {
        let [helped, alone] = ["helped", "alone"].map(|model| run.score(model));
        let derived = 100.0 * run.mean("helped", "derived");
        Figure::NotAtThisScale(format!(
            "{derived:.0}% of the prompts rewritten with answers in view: {helped:.2} right, {alone:.2} without; a \
             wording that the start never saw"
        ))
    }),
];

#[test]
fn single_domain_tuning_has_its_effect() {
    shows("tuning", FIGURES);
}
