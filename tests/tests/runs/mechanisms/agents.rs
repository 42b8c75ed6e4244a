//! Multi-turn tasks with a teacher: `tests/mechanisms/agents.mopd`.

use super::{Figure, Figures, Run, shows};

const FIGURES: Figures = &[
    ("sod", |run: &Run| {
        let [guided, rewarded] = ["guided", "rewarded"].map(|model| run.score(model));
        Figure::NotAtThisScale(format!(
            "{guided:.2} right with a teacher trusted turn by turn, {rewarded:.2} by rewards alone"
        ))
    }),
    ("vla_opd", |run: &Run| {
        let [start, judged, rewarded] = ["start", "judged", "unjudged"].map(|model| run.score(model));
        Figure::NotAtThisScale(format!(
            "{start:.2} to {judged:.2} right by the teacher's judgement, to {rewarded:.2} by a reward that each turn has here"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn agents_with_a_teacher_have_their_effect() {
    shows("agents", FIGURES);
}
