//! Judges and critics: `tests/mechanisms/judges.mopd`.

use super::{Figures, Run, shown, shows};

const FIGURES: Figures = &[("prism", |run: &Run| {
    let [before, author, after] = ["start", "author", "aligned"].map(|model| run.score(model));
    shown(
        after > before + 0.05,
        format!(
            "{before:.2} to {after:.2} right with no reward but what a judge says, which reads an author's texts ({author:.2})"
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn text_judges_have_their_effect() {
    shows("judges", FIGURES);
}
