//! Tasks of two turns with a tool: `tests/mechanisms/turns.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[("tcod", |run| {
    let (first, last) = (run.first("forwards", "length"), run.last("forwards", "length"));
    let (before, after) = (run.first("forwards", "reward"), run.last("forwards", "reward"));
    shown(
        last > 1.5 * first && after > before + 0.1,
        format!(
            "one turn at first, both later: {first:.1} to {last:.1} tokens, reward {before:.2} to {after:.2}"
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn turns_one_after_the_other() {
    shows("turns", FIGURES);
}
