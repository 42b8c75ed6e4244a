//! Whether two models mean the same by the same numbers.

use std::fmt;

use super::Tokenizer;
use crate::tokenizer::Token;

/// The first thing by which two tokenizers differ. A teacher reads its student's token ids as they are, so
/// none may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerDifference {
    /// One splits text by bytes, the other by a vocabulary of its own.
    Kind,
    Id {
        id: Token,
        student: Option<String>,
        teacher: Option<String>,
    },
    /// What prompts begin with.
    Begin {
        student: Vec<String>,
        teacher: Vec<String>,
    },
    /// The tokens that end a completion, as sets.
    End {
        student: Vec<String>,
        teacher: Vec<String>,
    },
}

/// Compares by the map from ids to tokens and by special ids. Sizes say nothing: different vocabularies may
/// be equally large, and an embedding may have more rows than the vocabulary has ids.
pub fn difference(student: &Tokenizer, teacher: &Tokenizer) -> Option<TokenizerDifference> {
    let (one, other) = match (student, teacher) {
        (Tokenizer::Bytes, Tokenizer::Bytes) => return None,
        (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) if one == other => return None,
        (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) => (one, other),
        _ => return Some(TokenizerDifference::Kind),
    };
    for id in 0..one.vocabulary().max(other.vocabulary()) as Token {
        let (student, teacher) = (one.token(id), other.token(id));
        if student != teacher {
            return Some(TokenizerDifference::Id { id, student, teacher });
        }
    }
    let spelled = |tokens: &[Token]| -> Vec<String> {
        tokens.iter().map(|&id| one.token(id).unwrap_or_default()).collect()
    };
    if one.before() != other.before() {
        return Some(TokenizerDifference::Begin {
            student: spelled(one.before()),
            teacher: spelled(other.before()),
        });
    }
    let sorted = |tokens: &[Token]| {
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        tokens
    };
    if sorted(one.ends()) != sorted(other.ends()) {
        return Some(TokenizerDifference::End {
            student: spelled(one.ends()),
            teacher: spelled(other.ends()),
        });
    }
    None
}

impl fmt::Display for TokenizerDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |token: &Option<String>| match token {
            Some(token) => format!("{token:?}"),
            None => "no token".to_owned(),
        };
        let list = |tokens: &[String]| match tokens {
            [] => "nothing".to_owned(),
            tokens => tokens.iter().map(|token| format!("{token:?}")).collect::<Vec<_>>().join(", "),
        };
        match self {
            TokenizerDifference::Kind => write!(f, "one splits text by bytes, the other by a vocabulary"),
            TokenizerDifference::Id { id, student, teacher } => {
                write!(
                    f,
                    "the id {id} is {} to the student and {} to the teacher",
                    quoted(student),
                    quoted(teacher)
                )
            }
            TokenizerDifference::Begin { student, teacher } => {
                write!(
                    f,
                    "the student's prompts begin with {}, the teacher's with {}",
                    list(student),
                    list(teacher)
                )
            }
            TokenizerDifference::End { student, teacher } => {
                write!(
                    f,
                    "the student ends a completion with {}, the teacher with {}",
                    list(student),
                    list(teacher)
                )
            }
        }
    }
}

impl TokenizerDifference {
    /// The way out.
    pub fn help(&self) -> &'static str {
        match self {
            TokenizerDifference::Kind | TokenizerDifference::Id { .. } => {
                "a teacher scores its student's own tokens: choose one of the same vocabulary, or write `{ align = \
                 tokens }` after it and compare by text, as `std.cross_tokenizer` does"
            }
            TokenizerDifference::Begin { .. } => "give both the same `post_processor` in tokenizer.json",
            TokenizerDifference::End { .. } => {
                "give both the same `eos_token_id` in generation_config.json, all tokens that may end a \
                 completion"
            }
        }
    }
}
