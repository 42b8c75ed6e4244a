//! Conversion of text and conversations to tokens and back.

mod added;
mod bytes;
pub mod chat;
mod compare;
mod files;
mod growth;
mod pretrained;
pub mod spans;
mod token_bytes;
mod vocabulary_map;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mopd_plan::events::FailureKind;

use self::chat::{ChatError, ChatTemplate, Conversation};
use crate::failure::Error;

pub use mopd_data::json;

pub use bytes::{BEGIN, END, PADDING};
pub use compare::{
    ONE_VOCABULARY, TokenizerDifference, difference, scoring_difference, vocabulary_difference,
};
pub use files::TokenizerFiles;
pub use pretrained::PretrainedTokenizer;
pub use token_bytes::TokenBytes;
pub use vocabulary_map::VocabularyMap;

/// An index into the vocabulary.
pub type Token = i64;

/// A range of bytes of a text.
pub type ByteSpan = Range<usize>;

/// The tokenizer of a model.
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
    /// Advice, where there is a usual solution.
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
    /// Number of ids, including ids without a token; an embedding may have more rows, which are padding.
    pub fn vocabulary(&self) -> usize {
        match self {
            Tokenizer::Bytes => bytes::VOCABULARY,
            Tokenizer::Pretrained(tokenizer) => tokenizer.vocabulary(),
        }
    }

    /// Number of tokens, without ids that have none: `vocab_size` in formulas.
    pub fn tokens(&self) -> usize {
        match self {
            Tokenizer::Bytes => bytes::VOCABULARY,
            Tokenizer::Pretrained(tokenizer) => tokenizer.tokens(),
        }
    }

    /// The ids below [`Tokenizer::vocabulary`] without a token. Next-token distributions give them
    /// probability 0, as they do to padding rows.
    pub fn absent(&self) -> &[Token] {
        match self {
            Tokenizer::Bytes => &[],
            Tokenizer::Pretrained(tokenizer) => tokenizer.absent(),
        }
    }

    /// BLAKE3 hash of its behaviour, in hexadecimal.
    pub fn hash(&self) -> String {
        match self {
            Tokenizer::Bytes => blake3::hash(b"bytes").to_hex().to_string(),
            Tokenizer::Pretrained(tokenizer) => tokenizer.hash().to_owned(),
        }
    }

    /// The tokens of a text, with nothing added.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(bytes::encode(text)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.encode(text),
        }
    }

    /// The tokens of a text, with nothing added, and the bytes of the text that each covers.
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

    /// The tokens of a text that continues another one, with their bytes: without the space that some
    /// tokenizers write before every text.
    pub fn continuation(&self, text: &str) -> Result<Vec<(Token, ByteSpan)>, TokenizerError> {
        match self {
            Tokenizer::Bytes => self.encode_with_spans(text),
            Tokenizer::Pretrained(tokenizer) => tokenizer.continuation(text),
        }
    }

    /// A prompt of plain text, ready for a completion.
    pub fn prompt(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(std::iter::once(BEGIN).chain(bytes::encode(text)).collect()),
            Tokenizer::Pretrained(tokenizer) => tokenizer.prompt(text),
        }
    }

    /// The tokens of `completion` after `prompt`, and an end token.
    ///
    /// If the tokens of both texts together begin with the prompt's, these are the remaining ones. Otherwise
    /// a token would cross the border, and these are the tokens of the completion alone, as a sampler that
    /// starts at the border would draw them.
    pub fn completion(&self, prompt: &str, completion: &str) -> Result<Vec<Token>, TokenizerError> {
        let mut tokens = match self {
            Tokenizer::Bytes => bytes::encode(completion),
            Tokenizer::Pretrained(tokenizer) => {
                let (before, mut whole) =
                    (tokenizer.encode(prompt)?, tokenizer.encode(&format!("{prompt}{completion}"))?);
                if whole.starts_with(&before) {
                    whole.split_off(before.len())
                } else {
                    tokenizer.continuation(completion)?.into_iter().map(|(token, _)| token).collect()
                }
            }
        };
        tokens.push(self.ends()[0]);
        Ok(tokens)
    }

    /// The text up to the first end token, without special tokens. Bytes that are not UTF-8, which a model
    /// may sample, become U+FFFD.
    pub fn decode(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        let written =
            tokens.iter().position(|&token| self.is_end(token)).map_or(tokens, |end| &tokens[..end]);
        match self {
            Tokenizer::Bytes => Ok(bytes::decode(written)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.decode(written),
        }
    }

    /// The whole text that a model reads: special tokens by their names, and also the text after an end
    /// token, of which a chat may have several. Special tokens of [`Tokenizer::Bytes`] have no names.
    pub fn as_read(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        match self {
            Tokenizer::Bytes => Ok(bytes::decode(tokens)),
            Tokenizer::Pretrained(tokenizer) => tokenizer.as_read(tokens),
        }
    }

    /// The end tokens of completions, first the one that [`Tokenizer::completion`] appends; at least one.
    pub fn ends(&self) -> &[Token] {
        match self {
            Tokenizer::Bytes => &[END],
            Tokenizer::Pretrained(tokenizer) => tokenizer.ends(),
        }
    }

    pub fn is_end(&self, token: Token) -> bool {
        self.ends().contains(&token)
    }

    /// The id that pads a batch to a rectangle; its value has no effect.
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

    /// The model's chat template for a conversation: some models have another one for conversations with
    /// tools. `None` where its files have no template.
    pub fn template(&self, conversation: &Conversation) -> Option<&ChatTemplate> {
        let named = |name: &str| self.templates().iter().find(|template| template.name() == name);
        conversation.has_tools().then(|| named("tool_use")).flatten().or_else(|| named("default"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
