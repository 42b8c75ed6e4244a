//! Completions whose text was replaced: what edits have in common.

use std::cell::Cell;

use mopd_compiler::plan::Producer;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::views::Moment;

use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::rollout::Sequence;
use crate::tokenizer::Token;
use crate::tokenizer::chat::AnswerTokens;
use crate::train::Stage;

/// Replaces the text of completions.
pub(super) struct Texts {
    /// The author of the texts, as messages name it.
    writer: String,
    /// The edit's word.
    edit: &'static str,
    /// The most tokens of a completion.
    most: u32,
    /// The number of completions that were cut off.
    cut: Cell<usize>,
}

/// The text of the trained tokens, without the token that ends it.
pub(super) fn text(stage: &Stage, sequence: &Sequence) -> Result<String> {
    let tokens: Vec<Token> = sequence.of_trained(&sequence.completion).copied().collect();
    Ok(stage.start.tokenizer.decode(&tokens)?)
}

impl Texts {
    /// For completions that `of` draws.
    pub fn new(writer: String, edit: &'static str, of: &Producer) -> Texts {
        let most = of.sampling().expect("somebody draws").max_tokens;
        Texts { writer, edit, most, cut: Cell::default() }
    }

    /// A completion with `text` as its whole text, ended after it. Its tokens have no log-probabilities, and
    /// it has no reward yet.
    pub fn replaced(&self, stage: &Stage, sequence: Sequence, text: &str) -> Result<Sequence> {
        let Texts { writer, edit, .. } = self;
        let source = &stage.sources[sequence.source];
        let sees = stage.train.sees.as_ref().filter(|view| !view.of_completions());
        let sees = sees.map(|view| (view, Moment::Most));
        // The text that a template writes before an answer is not the completion's.
        let AnswerTokens { prompt, mut completion, .. } = source.prompts.answered(
            &stage.start.tokenizer,
            sees,
            sequence.record,
            text,
            &TemplateInputs::default(),
        )?;
        if prompt != source.tokens.get(sequence.record) {
            let message = format!(
                "with the text of {writer} the conversation of a prompt of `{}` begins otherwise than without",
                source.name
            );
            return Err(Error::new(FailureKind::Data, message).help(format!(
                "`{edit}` needs a chat template that leaves the prompt as it is, or prompts as plain text"
            )));
        }
        let most = source.limit.unwrap_or(u32::MAX).min(self.most).max(1) as usize;
        let truncated = completion.len() > most;
        if truncated {
            completion.truncate(most);
            if self.cut.replace(self.cut.get() + 1) == 0 {
                stage.control.warn(format!(
                    "{writer} makes completions that are longer than `max_tokens`, {most} tokens: their ends are \
                     not trained on"
                ));
            }
        }
        let changed =
            Sequence { prompt: None, completion, written: None, logps: None, truncated, ..sequence };
        Ok(Sequence { reward: None, reward_parts: Vec::new(), feedback: None, ..changed })
    }
}
