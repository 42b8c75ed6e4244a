//! Pipelines, merges and baselines: `tests/mechanisms/pipelines.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("merging", |run: &Run| {
        let [average, arithmetic, ties, dare, student] =
            ["soup", "arithmetic", "elected", "thinned", "student"].map(|model| run.normalized(model));
        shown(
            average > 0.3 && student > average,
            format!(
                "of the way to three specialists: weights averaged {average:.2}, task arithmetic {arithmetic:.2}, TIES {ties:.2}, \
                 DARE {dare:.2}; distilled {student:.2}"
            ),
        )
    }),
    ("deepseek", |run: &Run| {
        let norm = |stage| run.mean(stage, "gradient_norm");
        let (exact, sampled) = (norm("at_once"), norm("one_token"));
        shown(
            exact < sampled / 2.0,
            format!(
                "mean gradient norm {exact:.1} exact, {sampled:.1} from one sampled token of the routed expert; all experts at once \
                 {:.2} of the way, one token {:.2}, routed and exact {:.2}",
                run.normalized("at_once"),
                run.normalized("one_token"),
                run.normalized("student")
            ),
        )
    }),
    ("dn_mopd", |run: &Run| {
        let shares = |stage| {
            ["reverse", "successor"].map(|domain| 100.0 * run.in_domain(stage, domain, "signal_share"))
        };
        let ([wide, narrow], [wide_before, narrow_before]) = (shares("equalised"), shares("as_is"));
        shown(
            wide / narrow < 0.85 * wide_before / narrow_before,
            format!(
                "the widest domain has {wide:.0}% of the signal, the narrowest {narrow:.0}%; without the scale {wide_before:.0}% \
                 and {narrow_before:.0}%"
            ),
        )
    }),
    ("dp_opd", |run: &Run| {
        let [private, open] = ["private", "open"].map(|model| run.normalized(model));
        let norm = |stage| run.mean(stage, "gradient_norm");
        shown(
            private < open - 0.2,
            format!(
                "{private:.2} of the way to the teachers at epsilon 2, {open:.2} without privacy; gradient norm with its noise \
                 {:.1}, without {:.1}",
                norm("private"),
                norm("open")
            ),
        )
    }),
    ("seq_kd", |run: &Run| {
        let [text, own] = ["by_text", "open"].map(|model| run.normalized(model));
        shown(
            text > 0.3,
            format!(
                "the baseline: {text:.2} of the way from the teacher's text alone, {own:.2} on its own text"
            ),
        )
    }),
    ("strong_teacher", |run: &Run| {
        let [alone, unripe, gated, strong] =
            ["alone", "with_unripe", "gated", "with_strong"].map(|model| run.score_in(model, "sort"));
        Figure::NotAtThisScale(format!(
            "{alone:.2} right from the corpus, {unripe:.2} with a weak teacher ({gated:.2} gated), {strong:.2} with a strong one"
        ))
    }),
    ("sparse_to_dense", |run: &Run| {
        let [bridged, jumped] = ["crossed", "jumped"].map(|model| run.score_in(model, "sort"));
        Figure::NotAtThisScale(format!(
            "a weak start is {bridged:.2} right with a bridge of 40 steps and 40 after it, {jumped:.2} after 80 without"
        ))
    }),
    ("hy_embodied", |run: &Run| {
        let [turns, rewards] = ["turned", "only"].map(|model| run.normalized(model));
        Figure::NotAtThisScale(format!(
            "{turns:.2} of the way with own successes in turn, {rewards:.2} by rewards alone; other budgets turned it round"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn pipelines_and_merges_have_their_effects() {
    shows("pipelines", FIGURES);
}
