//! The source of the prefixes: the student's own text, the teacher's, or both:
//! `tests/mechanisms/prefixes.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("decoupling", |run| {
        let (own, theirs) = (run.score_in("on_own", "sort"), run.score_in("on_theirs", "sort"));
        let (first, last) = (run.first("grown", "length"), run.last("grown", "length"));
        shown(
            last > 2.0 * first && own > 0.7 && theirs > 0.7,
            format!(
                "a text that may grow while it is unsure: {first:.1} to {last:.1} tokens; {own:.2} right from its own text, \
                 {theirs:.2} from the teacher's"
            ),
        )
    }),
    ("distillm2", |run| {
        let [start, both, theirs] =
            ["start", "contrasted", "on_theirs"].map(|model| run.score_in(model, "sort"));
        shown(
            both > start + 0.2,
            format!(
                "{start:.2} to {both:.2} right with the teacher's texts up and its own down; {theirs:.2} from the teacher's alone"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn prefix_sources_have_their_effects() {
    shows("prefixes", FIGURES);
}
