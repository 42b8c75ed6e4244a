//! Which tokens of two vocabularies stand for the same text.

use std::collections::HashMap;

use mopd_compiler::plan::events::FailureKind;

use super::{TokenBytes, Tokenizer};
use crate::failure::{Error, Result};
use crate::tokenizer::Token;

/// The vocabularies of a student and of a teacher with another tokenizer.
pub struct Counterparts {
    /// The bytes of each.
    pub student: TokenBytes,
    pub teacher: TokenBytes,
    /// By the student's id, the teacher's for the same text.
    pub of_student: Vec<Option<Token>>,
    /// Ids of the teacher that are nobody's.
    pub alone: Vec<Token>,
}

impl Counterparts {
    /// `who` the teacher is, for messages.
    ///
    /// # Errors
    /// If texts of the two can't be compared, or share nothing.
    pub fn new(student: &Tokenizer, teacher: &Tokenizer, who: &str) -> Result<Counterparts> {
        let (own, other) = (TokenBytes::of(student)?, TokenBytes::of(teacher)?);
        let mut of_text: HashMap<&[u8], Token> = HashMap::new();
        for (id, bytes) in other.iter() {
            // Of several that stand for one text, the first.
            of_text.entry(bytes).or_insert(id);
        }
        let mut of_student = vec![None; student.vocabulary()];
        for (id, bytes) in own.iter() {
            // Each once: a second id of the student for the same text has no counterpart.
            of_student[id as usize] = of_text.remove(bytes);
        }
        if of_student.iter().all(Option::is_none) {
            let message = format!("{who} has no token that its student has");
            return Err(Error::new(FailureKind::Runtime, message)
                .help("compare with a teacher whose tokens are pieces of the same texts"));
        }
        // Both end a completion, whatever they call it.
        of_student[student.ends()[0] as usize] = Some(teacher.ends()[0]);
        let mut taken = vec![false; teacher.vocabulary()];
        for id in of_student.iter().flatten().chain(teacher.absent()) {
            taken[*id as usize] = true;
        }
        let alone = (0..).zip(taken).filter(|(_, taken)| !taken).map(|(id, _)| id).collect();
        Ok(Counterparts { student: own, teacher: other, of_student, alone })
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
        let found = Counterparts::new(&Tokenizer::Bytes, &teacher, "the teacher `big`").unwrap();
        let letter = teacher.encode("a").unwrap();
        assert_eq!(found.of_student[usize::from(b'a')], Some(letter[0]));
        assert_eq!(found.of_student[END as usize], Some(teacher.ends()[0]));
        // A byte-level vocabulary has every byte, and much besides.
        assert!(found.of_student[..256].iter().all(Option::is_some));
        let shared = found.of_student.iter().flatten().count();
        assert_eq!(shared, 257);
        assert_eq!(shared + found.alone.len(), teacher.tokens());
        assert!(!found.alone.contains(&letter[0]) && !found.alone.contains(&teacher.ends()[0]));
    }

    /// Two byte-level vocabularies spell alike; one of pieces has its own spelling for the same text.
    #[test]
    fn spelling_does_not_matter() {
        let (bytes, pieces) = (pretrained("llama3"), pretrained("gemma"));
        let found = Counterparts::new(&bytes, &pieces, "the teacher `big`").unwrap();
        let own = TokenBytes::of(&bytes).unwrap();
        let other = TokenBytes::of(&pieces).unwrap();
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
}
