//! From text and conversations to tokens and back.

mod added;
mod bytes;
pub mod chat;
mod compare;
mod counterparts;
mod files;
mod growth;
pub mod json;
mod pretrained;
pub mod spans;
mod token_bytes;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mopd_compiler::plan::events::FailureKind;

use self::chat::{ChatError, ChatTemplate, Conversation};
use crate::failure::Error;

pub use bytes::{BEGIN, END, PADDING};
pub use compare::{TokenizerDifference, difference};
pub use counterparts::Counterparts;
pub use files::TokenizerFiles;
pub use pretrained::PretrainedTokenizer;
pub use token_bytes::TokenBytes;

/// An index into the vocabulary.
pub type Token = i64;

/// Bytes of a text.
pub type ByteSpan = Range<usize>;

/// What a model's embedding is indexed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// A token is a byte of UTF-8.
    Bytes,
    /// The model's own.
    Pretrained(PretrainedTokenizer),
}

/// A tokenizer that cannot be used, or a text that it cannot encode. Displays as `FILE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerError {
    pub file: PathBuf,
    pub problem: String,
    /// The way out, where there is a usual one.
    pub help: Option<String>,
}

impl TokenizerError {
    fn new(file: &Path, problem: impl fmt::Display) -> TokenizerError {
        TokenizerError { file: file.to_owned(), problem: problem.to_string(), help: None }
    }

    fn help(self, help: impl Into<String>) -> TokenizerError {
        TokenizerError { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.problem)
    }
}

impl std::error::Error for TokenizerError {}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Error {
        let failure = Error::new(FailureKind::Data, error.to_string());
        match error.help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<ChatError> for Error {
    fn from(error: ChatError) -> Error {
        let failure = Error::new(FailureKind::Data, error.to_string());
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl Tokenizer {
    /// Number of ids, holes included; an embedding may have more rows, which are padding.
    pub fn vocabulary(&self) -> usize {
        match self {
            Tokenizer::Bytes => bytes::VOCABULARY,
            Tokenizer::Pretrained(tokenizer) => tokenizer.vocabulary(),
        }
    }

    /// Number of tokens, ids that no token has not counted: what `vocab_size` is in a formula.
    pub fn tokens(&self) -> usize {
        match self {
            Tokenizer::Bytes => bytes::VOCABULARY,
            Tokenizer::Pretrained(tokenizer) => tokenizer.tokens(),
        }
    }

    /// The ids below [`Tokenizer::vocabulary`] that no token has. A distribution over the next token gives
    /// them nothing, as it gives nothing to padded rows.
    pub fn absent(&self) -> &[Token] {
        match self {
            Tokenizer::Bytes => &[],
            Tokenizer::Pretrained(tokenizer) => tokenizer.absent(),
        }
    }

    /// Blake3 of what it does, in hexadecimal.
    pub fn hash(&self) -> String {
        match self {
            Tokenizer::Bytes => blake3::hash(b"bytes").to_hex().to_string(),
            Tokenizer::Pretrained(tokenizer) => tokenizer.hash().to_owned(),
        }
    }

    /// The tokens of a text as it stands, nothing added.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(bytes::encode(text)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.encode(text),
        }
    }

    /// The tokens of a text, nothing added, and the bytes that each was made from.
    pub fn encode_with_spans(&self, text: &str) -> Result<Vec<(Token, ByteSpan)>, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(text
                .bytes()
                .enumerate()
                .map(|(place, byte)| (Token::from(byte), place..place + 1))
                .collect()),
            Tokenizer::Pretrained(tokenizer) => tokenizer.encode_with_spans(text),
        }
    }

    /// A prompt of plain text, ready for a completion.
    pub fn prompt(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(std::iter::once(BEGIN).chain(bytes::encode(text)).collect()),
            Tokenizer::Pretrained(tokenizer) => tokenizer.prompt(text),
        }
    }

    /// What a model that read `prompt` would write to say `completion`: its tokens and the one that ends it.
    ///
    /// Where the tokens of both texts together begin with the prompt's, the rest of them; otherwise, where a
    /// token would cross the border, the completion's own tokens, as a sampler that starts at the border
    /// must write them.
    pub fn completion(&self, prompt: &str, completion: &str) -> Result<Vec<Token>, TokenizerError> {
        let mut tokens = match self {
            Tokenizer::Bytes => bytes::encode(completion),
            Tokenizer::Pretrained(tokenizer) => {
                let (before, mut whole) =
                    (tokenizer.encode(prompt)?, tokenizer.encode(&format!("{prompt}{completion}"))?);
                if whole.starts_with(&before) {
                    whole.split_off(before.len())
                } else {
                    tokenizer.encode(completion)?
                }
            }
        };
        tokens.push(self.ends()[0]);
        Ok(tokens)
    }

    /// The text up to the first token that ends a completion, without special tokens. What is not UTF-8,
    /// which a model may well sample, becomes U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        let written =
            tokens.iter().position(|&token| self.is_end(token)).map_or(tokens, |end| &tokens[..end]);
        match self {
            Tokenizer::Bytes => Ok(bytes::decode(written)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.decode(written),
        }
    }

    /// All of the text that a model reads: special tokens by their names, and what stands behind an end as
    /// well, where a chat has several. A special token of [`Tokenizer::Bytes`] has no name.
    pub fn as_read(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(bytes::decode(tokens)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.as_read(tokens),
        }
    }

    /// The tokens that end a completion, the one that [`Tokenizer::completion`] writes first; at least one.
    pub fn ends(&self) -> &[Token] {
        match self {
            Tokenizer::Bytes => &[END],
            Tokenizer::Pretrained(tokenizer) => tokenizer.ends(),
        }
    }

    pub fn is_end(&self, token: Token) -> bool {
        self.ends().contains(&token)
    }

    /// Fills a batch up to a rectangle: any id will do, nobody looks at it.
    pub fn padding(&self) -> Token {
        match self {
            Tokenizer::Bytes => PADDING,
            Tokenizer::Pretrained(tokenizer) => tokenizer.padding(),
        }
    }

    /// The chat templates of its model.
    pub fn templates(&self) -> &[ChatTemplate] {
        match self {
            Tokenizer::Bytes => &[],
            Tokenizer::Pretrained(tokenizer) => tokenizer.templates(),
        }
    }

    /// How the model writes conversations; `tools` says whether the conversation has any, for which some
    /// models have a template of its own. None where its files have no template.
    pub fn template(&self, conversation: &Conversation) -> Option<&ChatTemplate> {
        let named = |name: &str| self.templates().iter().find(|template| template.name() == name);
        conversation.has_tools().then(|| named("tool_use")).flatten().or_else(|| named("default"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
