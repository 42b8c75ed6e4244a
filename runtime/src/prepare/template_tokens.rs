//! How much room a context must have for what stands in templates beside a row of the data.

use mopd_compiler::plan::producers::Derived;
use mopd_compiler::plan::views::Slot;
use mopd_compiler::plan::{DomainId, Panel, Producer, Role, TeacherChoice, Train, View};

use crate::failure::Result;
use crate::tokenizer::Tokenizer;

/// Tokens that come to a template: a completion, and before it drafts and other completions of as many. A
/// verifier's words are counted when they are there.
pub fn with_completions(view: &View, completion: u32) -> u32 {
    let shown = view.slots().filter(|slot| matches!(slot, Slot::Draft | Slot::Group(_))).count() as u32;
    completion.saturating_mul(1 + shown)
}

/// Tokens that the words of others take in a template that shows them, at most: a panel's, and feedback.
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

/// Whoever writes feedback about completions of a domain: what it reads in place of the prompts, and how many
/// tokens it reads and writes beside that at most. A verifier's words are counted when they are there.
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

/// Whoever reads what is made of attempts.
pub struct OfAttempts<'t> {
    /// One who shortens a text; the student where absent.
    pub writer: Option<Role>,
    /// In place of the prompts.
    pub view: &'t View,
    /// Tokens that come to that at most, with those of a short text.
    pub shown: u32,
    /// Of a completion behind them.
    pub completion: u32,
}

pub fn for_derived<'t, O>(
    train: &'t Train<O>,
    tokenizer: &Tokenizer,
    limit: Option<u32>,
) -> Result<Vec<OfAttempts<'t>>> {
    let between = tokenizer.encode(Derived::BETWEEN)?.len() as u32;
    let mut readers = Vec::new();
    for derived in train.producers().flat_map(Producer::derives) {
        let completion = derived.sampling().max_tokens(limit);
        let shown = |view| derived.shown(view, completion, between);
        let view = &derived.sees;
        readers.push(OfAttempts { writer: None, view, shown: shown(view), completion });
        readers.extend(derived.shorts().map(|(writer, view, most)| {
            let shown = shown(view).saturating_add(most);
            OfAttempts { writer: Some(writer), view, shown, completion: 0 }
        }));
    }
    Ok(readers)
}
