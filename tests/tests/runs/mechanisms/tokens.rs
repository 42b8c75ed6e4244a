//! Which tokens are trained on, and with what weight: `tests/mechanisms/tokens.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("tip", |run| {
        let (half, all) = (run.normalized("by_half"), run.normalized("by_all"));
        shown(
            half > all - 0.15,
            format!("on half of the tokens {half:.2} of the way to the teachers, on all {all:.2}"),
        )
    }),
    ("vopd", |run| {
        let (with, without) = (run.mean("by_vopd", "gradient_norm"), run.mean("by_opd", "gradient_norm"));
        shown(with < without, format!("mean gradient norm {with:.1} with the baseline, {without:.1} without"))
    }),
    ("prune_opd", |run| {
        let whole = |position: f64| {
            run.weights("pruned", "position", |bin| bin.low == position, |bin| bin.size_low >= 1.0)
        };
        let (first, seventh) = (whole(0.0), whole(6.0));
        let (pruned, all) = (run.normalized("pruned"), run.normalized("by_opd"));
        shown(
            seventh < first / 2.0,
            format!(
                "{:.0}% of first tokens have their whole weight, {:.0}% of those from the seventh on; {pruned:.2} of the way \
                 to the teachers, {all:.2} unpruned",
                100.0 * first,
                100.0 * seventh
            ),
        )
    }),
    ("renio", |run| {
        let heavy = run.weights("by_renio", "entropy", |_| true, |bin| bin.size_low >= 2.0);
        let (with, without) = (run.normalized("by_renio"), run.normalized("by_forward"));
        shown(
            (0.02..0.5).contains(&heavy),
            format!(
                "{:.0}% of the tokens, in the rollouts with the worst of them, have twice the mean weight or more; {with:.2} of \
                 the way to the teachers, {without:.2} without",
                100.0 * heavy
            ),
        )
    }),
    ("open_mopd", |run| {
        let weight = |domain| run.in_domain("balanced", domain, "domain_weight");
        let (hard, easy) = (weight("reverse"), weight("successor"));
        shown(
            hard > 1.5 * easy,
            format!(
                "the loss of the domain that is learnt last is weighted with {hard:.2}, that of the first with {easy:.2}"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn tokens_that_teach_more_than_others() {
    shows("tokens", FIGURES);
}
