//! A teacher for each level of effort: `tests/mechanisms/efforts.mopd`.

use super::{Figures, Run, shown, shows};

const FIGURES: Figures = &[("kimi", |run: &Run| {
    let [low, high] = ["low", "high"].map(|domain| run.in_domain("student", domain, "length"));
    let (before, after) = (run.first("student", "reward"), run.last("student", "reward"));
    shown(
        high > low + 1.0 && after > before + 0.1,
        format!(
            "one student: {low:.1} tokens where low effort is asked for, {high:.1} for high; as asked and right {before:.2} to {after:.2}"
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn efforts_that_are_asked_for() {
    shows("efforts", FIGURES);
}
