//! Weak teachers: how far a student gets beyond them, how fast, and from how old rollouts:
//! `tests/mechanisms/beyond.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("g_opd", |run| {
        let (plain, beyond) = (run.normalized("as_far"), run.normalized("beyond_it"));
        shown(
            beyond > 1.0,
            format!("{beyond:.2} times what its teachers have learnt at scale 1.25, {plain:.2} at scale 1"),
        )
    }),
    ("list_opd", |run| {
        let (safe, cliff) = (run.normalized("safe"), run.normalized("further"));
        shown(
            safe > cliff + 0.3,
            format!(
                "{safe:.2} times what its teachers have learnt at the safe scale of 1.22; off the cliff at 4: {cliff:.2}"
            ),
        )
    }),
    ("lightning_opd", |run| {
        let (once, anew) = (run.normalized("offline"), run.normalized("as_far"));
        shown(
            once > anew - 0.6,
            format!(
                "{once:.2} times what its teachers have learnt from rollouts that were drawn once, {anew:.2} when drawn anew"
            ),
        )
    }),
    ("effopd", |run| {
        let judged = run.steps("faster", "extrapolated");
        let taken = judged.iter().filter(|changes| **changes > 1.0).count();
        let (with, without) = (run.normalized("faster"), run.normalized("slower"));
        shown(
            taken > 0 && with > without - 0.15,
            format!(
                "{taken} of {} extrapolations were better and kept: {with:.2} times what its teachers have learnt in 33 steps, \
                 {without:.2} without",
                judged.len()
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn student_exceeds_teachers() {
    shows("beyond", FIGURES);
}
