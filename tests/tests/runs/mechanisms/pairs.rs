//! Two tokens in a step: `tests/mechanisms/pairs.mopd`.

use super::{Figures, Run, shown, shows};

const FIGURES: Figures = &[("pipo", |run: &Run| {
    let steps = run.steps("pairs", "tokens_per_step");
    let least = steps.iter().copied().fold(f64::INFINITY, f64::min);
    let last = run.last("pairs", "tokens_per_step");
    let (before, after) = (run.first("pairs", "reward"), run.last("pairs", "reward"));
    let cold = run.last("cold", "tokens_per_step");
    shown(
        last > least + 0.2 && after > before + 0.3 && cold < 1.01,
        format!(
            "tokens per step {least:.2} at the least and {last:.2} at the end, rollouts {before:.2} to {after:.2} \
             right; {cold:.2} without a stage before it where every second token stands"
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn two_tokens_in_a_step() {
    shows("pairs", FIGURES);
}
