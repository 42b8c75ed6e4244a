//! Which prompts a student learns from: `tests/mechanisms/curricula.mopd`.

use super::{Figures, Run, shown, shows};

const FIGURES: Figures = &[("video_opd", |run: &Run| {
    let [chosen, all] = ["by_chosen", "by_all"].map(|model| run.score_in(model, "sort"));
    let others = |model: &str| (run.score_in(model, "reverse") + run.score_in(model, "successor")) / 2.0;
    let (kept, gap) = (run.mean("by_chosen", "chosen_prompts"), run.mean("by_chosen", "priority"));
    shown(
        chosen > all + 0.05,
        format!(
            "a teacher of one task among prompts of three: {chosen:.2} right in its task where prompts are chosen, \
             {all:.2} where all come; in the others {:.2} and {:.2}, {:.2} at the start; {kept:.0} of 6000 come, the \
             teacher {gap:.2} ahead",
            others("by_chosen"),
            others("by_all"),
            others("start")
        ),
    )
})];

#[test]
#[ignore = "./x mechanisms"]
fn curricula_have_their_effects() {
    shows("curricula", FIGURES);
}
