//! The bytes of text of each token, by which tokens of different tokenizers are compared.

use serde_json::Value;

use super::pretrained::PretrainedTokenizer;
use super::{Tokenizer, TokenizerError};
use crate::tokenizer::Token;

/// Bytes by id: `None` for special tokens, which have no text, and for ids without a token.
pub struct TokenBytes(Vec<Option<Box<[u8]>>>);

impl TokenBytes {
    /// # Errors
    /// If the tokenizer's tokens are not pieces of the text, such as WordPiece's `##ing`.
    pub fn new(tokenizer: &Tokenizer) -> Result<TokenBytes, TokenizerError> {
        match tokenizer {
            Tokenizer::Bytes => {
                let byte = |id| u8::try_from(id).ok().map(|byte| Box::from([byte]));
                Ok(TokenBytes((0..tokenizer.vocabulary()).map(byte).collect()))
            }
            Tokenizer::Pretrained(pretrained) => pretrained.token_bytes().map(TokenBytes),
        }
    }

    pub fn get(&self, token: Token) -> Option<&[u8]> {
        self.0.get(usize::try_from(token).ok()?)?.as_deref()
    }

    /// The ids that have text, with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &[u8])> {
        (0..).zip(&self.0).filter_map(|(id, bytes)| Some((id, bytes.as_deref()?)))
    }
}

impl PretrainedTokenizer {
    fn token_bytes(&self) -> Result<Vec<Option<Box<[u8]>>>, TokenizerError> {
        let spelling = Spelling::parse(&self.decoder())
            .map_err(|decoder| self.error(format!("its decoder `{decoder}` does not join pieces of text")))?;
        let bytes = |id: Token| {
            if self.is_special(id) {
                return None;
            }
            Some(spelling.bytes(&self.token(id)?).into_boxed_slice())
        };
        Ok((0..self.vocabulary() as Token).map(bytes).collect())
    }
}

/// The encoding of bytes in the spelling of tokens.
enum Spelling {
    /// Every byte has its own letter, as in GPT-2.
    ByteLevel,
    /// Replacements in spellings, usually `▁` for a space; `<0x0A>` is a byte.
    Pieces(Vec<(String, String)>),
}

impl Spelling {
    /// From the `decoder` of a `tokenizer.json`; the error is the name of an unsupported decoder.
    fn parse(decoder: &Value) -> Result<Spelling, String> {
        let parts = match decoder["decoders"].as_array() {
            Some(parts) => parts.as_slice(),
            None => std::slice::from_ref(decoder),
        };
        let mut replaced = Vec::new();
        for part in parts {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            match part["type"].as_str() {
                Some("ByteLevel") => return Ok(Spelling::ByteLevel),
                Some("Metaspace") => {
                    let space = text(&part["replacement"]).unwrap_or_else(|| "\u{2581}".to_owned());
                    replaced.push((space, " ".to_owned()));
                }
                Some("Replace") => match (text(&part["pattern"]["String"]), text(&part["content"])) {
                    (Some(pattern), Some(content)) if !pattern.is_empty() => {
                        replaced.push((pattern, content))
                    }
                    _ => return Err("Replace".to_owned()),
                },
                // The ends of a text are handled where texts are compared.
                Some("ByteFallback" | "Fuse" | "Strip") => {}
                other => return Err(other.unwrap_or("none").to_owned()),
            }
        }
        Ok(Spelling::Pieces(replaced))
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => {
                // An added token is its own spelling, even with other letters.
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of_letter).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Spelling::Pieces(replaced) => {
                let hexadecimal = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = hexadecimal.filter(|digits| digits.len() == 2);
                if let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    return vec![byte];
                }
                let whole = replaced.iter().fold(token.to_owned(), |text, (pattern, content)| {
                    text.replace(pattern.as_str(), content)
                });
                whole.into_bytes()
            }
        }
    }
}

/// The byte of a letter of a byte-level vocabulary: printable bytes are their own letters, and the others
/// have the letters from U+0100 on, in order.
fn byte_of_letter(letter: char) -> Option<u8> {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(u32::from(letter)) {
        Ok(byte) => printed(byte).then_some(byte),
        Err(_) => {
            let place = u32::from(letter).checked_sub(0x100)? as usize;
            (0..=u8::MAX).filter(|byte| !printed(*byte)).nth(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::pretrained;

    const TEXTS: [&str; 4] = ["sort: 3 1 2\nThe  größte 数 🦀!", " a", "x", "# the token\tand\r\n'll"];

    /// For every kind of tokenizer, the bytes of a text's tokens make the text, except for a space before it.
    #[test]
    fn tokens_of_a_text_are_its_pieces() {
        for name in ["gemma", "llama2", "llama3", "mistral", "qwen3", "smollm", "unigram"] {
            let tokenizer = pretrained(name);
            let bytes = TokenBytes::new(&tokenizer).unwrap();
            for text in TEXTS {
                // Unigram's normaliser folds white space.
                if name == "unigram" && text.contains(['\t', '\n']) {
                    continue;
                }
                let tokens = tokenizer.encode(text).unwrap();
                let joined: Vec<u8> =
                    tokens.iter().flat_map(|token| bytes.get(*token).unwrap_or(b"?").to_vec()).collect();
                let joined = String::from_utf8(joined).unwrap();
                assert_eq!(joined.trim_start_matches(' '), text.trim_start_matches(' '), "{name}");
            }
            let end = tokenizer.ends()[0];
            assert_eq!(bytes.get(end), None, "{name}: the end of a completion is no text");
        }
        let bytes = TokenBytes::new(&Tokenizer::Bytes).unwrap();
        assert_eq!(bytes.iter().count(), 256);
        assert_eq!(bytes.get(65), Some(b"A".as_slice()));
        assert_eq!(bytes.get(crate::tokenizer::END), None);
    }

    #[test]
    fn every_byte_has_one_letter() {
        let mut letters: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of_letter).collect();
        letters.sort_unstable();
        assert!(letters.into_iter().eq(0..=u8::MAX));
    }

    #[test]
    fn pieces_of_words_are_no_pieces_of_text() {
        let decoder = serde_json::json!({"type": "WordPiece", "prefix": "##"});
        assert!(matches!(Spelling::parse(&decoder), Err(name) if name == "WordPiece"));
    }
}
