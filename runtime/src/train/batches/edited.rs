//! Completions with another text than the one that was drawn: what edits have in common.

use std::cell::Cell;

use mopd_compiler::plan::Producer;
use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::views::Moment;

use crate::failure::{Error, Result};
use crate::prepare::prompts::TemplateInputs;
use crate::rollout::Sequence;
use crate::tokenizer::Token;
use crate::tokenizer::chat::Example;
use crate::train::Stage;

/// Puts other texts in the place of completions.
pub(super) struct Texts {
    /// Who has the texts, as messages name it.
    writer: String,
    /// The edit's word.
    edit: &'static str,
    /// Tokens of a completion, at most.
    most: u32,
    /// How many were cut off.
    cut: Cell<usize>,
}

/// What was written, without what ends it.
pub(super) fn text(stage: &Stage, sequence: &Sequence) -> Result<String> {
    let tokens: Vec<Token> = sequence.of_trained(&sequence.completion).copied().collect();
    Ok(stage.start.tokenizer.decode(&tokens)?)
}

impl Texts {
    /// Of completions that `of` draws.
    pub fn new(writer: String, edit: &'static str, of: &Producer) -> Texts {
        let most = of.sampling().expect("somebody draws").max_tokens;
        Texts { writer, edit, most, cut: Cell::default() }
    }

    /// A completion with another text, which is all of it: it ends there. Nobody drew its tokens, or has
    /// judged them.
    pub fn replaced(&self, stage: &Stage, sequence: Sequence, text: &str) -> Result<Sequence> {
        let Texts { writer, edit, .. } = self;
        let source = &stage.sources[sequence.source];
        let sees = stage.train.sees.as_ref().filter(|view| !view.of_completions());
        let sees = sees.map(|view| (view, Moment::Most));
        let Example { prompt, mut completion, written } = source.prompts.answered(
            &stage.start.tokenizer,
            sees,
            sequence.record,
            text,
            &TemplateInputs::default(),
        )?;
        if prompt != source.tokens.get(sequence.record) || written.contains(&false) {
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
