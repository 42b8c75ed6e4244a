//! Teachers that can only write: `tests/mechanisms/writers.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[("omniopd", |run| {
    let [held, loose] = ["held", "loose"].map(|model| run.normalized(model));
    let agreement = [run.first("held", "agreement"), run.last("held", "agreement")];
    shown(
        held > 0.3 && agreement[1] > agreement[0],
        format!(
            "{held:.2} of the way to teachers of which only text is read; their continuations are like the student's text to \
             {:.2}, in the end to {:.2}; without the anchor {loose:.2} and no collapse at this scale",
            agreement[0], agreement[1]
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn teachers_that_can_only_write() {
    shows("writers", FIGURES);
}
