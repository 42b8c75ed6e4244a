//! Rewards beside teachers: `tests/mechanisms/rewards_and_teachers.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("mimo", |run: &Run| {
        let [with, without, teachers] =
            ["with_outcome", "without_outcome", "pupil"].map(|model| run.normalized(model));
        shown(
            with > without && with > teachers + 0.05,
            format!(
                "of the way to the experts: {with:.2} with the reward beside weak teachers, {without:.2} without, they {teachers:.2}"
            ),
        )
    }),
    ("scope", |run: &Run| {
        let [own, all, teachers] = ["by_scope", "by_novices", "pupil"].map(|model| run.normalized(model));
        shown(
            own > teachers + 0.05,
            format!(
                "of the way to the experts: {own:.2} where only wrong attempts follow weak teachers, {all:.2} where all do, \
                 they {teachers:.2}"
            ),
        )
    }),
    ("dgrpo", |run: &Run| {
        let [guided, rewarded] = ["guided", "rewarded"].map(|model| run.normalized(model));
        shown(
            guided > rewarded,
            format!(
                "{guided:.2} of the way to the experts in 20 steps with their guidance, {rewarded:.2} from rewards alone"
            ),
        )
    }),
    ("nemotron", |run: &Run| {
        let [banded, cut, free] = ["banded", "cut", "unbanded"].map(|model| run.normalized(model));
        shown(
            banded > free + 0.2,
            format!(
                "eight updates from each batch: {banded:.2} of the way with tokens outside the band left out, {cut:.2} with \
                 ratios cut, {free:.2} with neither"
            ),
        )
    }),
    ("erpd", |run: &Run| {
        let [pushed, followed] = ["pushed", "followed"].map(|model| run.normalized(model));
        Figure::NotAtThisScale(format!(
            "the policy pushed too far is at {pushed:.2} of the way to the experts, who follows it at {followed:.2}: both below \
             the start"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn rewards_beside_teachers_have_their_effect() {
    shows("rewards_and_teachers", FIGURES);
}
