//! Rewards alone: `tests/mechanisms/rewards.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("grpo", |run: &Run| {
        let (before, after) = (run.score("start"), run.score("by_grpo"));
        shown(
            after > before + 0.08,
            format!(
                "{before:.2} to {after:.2} right in 48 updates from rewards of a group, without a critic"
            ),
        )
    }),
    ("ppo", |run: &Run| {
        let (before, after) = (run.score("start"), run.score("by_ppo"));
        shown(
            after > before + 0.08,
            format!(
                "{before:.2} to {after:.2} right in 48 updates with a critic, {:.2} by GRPO without one",
                run.score("by_grpo")
            ),
        )
    }),
    ("dapo", |run: &Run| {
        let norm = |stage| run.mean(stage, "gradient_norm");
        let (with, without) = (norm("filtered"), norm("unfiltered"));
        shown(
            with > 1.2 * without,
            format!(
                "where {:.2} is right already: mean gradient norm {with:.2} with groups of one reward drawn anew, {without:.2} with them",
                run.score("solved")
            ),
        )
    }),
    ("gspo", |run: &Run| {
        let clipped = |stage| 100.0 * run.mean(stage, "clipped_fraction");
        let (sequences, tokens) = (clipped("by_gspo"), clipped("by_grpo"));
        let (before, after, grpo) = (run.score("start"), run.score("by_gspo"), run.score("by_grpo"));
        shown(
            sequences > 4.0 * tokens && after > before + 0.08,
            format!(
                "{sequences:.0}% of the tokens clipped, GRPO {tokens:.0}%; it learns all the same: {after:.2} right, GRPO {grpo:.2}"
            ),
        )
    }),
    ("dr_grpo", |run: &Run| {
        let [own, grpo] =
            ["by_dr_grpo", "by_grpo"].map(|model| (run.score(model), run.last(model, "length")));
        Figure::NotAtThisScale(format!(
            "{:.2} right at {:.1} tokens, GRPO {:.2} at {:.1}: no answer can have more than 10",
            own.0, own.1, grpo.0, grpo.1
        ))
    }),
    ("gmpo", |run: &Run| {
        let [own, grpo] =
            ["by_gmpo", "by_grpo"].map(|model| (run.score(model), run.mean(model, "gradient_norm")));
        Figure::NotAtThisScale(format!(
            "{:.2} right at a mean gradient norm of {:.2}, GRPO {:.2} at {:.2}",
            own.0, own.1, grpo.0, grpo.1
        ))
    }),
    ("sapo", |run: &Run| {
        let [own, grpo] = ["by_sapo", "by_grpo"].map(|model| run.score(model));
        Figure::NotAtThisScale(format!("{own:.2} right with a soft gate, {grpo:.2} with GRPO's clip"))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn group_rewards_have_their_effects() {
    shows("rewards", FIGURES);
}
