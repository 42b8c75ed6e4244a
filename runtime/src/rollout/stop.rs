//! Conditions that end a completion: an end token, or a stop text.

use crate::failure::Result;
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;

pub struct Stop<'a> {
    texts: &'a [String],
    tokenizer: &'a Tokenizer,
    /// Bytes of the longest text.
    longest: usize,
}

impl Stop<'_> {
    pub fn new<'a>(texts: &'a [String], tokenizer: &'a Tokenizer) -> Stop<'a> {
        Stop { texts, tokenizer, longest: texts.iter().map(String::len).max().unwrap_or(0) }
    }

    /// Whether the last token is an end token or completes a stop text; to be called after every token. Text
    /// beyond the stop text stays, because the log-probability is that of the whole last token.
    pub fn ends(&self, tokens: &[Token]) -> Result<bool> {
        if tokens.last().is_some_and(|last| self.tokenizer.is_end(*last)) {
            return Ok(true);
        }
        if self.texts.is_empty() {
            return Ok(false);
        }
        // Decodes a tail that is long enough for the longest stop text and the whole last token, within
        // which the stop text may end.
        let mut last = 4;
        loop {
            let tail = &tokens[tokens.len().saturating_sub(last)..];
            let text = self.tokenizer.decode(tail)?;
            let own = self.tokenizer.decode(&tail[tail.len() - 1..])?.len();
            if tail.len() == tokens.len() || text.len() >= self.longest + own + SPARE {
                return Ok(self.texts.iter().any(|stop| text.contains(stop.as_str())));
            }
            last *= 2;
        }
    }
}

/// Bytes at the beginning of a decoded tail that may be wrong: some tokenizers drop a space there, and the
/// tail may begin inside a character.
const SPARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_text_ends_with_the_token_that_completes_it() {
        let texts = ["\n\n".to_owned(), "Question:".to_owned()];
        let stop = Stop::new(&texts, &Tokenizer::Bytes);
        let ends = |text: &str| {
            let tokens: Vec<Token> = text.bytes().map(Token::from).collect();
            (1..=tokens.len()).find(|end| stop.ends(&tokens[..*end]).unwrap())
        };
        assert_eq!(ends("4\n\n5"), Some(3));
        assert_eq!(ends("a\nb\nc"), None);
        let long = "word ".repeat(40);
        assert_eq!(ends(&format!("{long}Question: more")), Some(long.len() + "Question:".len()));
        assert_eq!(ends("Question"), None);
        assert!(!Stop::new(&[], &Tokenizer::Bytes).ends(&[1, 2]).unwrap());
    }
}
