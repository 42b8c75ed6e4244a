//! Comparison of two models' token ids.

use std::fmt;

use super::Tokenizer;
use super::pretrained::PretrainedTokenizer;
use crate::tokenizer::Token;

/// The first difference of two tokenizers. A teacher reads its student's token ids unchanged, so there must
/// be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerDifference {
    /// One is the byte tokenizer, the other has a vocabulary.
    Kind,
    Id {
        id: Token,
        student: Option<String>,
        teacher: Option<String>,
    },
    /// The tokens at the beginning of prompts.
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

/// Why a teacher can't score its student's tokens. It may have tokens at ids where the student has none: they
/// count as impossible, as padding does.
pub fn scoring_difference(student: &Tokenizer, teacher: &Tokenizer) -> Option<TokenizerDifference> {
    match (student, teacher) {
        (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) => {
            let known = (0..one.vocabulary() as Token).filter(|id| one.token(*id).is_some());
            first_other(one, other, known).or_else(|| special_difference(one, other))
        }
        _ => vocabulary_difference(student, teacher),
    }
}

/// Compares the maps from ids to tokens, and special ids. Sizes are not compared: different vocabularies may
/// have the same size, and an embedding may have more rows than the vocabulary has ids.
pub fn difference(student: &Tokenizer, teacher: &Tokenizer) -> Option<TokenizerDifference> {
    if let Some(difference) = vocabulary_difference(student, teacher) {
        return Some(difference);
    }
    let (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) = (student, teacher) else { return None };
    special_difference(one, other)
}

/// The difference of the tokens that begin prompts or end completions.
fn special_difference(one: &PretrainedTokenizer, other: &PretrainedTokenizer) -> Option<TokenizerDifference> {
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

/// The first of some ids that is another token in the other model.
fn first_other(
    one: &PretrainedTokenizer,
    other: &PretrainedTokenizer,
    mut ids: impl Iterator<Item = Token>,
) -> Option<TokenizerDifference> {
    ids.find_map(|id| {
        let (student, teacher) = (one.token(id), other.token(id));
        (student != teacher).then_some(TokenizerDifference::Id { id, student, teacher })
    })
}

/// The first id that is another token in the other model. Begin and end tokens are not compared: an instruct
/// model may end its turns with another token than its base model.
pub fn vocabulary_difference(student: &Tokenizer, teacher: &Tokenizer) -> Option<TokenizerDifference> {
    let (one, other) = match (student, teacher) {
        (Tokenizer::Bytes, Tokenizer::Bytes) => return None,
        (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) if one == other => return None,
        (Tokenizer::Pretrained(one), Tokenizer::Pretrained(other)) => (one, other),
        _ => return Some(TokenizerDifference::Kind),
    };
    first_other(one, other, 0..one.vocabulary().max(other.vocabulary()) as Token)
}

impl fmt::Display for TokenizerDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.between("the student", "the teacher"))
    }
}

/// Advice for operations that combine two models element by element.
pub const ONE_VOCABULARY: &str = "each row of an embedding belongs to one token: name models with the \
    same vocabulary";

impl TokenizerDifference {
    /// Describes the difference in a message; `one` and `other` are the models' names.
    pub fn between(&self, one: &str, other: &str) -> String {
        let quoted = |token: &Option<String>| match token {
            Some(token) => format!("{token:?}"),
            None => "no token".to_owned(),
        };
        let list = |tokens: &[String]| match tokens {
            [] => "nothing".to_owned(),
            tokens => tokens.iter().map(|token| format!("{token:?}")).collect::<Vec<_>>().join(", "),
        };
        match self {
            TokenizerDifference::Kind => "one splits text by bytes, the other by a vocabulary".to_owned(),
            TokenizerDifference::Id { id, student, teacher } => {
                format!("the id {id} is {} to {one} and {} to {other}", quoted(student), quoted(teacher))
            }
            TokenizerDifference::Begin { student, teacher } => {
                format!("{one}'s prompts begin with {}, {other}'s with {}", list(student), list(teacher))
            }
            TokenizerDifference::End { student, teacher } => {
                format!("{one} ends a completion with {}, {other} with {}", list(student), list(teacher))
            }
        }
    }

    /// Advice for teachers.
    pub fn help(&self) -> &'static str {
        match self {
            TokenizerDifference::Kind | TokenizerDifference::Id { .. } => {
                "a teacher scores its student's tokens: choose a teacher with the same vocabulary, or \
                write `{ align = tokens }` after it and compare by text, as `std.cross_tokenizer` does"
            }
            TokenizerDifference::Begin { .. } => "give both the same `post_processor` in tokenizer.json",
            TokenizerDifference::End { .. } => {
                "give both the same tokens that may end a completion: name those that one lacks where it is \
                 loaded, `hf(\"...\", end_tokens: \"<|im_end|>\")`"
            }
        }
    }
}
