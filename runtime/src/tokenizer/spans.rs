//! One text as tokens of two tokenizers: where they begin together.

use std::ops::Range;

/// Tokens of either that are the same piece of the text, and no part of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpan {
    pub student: Range<usize>,
    pub teacher: Range<usize>,
}

/// What a token adds to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// It is text up to this byte.
    At(usize),
    /// It ends inside of what is no text, or behind the place up to which both tokenise the same text.
    Nowhere,
    /// It is no text.
    NoText,
}

/// The spans of a text that `pieces` spell, those of a teacher, as the student's tokens do that end at
/// `student`.
pub fn spans_of<'a>(
    text: &str,
    student: &[TokenEnd],
    pieces: impl Iterator<Item = Option<&'a [u8]>>,
) -> Vec<TextSpan> {
    let (teacher, skipped) = ends_in(text, pieces);
    let compared = |end: &TokenEnd| match end {
        TokenEnd::At(end) if *end <= skipped => TokenEnd::NoText,
        end => *end,
    };
    spans(&student.iter().map(compared).collect::<Vec<TokenEnd>>(), &teacher)
}

/// A span with a token that is no text is none: what stands beside it says nothing of it.
fn spans(student: &[TokenEnd], teacher: &[TokenEnd]) -> Vec<TextSpan> {
    let mut spans = Vec::new();
    let mut from = TextSpan { student: 0..0, teacher: 0..0 };
    let (mut of_student, mut of_teacher) = (0, 0);
    while let (Some(own), Some(other)) = (student.get(of_student), teacher.get(of_teacher)) {
        match (own, other) {
            (TokenEnd::At(own), TokenEnd::At(other)) if own == other => {
                of_student += 1;
                of_teacher += 1;
                let span = TextSpan {
                    student: from.student.start..of_student,
                    teacher: from.teacher.start..of_teacher,
                };
                let is_text = |ends: &[TokenEnd]| !ends.contains(&TokenEnd::NoText);
                if is_text(&student[span.student.clone()]) && is_text(&teacher[span.teacher.clone()]) {
                    spans.push(span);
                }
                from = TextSpan { student: of_student..of_student, teacher: of_teacher..of_teacher };
            }
            (TokenEnd::At(own), TokenEnd::At(other)) if own > other => of_teacher += 1,
            (TokenEnd::At(_), TokenEnd::Nowhere | TokenEnd::NoText) => of_teacher += 1,
            _ => of_student += 1,
        }
    }
    spans
}

/// A text as its bytes, and where each of the pieces that it is made of ends in it. Bytes that are no UTF-8
/// become U+FFFD: a piece that ends inside of them ends nowhere.
pub fn text_of<'a>(pieces: impl Iterator<Item = Option<&'a [u8]>>) -> (String, Vec<TokenEnd>) {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece.unwrap_or_default());
        ends.push(piece.map(|_| bytes.len()));
    }
    let mut text = String::new();
    // Where the valid chunk of each byte begins, in bytes and in text, and what is no text behind it.
    let mut chunks: Vec<(Range<usize>, usize, usize)> = Vec::new();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        let (valid, invalid) = (chunk.valid().len(), chunk.invalid().len());
        chunks.push((at..at + valid, text.len(), invalid));
        text.push_str(chunk.valid());
        if invalid > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        at += valid + invalid;
    }
    let place = |end: Option<usize>| {
        let Some(end) = end else { return TokenEnd::NoText };
        if end == bytes.len() {
            return TokenEnd::At(text.len());
        }
        let chunk = chunks.iter().find(|(valid, _, invalid)| end < valid.end + invalid);
        match chunk {
            Some((valid, start, _)) if end <= valid.end => TokenEnd::At(start + end - valid.start),
            _ => TokenEnd::Nowhere,
        }
    };
    let ends = ends.into_iter().map(place).collect();
    (text, ends)
}

/// Where tokens end in `text`, which they were made from: up to where they spell something else. White space
/// before either is left out, as some tokenizers and templates add it and others take it away; so much of the
/// text is.
fn ends_in<'a>(text: &str, pieces: impl Iterator<Item = Option<&'a [u8]>>) -> (Vec<TokenEnd>, usize) {
    let mut spelled: Vec<u8> = Vec::new();
    let mut ends = Vec::new();
    for piece in pieces {
        spelled.extend_from_slice(piece.unwrap_or_default());
        ends.push(piece.map(|_| spelled.len()));
    }
    let blank = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let (skipped, added) = if text.as_bytes().starts_with(&spelled[..1.min(spelled.len())]) {
        (0, 0)
    } else {
        (blank(text.as_bytes()), blank(&spelled))
    };
    let pairs = text.as_bytes()[skipped..].iter().zip(&spelled[added..]);
    let same = pairs.take_while(|(one, other)| one == other).count();
    let place = |end: Option<usize>| match end {
        None => TokenEnd::NoText,
        Some(end) if end <= added => TokenEnd::NoText,
        Some(end) if end - added <= same => TokenEnd::At(end - added + skipped),
        Some(_) => TokenEnd::Nowhere,
    };
    (ends.into_iter().map(place).collect(), skipped)
}

#[cfg(test)]
mod tests {
    use super::TokenEnd::{At, NoText, Nowhere};
    use super::*;

    fn pieces<'a>(pieces: &'a [&'a [u8]]) -> impl Iterator<Item = Option<&'a [u8]>> {
        pieces.iter().map(|piece| (*piece != b"<s>").then_some(*piece))
    }

    fn cut(student: &[&[u8]], teacher: &[&[u8]]) -> Vec<(Range<usize>, Range<usize>)> {
        let (text, own) = text_of(pieces(student));
        spans_of(&text, &own, pieces(teacher)).into_iter().map(|span| (span.student, span.teacher)).collect()
    }

    #[test]
    fn spans_end_where_tokens_of_both_do() {
        let same = cut(&[b"the", b" cat"], &[b"the", b" cat"]);
        assert_eq!(same, [(0..1, 0..1), (1..2, 1..2)]);
        let split = cut(&[b"th", b"e", b" ca", b"t", b"!"], &[b"the", b" ", b"cat", b"!"]);
        assert_eq!(split, [(0..2, 0..1), (2..4, 1..3), (4..5, 3..4)]);
        // Nothing is common but the end.
        assert_eq!(cut(&[b"ab", b"c"], &[b"a", b"bc"]), [(0..2, 0..2)]);
        assert_eq!(cut(&[], &[]), []);
    }

    /// A space that one tokenizer writes before a text does not shift what comes after it.
    #[test]
    fn white_space_before_a_text_is_left_out() {
        assert_eq!(cut(&[b"the", b" cat"], &[b" the", b" cat"]), [(0..1, 0..1), (1..2, 1..2)]);
        assert_eq!(cut(&[b" the", b" cat"], &[b"the", b" cat"]), [(0..1, 0..1), (1..2, 1..2)]);
        // A token of its own is nothing that the other could have written.
        assert_eq!(cut(&[b"the"], &[b" ", b"the"]), []);
        assert_eq!(cut(&[b" ", b"the", b"!"], &[b"the", b"!"]), [(2..3, 1..2)]);
    }

    /// Characters that tokens cut: both recover behind them.
    #[test]
    fn spans_recover_behind_a_cut_character() {
        let student: [&[u8]; 4] = [b"a", b"\xf0\x9f", b"\xa6\x80", b"b"];
        let teacher: [&[u8]; 3] = [b"a\xf0", b"\x9f\xa6\x80", b"b"];
        assert_eq!(cut(&student, &teacher), [(0..3, 0..2), (3..4, 2..3)]);
    }

    /// What is no UTF-8 becomes U+FFFD where the other reads it.
    #[test]
    fn spans_recover_behind_what_is_no_text() {
        let (text, ends) = text_of(pieces(&[b"a", b"\xff", b"b\xf0\x9f", b"c"]));
        assert_eq!(text, "a\u{fffd}b\u{fffd}c");
        assert_eq!(ends, [At(1), At(4), At(8), At(9)]);
        let (_, ends) = text_of(pieces(&[b"a\xf0", b"\x9fc"]));
        assert_eq!(ends, [Nowhere, At(5)]);
        assert_eq!(cut(&[b"a\xf0", b"\x9fc"], &[b"a", "\u{fffd}c".as_bytes()]), [(0..2, 0..2)]);
    }

    /// A special token in a text is compared with nothing, and neither is what stands for the same text.
    #[test]
    fn tokens_without_text_are_in_no_span() {
        assert_eq!(cut(&[b"a", b"<s>", b"b", b"c"], &[b"a", b"b", b"c"]), [(0..1, 0..1), (3..4, 2..3)]);
        let (_, ends) = text_of(pieces(&[b"a", b"<s>"]));
        assert_eq!(ends, [At(1), NoText]);
    }

    /// A tokenizer that changes the text (lower case, other spaces) is followed up to there.
    #[test]
    fn behind_another_spelling_there_are_no_spans() {
        assert_eq!(cut(&[b"a", b"B", b"c"], &[b"a", b"b", b"c"]), [(0..1, 0..1)]);
    }
}
