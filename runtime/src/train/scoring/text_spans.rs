//! `span.think`: the tokens of a completion between `<think>` and `</think>`, by its text. It does not depend
//! on token boundaries: a token is inside if any of its bytes is.

use std::sync::Arc;

use mopd_plan::{Objective, Signal, Train};

use crate::failure::Result;
use crate::tokenizer::{Token, TokenBytes, Tokenizer};
use crate::train::sequences::Sequences;
use crate::train::stage::StageSources;

/// The tags that a part's objective reads.
pub struct Tags {
    names: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    bytes: TokenBytes,
}

impl Tags {
    /// `None` where no tag is read.
    ///
    /// # Errors
    /// If the tokens of the student's tokenizer are not pieces of text.
    pub fn new(train: &Train<Objective>, tokenizer: &Arc<Tokenizer>) -> Result<Option<Tags>> {
        let read = train.objective.signals().into_iter().chain(train.scorers.signals());
        let mut names: Vec<String> = read
            .filter_map(|signal| match signal {
                Signal::InSpan { tag } => Some(tag),
                _ => None,
            })
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Ok(None);
        }
        let bytes = TokenBytes::new(tokenizer)?;
        Ok(Some(Tags { names, tokenizer: tokenizer.clone(), bytes }))
    }

    /// The signals, per trained token. Tokens that others wrote are part of the text.
    pub fn signals(&self, sources: &StageSources, sequences: &Sequences) -> Vec<(Signal, Vec<f32>)> {
        let of_tag = |tag: &String| {
            let inside = sequences.list.iter().flat_map(|sequence| {
                let prompt = self.texts(sequence.prompt(sources));
                let inside = inside(tag, &prompt, &self.texts(&sequence.completion));
                let inside: Vec<f32> = inside.into_iter().map(|inside| f32::from(u8::from(inside))).collect();
                sequence.completion.trained_indices().map(move |index| inside[index])
            });
            (Signal::InSpan { tag: tag.clone() }, inside.collect())
        };
        self.names.iter().map(of_tag).collect()
    }

    /// The bytes of each token, also of a special token: a tag may be one.
    fn texts(&self, tokens: &[Token]) -> Vec<Vec<u8>> {
        let text = |token: &Token| match (self.bytes.get(*token), &*self.tokenizer) {
            (Some(bytes), _) => bytes.to_vec(),
            (None, Tokenizer::Pretrained(pretrained)) => {
                pretrained.token(*token).unwrap_or_default().into_bytes()
            }
            (None, Tokenizer::Bytes) => Vec::new(),
        };
        tokens.iter().map(text).collect()
    }
}

/// Whether each token of a completion is inside. A tag that is never closed reaches to the end. Reasoning
/// templates open the tag at the end of the prompt: then the completion begins inside.
fn inside(tag: &str, prompt: &[Vec<u8>], completion: &[Vec<u8>]) -> Vec<bool> {
    let (open, close) = (format!("<{tag}>").into_bytes(), format!("</{tag}>").into_bytes());
    let text = completion.concat();
    let find = |wanted: &[u8], from: usize| {
        let place = text[from..].windows(wanted.len()).position(|part| part == wanted);
        place.map(|place| from + place)
    };
    let opened = prompt.concat().trim_ascii_end().ends_with(&open);
    let mut within = vec![false; text.len()];
    let mut start = if opened { Some(0) } else { find(&open, 0).map(|place| place + open.len()) };
    while let Some(from) = start {
        let end = find(&close, from);
        within[from..end.unwrap_or(text.len())].fill(true);
        start = end.and_then(|end| Some(find(&open, end + close.len())? + open.len()));
    }
    let mut first = 0;
    let of_token = completion.iter().map(|bytes| {
        let own = first..first + bytes.len();
        first = own.end;
        within[own].contains(&true)
    });
    of_token.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::pretrained;

    /// The text of the tokens that are inside, with `|` between runs that tokens outside separate.
    fn of_text(prompt: &str, completion: &[&str]) -> String {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        let found =
            inside("think", &[prompt.as_bytes().to_vec()], &completion.iter().map(bytes).collect::<Vec<_>>());
        let mut text = String::new();
        for (token, inside) in completion.iter().zip(found) {
            match inside {
                true => text.push_str(token),
                false if !text.is_empty() && !text.ends_with('|') => text.push('|'),
                false => {}
            }
        }
        text
    }

    #[test]
    fn a_token_is_inside_where_a_byte_of_it_is() {
        assert_eq!(of_text("1+1=", &["a", "<th", "ink", ">", "b", " c", "</", "think>", "d"]), "b c|");
        assert_eq!(of_text("1+1=", &["<think>b", "c</think>d", "e"]), "<think>bc</think>d|");
        assert_eq!(of_text("1+1=", &["<think>", "b", "</think>", "c", "<think>", "d", "</think>"]), "b|d|");
        assert_eq!(of_text("1+1=", &["<think>", "</think>", "c"]), "");
        assert_eq!(of_text("1+1=", &["b", "</think>", "c"]), "", "closed, but never opened");
        assert_eq!(of_text("1+1=", &["<think>", "b", "<think>", "c"]), "b<think>c", "never closed");
        assert_eq!(of_text("1+1=", &["<thinks>", "b", "</thinks>"]), "");
    }

    #[test]
    fn a_prompt_may_open_the_tag() {
        assert_eq!(of_text("Q<think>\n", &["b", "</think>", "c"]), "b|");
        assert_eq!(of_text("reason in <think> first", &["b", "</think>", "c"]), "", "that speaks of it");
        assert_eq!(of_text("Q<think>\n\n</think>\n", &["b"]), "");
    }

    /// Qwen3 has the tags as tokens of their own.
    #[test]
    fn tags_are_found_where_they_are_single_tokens() {
        for name in ["qwen3", "llama3", "gemma"] {
            let tokenizer = Arc::new(pretrained(name));
            let bytes = TokenBytes::new(&tokenizer).unwrap();
            let tags = Tags { names: Vec::new(), tokenizer: tokenizer.clone(), bytes };
            let tokens = tokenizer.encode("so<think>two and two</think>four").unwrap();
            let found = inside("think", &[], &tags.texts(&tokens));
            assert_eq!(found.len(), tokens.len());
            let inside = zip_text(&tags, &tokens, &found);
            assert!(inside.contains("two and two") && !inside.contains("four"), "{name}: {inside}");
        }
    }

    fn zip_text(tags: &Tags, tokens: &[Token], inside: &[bool]) -> String {
        let texts = tags.texts(tokens).into_iter().zip(inside).filter(|(_, inside)| **inside);
        String::from_utf8(texts.flat_map(|(text, _)| text).collect()).unwrap()
    }
}
