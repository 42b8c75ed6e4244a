//! Upper bounds of the tokens that templates add to a row of the data, to check that the context fits them.

use mopd_plan::producers::Derived;
use mopd_plan::views::Slot;
use mopd_plan::{DomainId, Panel, Producer, Role, TeacherChoice, Train, View};

use crate::failure::Result;
use crate::tokenizer::Tokenizer;

/// Most tokens that a template adds: the completion, and drafts and other completions of the same length
/// before it. A verifier's text is counted later, when it exists.
pub fn with_completions(view: &View, completion: u32) -> u32 {
    let shown = view.slots().filter(|slot| matches!(slot, Slot::Draft | Slot::Group(_))).count() as u32;
    completion.saturating_mul(1 + shown)
}

/// Most tokens that a panel's text and written feedback take in a template that shows them.
pub fn with_words<O>(train: &Train<O>, view: &View, tokenizer: &Tokenizer) -> Result<u32> {
    let feedback = view.written_feedback().filter_map(|place| train.feedback.get(place as usize));
    let feedback: u32 = feedback.map(|feedback| feedback.sampling.max_tokens).sum();
    let Some(panel) = view.panel().and_then(|panel| train.panels.get(panel as usize)) else {
        return Ok(feedback);
    };
    let before = format!("{}{}", Panel::BETWEEN, Panel::label(panel.members.len()));
    let before = tokenizer.encode(&before)?.len() as u32;
    Ok(feedback + panel.turns().saturating_mul(panel.sampling.max_tokens.saturating_add(before)))
}

/// The writers of feedback about completions of a domain, each with the view that it reads in place of the
/// prompts and the most tokens that it reads and writes beside that. A verifier's text is counted later.
pub fn for_feedback<O>(
    train: &Train<O>,
    domain: DomainId,
    limit: Option<u32>,
) -> impl Iterator<Item = (&TeacherChoice, Option<&View>, u32)> {
    let drawn = train.producers().flat_map(Producer::drawn);
    let completion = drawn.map(|(_, sampling)| sampling.max_tokens(limit)).max().unwrap_or(0);
    train.feedback.iter().flat_map(move |feedback| {
        let choices =
            train.scorers.choices(feedback.writer).iter().filter(move |choice| choice.domain == domain);
        choices.map(move |choice| {
            let sees = feedback.sees().or(choice.sees.as_ref()).or(train.sees.as_ref());
            (choice, sees, feedback.tokens(completion))
        })
    })
}

/// A model that reads a view made of attempts.
pub struct AttemptsReader<'t> {
    /// The model that shortens a text; none for the student.
    pub writer: Option<Role>,
    /// What it reads in place of the prompts.
    pub view: &'t View,
    /// Most tokens that attempts add to the view, with those of the shortened text.
    pub shown: u32,
    /// Most tokens of a completion after the view.
    pub completion: u32,
}

pub fn for_derived<'t, O>(
    train: &'t Train<O>,
    tokenizer: &Tokenizer,
    limit: Option<u32>,
) -> Result<Vec<AttemptsReader<'t>>> {
    let between = tokenizer.encode(Derived::BETWEEN)?.len() as u32;
    let mut readers = Vec::new();
    for derived in train.producers().flat_map(Producer::derives) {
        let completion = derived.sampling().max_tokens(limit);
        let shown = |view| derived.shown(view, completion, between);
        let view = &derived.sees;
        readers.push(AttemptsReader { writer: None, view, shown: shown(view), completion });
        readers.extend(derived.shorts().map(|(writer, view, most)| {
            let shown = shown(view).saturating_add(most);
            AttemptsReader { writer: Some(writer), view, shown, completion: 0 }
        }));
    }
    Ok(readers)
}
