//! Teachers that see what the student does not: `tests/mechanisms/views.mopd`.

use super::{Figure, Figures, Run, shown, shows};

/// Prompts of `shown` begin with the answer, as the teachers see it; the start teaches the other prompts.
fn learnt(run: &Run, student: &str) -> (bool, String) {
    let (view, before, after) =
        (run.score_in("start", "shown"), run.score_in("start", "sort"), run.score_in(student, "sort"));
    (
        after > before + 0.25,
        format!(
            "{view:.2} right with the answer in view, {before:.2} without; the student then {after:.2} without"
        ),
    )
}

const FIGURES: Figures = &[
    ("opsd", |run: &Run| {
        let (holds, line) = learnt(run, "by_informed");
        let blind = run.score_in("by_blind", "sort");
        shown(
            holds && run.score_in("by_informed", "sort") > blind + 0.25,
            format!("{line}, after a blind copy {blind:.2}"),
        )
    }),
    ("mgsd", |run: &Run| {
        let (holds, line) = learnt(run, "by_map");
        shown(holds, line)
    }),
    ("vision_opd", |run: &Run| {
        let (holds, line) = learnt(run, "by_onlooker");
        shown(holds, line)
    }),
    ("ccopd", |run: &Run| {
        let whole = run.score_in("start", "whole");
        let (before, after) = (run.score_in("start", "pieces"), run.score_in("in_pieces", "pieces"));
        shown(
            after > before + 0.2,
            format!(
                "told at once {whole:.2} right, told in pieces {before:.2}; in pieces after training {after:.2}"
            ),
        )
    }),
    ("dopd", |run: &Run| {
        let [both, guide] = ["by_both", "by_guide"].map(|student| run.score_in(student, "sort"));
        Figure::NotAtThisScale(format!(
            "routed between two teachers {both:.2} right, after the better model alone {guide:.2}"
        ))
    }),
    ("v_zero", |run: &Run| {
        let [with, without] = ["by_evidence", "by_near"].map(|student| run.score_in(student, "sort"));
        Figure::NotAtThisScale(format!(
            "{with:.2} right where completions that rest on the evidence count more, {without:.2} where all count alike"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn privileged_teacher_views_have_their_effects() {
    shows("views", FIGURES);
}
