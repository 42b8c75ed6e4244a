//! Which tokens are trained on, and with what weight: `tests/mechanisms/tokens.mopd`.

use super::{Sights, shown, shows};

const SIGHTS: Sights = &[
    ("tip", |run| {
        let (half, all) = (run.normalized("by_half"), run.normalized("by_all"));
        shown(
            half > all - 0.1,
            format!("trained on half of the tokens: {half:.2} of the way to the teachers, {all:.2} on all"),
        )
    }),
    ("vopd", |run| {
        let noise = |stage| run.mean(stage, "gradient_norm");
        let (with, without) = (noise("by_vopd"), noise("by_opd"));
        shown(with < without, format!("mean gradient norm {with:.2} with the baseline, {without:.2} without"))
    }),
];

#[test]
fn tokens_that_teach_more_than_others() {
    shows("tokens", SIGHTS);
}
