//! Preferences: as a teacher that is composed token by token, and for a teacher's text over the student's:
//! `tests/mechanisms/preferences.mopd`.

use super::{Figures, shown, shows};

const FIGURES: Figures = &[
    ("aligndistil", |run: &super::Run| {
        let [start, liked, disliked, student] =
            ["start", "liked", "disliked", "student"].map(|model| run.score(model));
        shown(
            liked > start && disliked < start && student > start + 0.1,
            format!(
                "from {start:.2} right, preferences lead to {liked:.2}, the wrong way round to {disliked:.2}; the teacher made of \
                 both, to {student:.2}"
            ),
        )
    }),
    ("soda", |run: &super::Run| {
        let [start, author, reader] = ["start", "liked", "reader"].map(|model| run.score(model));
        shown(
            reader > start + 0.1,
            format!(
                "{start:.2} to {reader:.2} right from the text of a teacher that is right in {author:.2}"
            ),
        )
    }),
];

#[test]
#[ignore = "./x mechanisms"]
fn preferences_as_a_teacher_have_their_effect() {
    shows("preferences", FIGURES);
}
