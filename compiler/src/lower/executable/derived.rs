//! Checks of `derived(...)`: which models can write for the prompts that it makes, and which can read these.

use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::producers::DerivedText;
use mopd_plan::{Rollout, Scorers, View};

use super::refused;

/// Whether some of a rollout's prompts are derived, not from the data.
pub fn derives(rollout: &Rollout) -> bool {
    !rollout.producer.derives().is_empty()
}

/// Refuses unsupported writers and scorers. Texts are sampled token by token, from a single model with the
/// student's tokenizer. Scorers of completions read the prompts that the student read.
pub fn refusal(rollout: &Rollout, scorers: &Scorers, student: Option<&View>, at: Span) -> Option<Diagnostic> {
    if !derives(rollout) {
        return None;
    }
    if let Some(view) = student {
        let construct = format!("`derived` for a student that sees the template `{}`", view.name);
        let help = "put the whole text of the prompt into the template of `derived`";
        return Some((*refused(at, construct)).help(help));
    }
    let choices = scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    if let Some(choice) = choices.into_iter().find(|choice| choice.own_tokens) {
        let construct = format!("`derived` with the teacher `{}`, which has another tokenizer", choice.name);
        return Some(*refused(at, construct));
    }
    rollout.producer.derives().into_iter().find_map(|derived| {
        let name = &derived.sees.name;
        let what =
            |of: &str| Some(*refused(at, format!("a text in the template `{name}` by a teacher {of}")));
        let writers = derived.texts.iter().filter_map(DerivedText::writer);
        writers.flat_map(|writer| scorers.choices(writer)).find_map(|choice| {
            let reads = || choice.sees.as_ref().is_some_and(View::of_completions);
            match () {
                _ if choice.teacher.composition().is_some() => what(
                    "that has its own temperature or is \
                    composed of other teachers",
                ),
                _ if reads() => what("whose template shows the outcome of a completion"),
                _ => None,
            }
        })
    })
}
