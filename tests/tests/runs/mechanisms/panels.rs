//! Two teachers, each of which knows one task: `tests/mechanisms/panels.mopd`.

use super::run::mean;
use super::{Figures, Run, shown, shows};

fn both_tasks(run: &Run, model: &str) -> f64 {
    mean(&["letters", "digits"].map(|task| run.score_in(model, task)))
}

const FIGURES: Figures = &[
    ("mad_opd", |run: &Run| {
        let [weighed, debated] = ["weighed", "after_debate"].map(|model| both_tasks(run, model));
        let alone = both_tasks(run, "by_one").max(both_tasks(run, "by_other"));
        shown(
            weighed > alone + 0.06,
            format!(
                "two teachers who each know one task, weighted by the confidence that they state: {weighed:.2} right, \
                 by the better alone {alone:.2}; not at this scale: having heard each other {debated:.2}"
            ),
        )
    }),
    ("mad_opd_agent", |run: &Run| {
        let [before, panel, one, other] = ["start", "acting_judged", "acting_by_one", "acting_by_other"]
            .map(|model| run.score_in(model, "acts"));
        let alone = one.max(other);
        shown(
            panel > alone + 0.08,
            format!(
                "later turns of recorded trajectories {before:.2} to {panel:.2} right by two teachers who each know one \
                 kind of turn and state it, by the better alone {alone:.2}"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn teacher_panels_have_their_effects() {
    shows("panels", FIGURES);
}
