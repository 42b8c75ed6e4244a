//! Completions whose text was replaced: what edits have in common.

use std::cell::Cell;

use mopd_plan::Producer;

use crate::failure::Result;
use crate::rollout::Sequence;
use crate::tokenizer::{Token, Tokenizer};
use crate::train::stage::Texts;
use crate::train::views::VerifierFeedback;

/// Replaces the text of completions.
pub(super) struct TextReplacer {
    /// The author of the texts, as messages name it.
    writer: String,
    /// The most tokens of a completion.
    most: u32,
    /// Whether the new text of a completion that was cut off is a whole one, with an end token.
    completes: bool,
    /// The number of completions that were cut off.
    cut: Cell<usize>,
}

/// The text of the trained tokens, without special tokens such as the one that ends it.
pub(super) fn text(tokenizer: &Tokenizer, sequence: &Sequence) -> Result<String> {
    let tokens: Vec<Token> = sequence.completion.trained_tokens().collect();
    Ok(tokenizer.decode(&tokens)?)
}

/// The same with special tokens by their names, up to the token that ends it: encoded again, it has them too.
pub(super) fn text_as_sampled(tokenizer: &Tokenizer, sequence: &Sequence) -> Result<String> {
    let written: Vec<Token> =
        sequence.completion.trained_tokens().take_while(|token| !tokenizer.is_end(*token)).collect();
    Ok(tokenizer.as_read(&written)?)
}

impl TextReplacer {
    /// An editor of completions that `of` draws.
    pub fn new(writer: String, of: &Producer, completes: bool) -> TextReplacer {
        let most = of.sampling().expect("somebody draws").max_tokens;
        TextReplacer { writer, most, completes, cut: Cell::default() }
    }

    /// A completion with `text` as its whole text. Its tokens have no log-probabilities, and it has no reward
    /// yet. `None` where it has no token.
    ///
    /// It ends as the old one did: with the same end token, or without any after a `stop` text, where the
    /// student does not learn to end. One that was cut off stays so, unless the new text is a whole one.
    ///
    /// The tokens are those of the text behind the prompt, as a sampler writes it. A chat template is for
    /// messages: it trims them and moves their parts, as Qwen3's makes a thought of what stands before a lone
    /// `</think>`.
    pub fn replaced(&self, texts: Texts, sequence: Sequence, text: &str) -> Result<Option<Sequence>> {
        let TextReplacer { writer, completes, .. } = self;
        let (source, tokenizer) = (&texts.sources[sequence.source], texts.tokenizer);
        let tokens = tokenizer.continuation(text)?.into_iter().map(|(token, _)| token);
        let end = sequence.completion.last().copied().filter(|token| tokenizer.is_end(*token));
        let end = match end {
            None if sequence.truncated && *completes => {
                Some(source.prompts.end_of_answer(tokenizer, sequence.record))
            }
            end => end,
        };
        let mut truncated = sequence.truncated && end.is_none();
        let mut completion: Vec<Token> = tokens.chain(end).collect();
        while truncated && completion.last().is_some_and(|token| tokenizer.is_end(*token)) {
            completion.pop();
        }
        if completion.is_empty() {
            return Ok(None);
        }
        let most = source.limit.unwrap_or(u32::MAX).min(self.most).max(1) as usize;
        if completion.len() > most {
            truncated = true;
            completion.truncate(most);
            if self.cut.replace(self.cut.get() + 1) == 0 {
                texts.control.warn(format!(
                    "`{}`: {writer} returned completions longer than `max_tokens` ({most} tokens): the \
                    tokens beyond are not trained on",
                    texts.name
                ));
            }
        }
        let (reward, reward_parts) = (None, Vec::new());
        let completion = completion.into();
        let mut changed = Sequence { prompt: None, completion, truncated, reward, reward_parts, ..sequence };
        changed.remove_extra::<VerifierFeedback>();
        Ok(Some(changed))
    }
}
