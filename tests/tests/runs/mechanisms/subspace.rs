//! Completions that are written through a subspace: `tests/mechanisms/subspace.mopd`.

use super::{Figure, Figures, shows};

const FIGURES: Figures = &[("spd", |run| {
    let [start, own, projected] = ["start", "by_own", "by_projected"].map(|model| run.score(model));
    Figure::NotAtThisScale(format!(
        "{:.2} of the completions written through half of the directions of keys and values are right, {:.2} of those \
         without; students of them {projected:.2} and {own:.2}, the start {start:.2}",
        run.mean("by_projected", "reward"),
        run.mean("by_own", "reward"),
    ))
})];

#[test]
#[ignore = "./x mechanisms"]
fn a_subspace_of_keys_and_values() {
    shows("subspace", FIGURES);
}
