//! The byte tokenizer: a token is a byte of UTF-8, so every text has exactly one encoding, and no file is
//! needed.

use crate::tokenizer::Token;

/// Begins every prompt.
pub const BEGIN: Token = 256;
/// Ends a completion.
pub const END: Token = 257;
/// Pads a batch to a rectangle; has no loss and is never attended to.
pub const PADDING: Token = 258;
pub const VOCABULARY: usize = 259;

/// The bytes of a text as tokens.
pub fn encode(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

/// The text of the tokens that are bytes. Invalid UTF-8, which a model may sample, becomes U+FFFD.
pub fn decode(tokens: &[Token]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
