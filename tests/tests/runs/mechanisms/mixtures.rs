//! How many prompts of each domain a student learns from: `tests/mechanisms/mixtures.mopd`.

use super::{Figures, Run, shown, shows};

const FIGURES: Figures = &[("doremi", |run: &Run| {
    let domains = ["sort", "reverse", "successor"];
    let share = |domain: &str| run.in_domain("mixed", domain, "prompt_share");
    // The scores with equal shares tell which domain is easy.
    let by_ease =
        |left: &&&str, right: &&&str| run.score_in("even", left).total_cmp(&run.score_in("even", right));
    let hard = domains.iter().min_by(by_ease).expect("there are three");
    let easy = domains.iter().max_by(by_ease).expect("there are three");
    let (even, mixed) = (run.score_in("even", hard), run.score_in("mixed", hard));
    shown(
        share(hard) > share(easy) + 0.05,
        format!(
            "{:.2} of the prompts are of the hardest domain and {:.2} of the easiest, a third each in equal shares; \
             {mixed:.2} right in the hardest, {even:.2} in equal shares; in all {:.2} and {:.2}",
            share(hard),
            share(easy),
            run.score("mixed"),
            run.score("even")
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn how_many_of_each_domain_come() {
    shows("mixtures", FIGURES);
}
