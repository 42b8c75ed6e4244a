//! A coefficient of the distance to a reference: `tests/mechanisms/reference.mopd`.

use super::run::mean;
use super::{Figures, Run, shown, shows};

/// The mean log-ratio of whole completions to the reference.
fn distance(run: &Run, policy: &str) -> f64 {
    let stage = format!("of_{policy}");
    let in_domain =
        |domain| run.in_domain(&stage, domain, "divergence") * run.in_domain(&stage, domain, "length");
    mean(&["sort", "reverse", "successor"].map(in_domain))
}

const FIGURES: Figures = &[("adaptive_kl_rl", |run| {
    let [little, much, always_little, always_much] =
        ["from_little", "from_much", "always_little", "always_much"].map(|policy| distance(run, policy));
    shown(
        [little, much].iter().all(|distance| (0.12..0.32).contains(distance))
            && always_little > 0.35
            && always_much < 0.1,
        format!(
            "{little:.2} and {much:.2} nats from the reference at a target of 0.20, from a beta of 0.05 and of 5; \
             where beta stays {always_little:.2} and {always_much:.2}"
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn a_reference_at_a_distance() {
    shows("reference", FIGURES);
}
