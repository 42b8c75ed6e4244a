//! A teacher with another tokenizer: `tests/mechanisms/tokenizers.mopd`.

use super::{Figure, Figures, Run, shown, shows};

const FIGURES: Figures = &[
    ("gold", |run: &Run| {
        let [before, after, teacher] = ["start", "by_gold", "wise"].map(|model| run.score(model));
        shown(after > before, format!("{before:.2} to {after:.2} right, the teacher {teacher:.2}"))
    }),
    ("uld", |run: &Run| {
        let [before, after] = ["start", "by_uld"].map(|model| run.score(model));
        Figure::NotAtThisScale(format!(
            "{before:.2} to {after:.2} right: a token that is wrong and as sure as the teacher's has no loss"
        ))
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn cross_tokenizer_teachers_have_their_effect() {
    shows("tokenizers", FIGURES);
}
