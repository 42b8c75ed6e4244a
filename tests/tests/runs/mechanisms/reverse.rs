//! Reverse divergences, trust regions and margins: `tests/mechanisms/reverse.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("many_faces", |run: &Run| {
        let (raw, whole) = (run.last("partial", "length"), run.last("detached", "length"));
        let [partial, detached] = ["partial", "detached"].map(|student| run.normalized(student));
        shown(
            detached > partial + 0.25 && raw > 1.15 * whole,
            format!(
                "the partial sum as it stands: {raw:.1} tokens at the end, {partial:.2} of the way; \
                 with its logarithm detached {whole:.1}, {detached:.2}"
            ),
        )
    }),
    ("drpo", |run: &Run| {
        let [held, plain, free] = ["held", "plain", "free"].map(|student| run.normalized(student));
        Figure::NotAtThisScale(format!(
            "eight updates from each batch: {held:.2} of the way in a trust region ({plain:.2} in the plain one), {free:.2} \
             without; other widths and rates turned it round"
        ))
    }),
    ("uni_opd", |run: &Run| {
        let [ahead, gap] = ["ahead", "by_gap"].map(|student| run.normalized(student));
        shown(
            ahead > gap + 0.25,
            format!(
                "the start as its own teacher: {ahead:.2} of the way to the experts where correct samples stay 3 nats ahead (0.4 is published), {gap:.2} without"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn reverse_divergences_and_their_bounds() {
    shows("reverse", FIGURES);
}
