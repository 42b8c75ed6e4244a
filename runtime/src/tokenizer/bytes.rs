//! The byte tokenizer: a token is a byte of UTF-8, so every text has one encoding and no file is needed to
//! know it.

use crate::tokenizer::Token;

/// Stands before every prompt.
pub const BEGIN: Token = 256;
/// Ends a completion.
pub const END: Token = 257;
/// Fills a batch up to a rectangle; carries no loss and is never attended to.
pub const PADDING: Token = 258;
pub const VOCABULARY: usize = 259;

/// The bytes.
pub fn encode(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

/// The text of the tokens that are bytes. What is not UTF-8, which a model may well sample, becomes U+FFFD.
pub fn decode(tokens: &[Token]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
