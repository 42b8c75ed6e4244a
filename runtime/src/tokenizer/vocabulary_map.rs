//! Matching of tokens with the same text in two vocabularies.

use std::collections::HashMap;

use mopd_plan::events::FailureKind;

use super::chat::{self, Conversation};
use super::{TokenBytes, Tokenizer};
use crate::failure::{Error, Result};
use crate::tokenizer::Token;

/// The vocabularies of a student and of a teacher with another tokenizer.
pub struct VocabularyMap {
    /// The bytes of each token.
    pub student: TokenBytes,
    pub teacher: TokenBytes,
    /// By student's id, the teacher's id for the same text.
    pub of_student: Vec<Option<Token>>,
    /// Ids of the teacher without a counterpart.
    pub alone: Vec<Token>,
}

impl VocabularyMap {
    /// `chat`: whether answers are turns of a conversation, with the end tokens of both chat templates. `who`
    /// names the teacher in messages.
    ///
    /// # Errors
    /// If the tokens of the two can't be compared, or none has the same text.
    pub fn new(student: &Tokenizer, teacher: &Tokenizer, chat: bool, who: &str) -> Result<VocabularyMap> {
        let (own, other) = (TokenBytes::new(student)?, TokenBytes::new(teacher)?);
        let mut of_text: HashMap<&[u8], Token> = HashMap::new();
        for (id, bytes) in other.iter() {
            // Of several ids for one text, the first counts.
            of_text.entry(bytes).or_insert(id);
        }
        let mut of_student = vec![None; student.vocabulary()];
        for (id, bytes) in own.iter() {
            // Each counterpart is used once: a second id of the student for the same text has none.
            of_student[id as usize] = of_text.remove(bytes);
        }
        if of_student.iter().all(Option::is_none) {
            let message = format!("{who} shares no token with its student");
            return Err(Error::new(FailureKind::Runtime, message)
                .help("compare with a teacher whose tokens are pieces of the same texts"));
        }
        // The end tokens correspond, whatever their names.
        let [end, of_teacher] = [student, teacher].map(|tokenizer| end_of_answers(tokenizer, chat));
        for counterpart in of_student.iter_mut().filter(|counterpart| **counterpart == Some(of_teacher)) {
            *counterpart = None;
        }
        of_student[end as usize] = Some(of_teacher);
        let mut taken = vec![false; teacher.vocabulary()];
        for id in of_student.iter().flatten().chain(teacher.absent()) {
            taken[*id as usize] = true;
        }
        let alone = (0..).zip(taken).filter(|(_, taken)| !taken).map(|(id, _)| id).collect();
        Ok(VocabularyMap { student: own, teacher: other, of_student, alone })
    }
}

/// The token that ends an answer: a chat template may write another one than the tokenizer's own.
fn end_of_answers(tokenizer: &Tokenizer, chat: bool) -> Token {
    match chat {
        true => chat::turn_end(tokenizer, &Conversation::question(None, "a")),
        false => tokenizer.ends()[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::END;
    use crate::tokenizer::tests::pretrained;

    #[test]
    fn tokens_of_one_text_are_counterparts() {
        let teacher = pretrained("qwen3");
        let found = VocabularyMap::new(&Tokenizer::Bytes, &teacher, false, "the teacher `big`").unwrap();
        let letter = teacher.encode("a").unwrap();
        assert_eq!(found.of_student[usize::from(b'a')], Some(letter[0]));
        assert_eq!(found.of_student[END as usize], Some(teacher.ends()[0]));
        // A byte-level vocabulary has every byte, among much else.
        assert!(found.of_student[..256].iter().all(Option::is_some));
        let shared = found.of_student.iter().flatten().count();
        assert_eq!(shared, 257);
        assert_eq!(shared + found.alone.len(), teacher.tokens());
        assert!(!found.alone.contains(&letter[0]) && !found.alone.contains(&teacher.ends()[0]));
    }

    /// A byte-level vocabulary and one of pieces spell the same text differently.
    #[test]
    fn spelling_does_not_matter() {
        let (bytes, pieces) = (pretrained("llama3"), pretrained("gemma"));
        let found = VocabularyMap::new(&bytes, &pieces, false, "the teacher `big`").unwrap();
        let own = TokenBytes::new(&bytes).unwrap();
        let other = TokenBytes::new(&pieces).unwrap();
        let mut spaced = 0;
        for (id, counterpart) in (0..).zip(&found.of_student) {
            let Some(counterpart) = counterpart else { continue };
            if bytes.is_end(id) {
                continue;
            }
            assert_eq!(own.get(id), other.get(*counterpart));
            spaced += usize::from(own.get(id).is_some_and(|text| text.starts_with(b" ")));
        }
        assert!(spaced > 0, "`Ġthe` and `▁the` are one text");
    }

    /// Gemma's template ends a turn with another token than its tokenizer's `eos_token`.
    #[test]
    fn end_tokens_are_those_of_the_prompt_format() {
        let (llama3, gemma) = (pretrained("llama3"), pretrained("gemma"));
        let id = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap()[0];
        let [text, chat] = [false, true].map(|chat| VocabularyMap::new(&llama3, &gemma, chat, "it").unwrap());
        let (eos, end_of_turn) = (id(&gemma, "<eos>"), id(&gemma, "<end_of_turn>"));
        let end = id(&llama3, "<|eot_id|>");
        assert_eq!(text.of_student[end as usize], Some(eos));
        assert_eq!(chat.of_student[end as usize], Some(end_of_turn));
        assert!(chat.alone.contains(&eos) && !chat.alone.contains(&end_of_turn));
        let of_gemma = VocabularyMap::new(&gemma, &llama3, true, "it").unwrap().of_student;
        assert_eq!((of_gemma[end_of_turn as usize], of_gemma[eos as usize]), (Some(end), None));
    }
}
