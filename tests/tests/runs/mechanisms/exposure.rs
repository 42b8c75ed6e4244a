//! How much of a solution a teacher sees: `tests/mechanisms/exposure.mopd`.

use super::{Figure, Figures, shows};

const FIGURES: Figures = &[("atesd", |run| {
    let [learned, half, whole, none] =
        ["learnt", "half", "everything", "nothing"].map(|student| run.score_in(student, "sort"));
    Figure::NotAtThisScale(format!(
        "{learned:.2} right where the run learns how much of the solution is in view ({:.0}% on average), {half:.2} \
         with half of it, {whole:.2} with all, {none:.2} with none",
        100.0 * run.mean("learnt", "learned")
    ))
})];

#[test]
#[ignore = "./x mechanisms"]
fn exposure_to_the_solution_has_its_effect() {
    shows("exposure", FIGURES);
}
