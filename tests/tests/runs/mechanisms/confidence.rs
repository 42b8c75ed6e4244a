//! A student's stated confidence in its answers: `tests/mechanisms/confidence.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[("caopd", |run| {
    // The score and the stated confidence, on the hard and on the easy task.
    let [corrected, uncorrected] = ["by_corrected", "by_uncorrected"].map(|student| {
        [("hard", "stated_hard"), ("easy", "stated_easy")]
            .map(|(right, stated)| (run.score_in(student, right), run.score_in(student, stated)))
    });
    let near = |(right, stated): &(f64, f64), most: f64| (right - stated).abs() < most;
    let [hard, easy] = corrected;
    let [hard_before, easy_before] = uncorrected;
    shown(
        corrected.iter().all(|pair| near(pair, 0.2)) && !uncorrected.iter().any(|pair| near(pair, 0.35)),
        format!(
            "it states {:.2} where {:.2} are right, and {:.2} where {:.2} are; uncorrected {:.2} where {:.2} are, and \
             {:.2} where {:.2} are",
            hard.1, hard.0, easy.1, easy.0, hard_before.1, hard_before.0, easy_before.1, easy_before.0
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn stated_confidence_has_its_effect() {
    shows("confidence", FIGURES);
}
