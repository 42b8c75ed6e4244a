//! From text to tokens and back.

use crate::model::Token;

/// What a model's embedding is indexed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// A token is a byte of UTF-8, so every text has one encoding and no file is needed to know it.
    Bytes,
}

/// Stands before every prompt of bytes.
pub const BEGIN: Token = 256;
/// Ends a completion of bytes.
pub const END: Token = 257;
/// Fills a batch of bytes up to a rectangle; carries no loss and is never attended to.
pub const PADDING: Token = 258;

impl Tokenizer {
    /// Number of ids; an embedding may have more rows.
    pub fn vocabulary(&self) -> usize {
        match self {
            Tokenizer::Bytes => 259,
        }
    }

    /// A prompt, ready for a completion.
    pub fn prompt(&self, text: &str) -> Vec<Token> {
        match self {
            Tokenizer::Bytes => std::iter::once(BEGIN).chain(text.bytes().map(Token::from)).collect(),
        }
    }

    /// A completion and the token that ends it.
    pub fn completion(&self, text: &str) -> Vec<Token> {
        match self {
            Tokenizer::Bytes => text.bytes().map(Token::from).chain([END]).collect(),
        }
    }

    /// The text up to the first token that ends a completion, without special tokens. What is not UTF-8, which a model may well
    /// sample, becomes U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> String {
        match self {
            Tokenizer::Bytes => {
                let written = tokens.iter().take_while(|&&token| !self.is_end(token));
                let bytes: Vec<u8> = written.filter_map(|token| u8::try_from(*token).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// The tokens that end a completion, the one that [`Tokenizer::completion`] writes first; at least one.
    pub fn ends(&self) -> &[Token] {
        match self {
            Tokenizer::Bytes => &[END],
        }
    }

    pub fn is_end(&self, token: Token) -> bool {
        self.ends().contains(&token)
    }

    /// Fills a batch up to a rectangle: any id will do, nobody looks at it.
    pub fn padding(&self) -> Token {
        match self {
            Tokenizer::Bytes => PADDING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_byte() {
        assert_eq!(Tokenizer::Bytes.prompt("aé"), [256, 97, 0xC3, 0xA9]);
        assert_eq!(Tokenizer::Bytes.completion("aé"), [97, 0xC3, 0xA9, 257]);
        assert_eq!(Tokenizer::Bytes.prompt(""), [256]);
    }

    #[test]
    fn decoding_stops_at_the_end_and_survives_any_tokens() {
        assert_eq!(Tokenizer::Bytes.decode(&Tokenizer::Bytes.completion("sort: é\n")), "sort: é\n");
        assert_eq!(Tokenizer::Bytes.decode(&[104, 105, END, 33, PADDING]), "hi");
        assert_eq!(Tokenizer::Bytes.decode(&[BEGIN, 104, PADDING, 105]), "hi");
        assert_eq!(Tokenizer::Bytes.decode(&[0xC3, 104]), "\u{FFFD}h");
        assert_eq!(Tokenizer::Bytes.decode(&[]), "");
    }
}
