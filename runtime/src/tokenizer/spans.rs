//! Alignment of one text's tokens by two tokenizers.

use std::ops::Range;

/// The fewest tokens of both tokenizers that cover the same piece of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpan {
    pub student: Range<usize>,
    pub teacher: Range<usize>,
    /// Whether both sides' tokens spell the same bytes. Where the student's are not UTF-8, the teacher reads
    /// U+FFFD in their place: both predict what comes after the same text at the span's beginning, but its
    /// tokens stand for different texts.
    pub same_text: bool,
}

/// The text of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpelledText {
    pub text: String,
    /// The end of each token.
    pub ends: Vec<TokenEnd>,
    /// The places of those U+FFFD that stand for bytes that are not UTF-8, ascending.
    pub replaced: Vec<usize>,
}

/// The end of a token in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// The token ends at this byte.
    At(usize),
    /// It ends inside invalid UTF-8, or after the point up to which both tokenizers spell the same text.
    Nowhere,
    /// It has no text, such as a special token.
    NoText,
}

/// The alignment of one text's tokens by two tokenizers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextAlignment {
    pub spans: Vec<TextSpan>,
    /// Whether both spell the same text up to their last tokens, so that the tokens after it can be compared.
    pub to_the_end: bool,
}

/// Aligns a text's tokens by two tokenizers: the student's, which spell it, and a teacher's, whose bytes are
/// `pieces`.
pub fn spans_of<'a>(student: &SpelledText, pieces: impl Iterator<Item = Option<&'a [u8]>>) -> TextAlignment {
    spans(student, ends_in(&student.text, pieces))
}

/// Aligns tokens by their ends. Spans with a token without text are dropped: they are not comparable.
fn spans(student: &SpelledText, teacher: TeacherEnds) -> TextAlignment {
    let SpelledText { ends: student, replaced, .. } = student;
    let TeacherEnds { ends: teacher, before, mut surplus } = teacher;
    let mut spans = Vec::new();
    // Where the open span begins: a token of each side, and a place in the text.
    let (mut own_start, mut other_start, mut place) = (0, before, 0);
    let (mut of_student, mut of_teacher) = (0, before);
    let mut has_text = true;
    while let (Some(own), Some(other)) = (student.get(of_student), teacher.get(of_teacher)) {
        match (own, other) {
            (TokenEnd::At(own), TokenEnd::At(other)) if own == other => {
                of_student += 1;
                of_teacher += 1;
                let span = TextSpan {
                    student: own_start..of_student,
                    teacher: other_start..of_teacher,
                    same_text: !replaced.iter().any(|at| (place..*own).contains(at)),
                };
                let is_text = |ends: &[TokenEnd]| !ends.contains(&TokenEnd::NoText);
                has_text = is_text(&student[span.student.clone()]) && is_text(&teacher[span.teacher.clone()]);
                let has_surplus = std::mem::take(&mut surplus);
                if has_text && !has_surplus {
                    spans.push(span);
                }
                (own_start, other_start, place) = (of_student, of_teacher, *own);
            }
            (TokenEnd::At(own), TokenEnd::At(other)) if own > other => of_teacher += 1,
            (TokenEnd::At(_), TokenEnd::Nowhere | TokenEnd::NoText) => of_teacher += 1,
            _ => of_student += 1,
        }
    }
    let all = (own_start, other_start) == (student.len(), teacher.len());
    TextAlignment { spans, to_the_end: has_text && all }
}

/// The text of pieces of bytes, and the end of each piece in it. Invalid UTF-8 becomes U+FFFD, and a piece
/// that ends inside it is [`TokenEnd::Nowhere`].
pub fn text_of<'a>(pieces: impl Iterator<Item = Option<&'a [u8]>>) -> SpelledText {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece.unwrap_or_default());
        ends.push(piece.map(|_| bytes.len()));
    }
    let (mut text, mut replaced) = (String::new(), Vec::new());
    // Of each valid chunk: its bytes, its start in the text, and the length of invalid bytes after it.
    let mut chunks: Vec<(Range<usize>, usize, usize)> = Vec::new();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        let (valid, invalid) = (chunk.valid().len(), chunk.invalid().len());
        chunks.push((at..at + valid, text.len(), invalid));
        text.push_str(chunk.valid());
        if invalid > 0 {
            replaced.push(text.len());
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
    SpelledText { text, ends, replaced }
}

/// The ends of a teacher's tokens in a text.
struct TeacherEnds {
    ends: Vec<TokenEnd>,
    /// The number of tokens before the text: white space that a tokenizer or a template adds there.
    before: usize,
    /// Whether the first span has white space of one side alone.
    surplus: bool,
}

/// The ends of pieces in `text`, which they were made from, up to the first byte that differs.
///
/// Some tokenizers and templates add white space before a text, and others remove it. The white space that
/// both sides have, next to the text, is compared. A token that begins with white space of one side alone is
/// not: where one side predicts `▁The`, the other predicts `The`, and the same belief would look like a
/// contradiction.
fn ends_in<'a>(text: &str, pieces: impl Iterator<Item = Option<&'a [u8]>>) -> TeacherEnds {
    let mut spelled: Vec<u8> = Vec::new();
    let mut ends = Vec::new();
    for piece in pieces {
        spelled.extend_from_slice(piece.unwrap_or_default());
        ends.push(piece.map(|_| spelled.len()));
    }
    let text = text.as_bytes();
    let (own, other) = (&text[..leading_space(text)], &spelled[..leading_space(&spelled)]);
    let common = own.iter().rev().zip(other.iter().rev()).take_while(|(own, other)| own == other).count();
    let (skipped, added) = (own.len() - common, other.len() - common);
    let pairs = text[skipped..].iter().zip(&spelled[added..]);
    let same = pairs.take_while(|(one, other)| one == other).count();
    // The template's tokens of white space count as prompt. The student's own do not: it wrote them, and the
    // teacher does not read them.
    let is_space = |end: &&Option<usize>| end.is_some_and(|end| end <= added);
    let before = if added == 0 { 0 } else { ends.iter().take_while(is_space).count() };
    let begins = before.checked_sub(1).and_then(|last| ends[last]).unwrap_or(0);
    let place = |end: Option<usize>| match end {
        Some(end) if end >= added && end - added <= same => TokenEnd::At(end - added + skipped),
        Some(end) if end >= added => TokenEnd::Nowhere,
        _ => TokenEnd::NoText,
    };
    let ends = ends.into_iter().map(place).collect();
    TeacherEnds { ends, before, surplus: skipped > 0 || begins < added }
}

/// The number of bytes of ASCII white space at the beginning of a text.
pub fn leading_space(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::TokenEnd::{At, NoText, Nowhere};
    use super::*;

    fn pieces<'a>(pieces: &'a [&'a [u8]]) -> impl Iterator<Item = Option<&'a [u8]>> {
        pieces.iter().map(|piece| (*piece != b"<s>").then_some(*piece))
    }

    fn cut(student: &[&[u8]], teacher: &[&[u8]]) -> Vec<(Range<usize>, Range<usize>)> {
        let spans = spans_of(&text_of(pieces(student)), pieces(teacher)).spans;
        spans.into_iter().map(|span| (span.student, span.teacher)).collect()
    }

    #[test]
    fn spans_end_where_tokens_of_both_do() {
        let same = cut(&[b"the", b" cat"], &[b"the", b" cat"]);
        assert_eq!(same, [(0..1, 0..1), (1..2, 1..2)]);
        let split = cut(&[b"th", b"e", b" ca", b"t", b"!"], &[b"the", b" ", b"cat", b"!"]);
        assert_eq!(split, [(0..2, 0..1), (2..4, 1..3), (4..5, 3..4)]);
        // Only the end is common.
        assert_eq!(cut(&[b"ab", b"c"], &[b"a", b"bc"]), [(0..2, 0..2)]);
        assert_eq!(cut(&[], &[]), []);
    }

    /// White space that only one side has before a text does not shift the rest. Its token is in no span: the
    /// other side predicts one without it.
    #[test]
    fn white_space_before_a_text_is_left_out() {
        assert_eq!(cut(&[b"the", b" cat"], &[b" the", b" cat"]), [(1..2, 1..2)]);
        assert_eq!(cut(&[b" the", b" cat"], &[b"the", b" cat"]), [(1..2, 1..2)]);
        assert_eq!(cut(&[b"the", b"re", b"!"], &[b" th", b"ere", b"!"]), [(2..3, 2..3)]);
        // A separate white-space token of the teacher comes from its template; the text begins after it.
        assert_eq!(cut(&[b"the", b"!"], &[b" ", b"the", b"!"]), [(0..1, 1..2), (1..2, 2..3)]);
        // A separate white-space token of the student is its own text, and the teacher does not read it.
        assert_eq!(cut(&[b" ", b"the", b"!"], &[b"the", b"!"]), [(2..3, 1..2)]);
    }

    /// Only white space that the other side lacks is left out.
    #[test]
    fn white_space_of_both_sides_is_compared() {
        assert_eq!(cut(&[b" 4", b"!"], &[b" 4", b"!"]), [(0..1, 0..1), (1..2, 1..2)]);
        assert_eq!(cut(&[b" 4", b"!"], &[b" ", b" 4", b"!"]), [(0..1, 1..2), (1..2, 2..3)]);
        assert_eq!(cut(&[b" 4", b"!"], &[b"  ", b"4", b"!"]), [(1..2, 2..3)]);
        assert_eq!(cut(&[b"  ", b"4", b"!"], &[b" ", b"4", b"!"]), [(1..2, 1..2), (2..3, 2..3)]);
        assert_eq!(cut(&[b"\n\n", b"4", b"!"], &[b" ", b"4", b"!"]), [(2..3, 2..3)]);
    }

    /// The tokens after a text are compared if both sides spell all of it.
    #[test]
    fn texts_are_followed_to_their_ends() {
        let to_the_end = |student: &[&[u8]], teacher: &[&[u8]]| {
            spans_of(&text_of(pieces(student)), pieces(teacher)).to_the_end
        };
        assert!(to_the_end(&[b"4"], &[b" 4"]) && to_the_end(&[], &[]) && to_the_end(&[], &[b" "]));
        assert!(!to_the_end(&[b"4", b"2"], &[b"4"]) && !to_the_end(&[b"4"], &[b"4", b" "]));
        assert!(!to_the_end(&[b"a", b"<s>"], &[b"a"]) && !to_the_end(&[b"<s>", b"a"], &[b"a"]));
    }

    /// After a character that tokens split differently, spans begin again.
    #[test]
    fn spans_recover_behind_a_cut_character() {
        let student: [&[u8]; 4] = [b"a", b"\xf0\x9f", b"\xa6\x80", b"b"];
        let teacher: [&[u8]; 3] = [b"a\xf0", b"\x9f\xa6\x80", b"b"];
        assert_eq!(cut(&student, &teacher), [(0..3, 0..2), (3..4, 2..3)]);
    }

    /// Invalid UTF-8 becomes U+FFFD where the other side reads it.
    #[test]
    fn spans_recover_behind_what_is_no_text() {
        let SpelledText { text, ends, replaced } = text_of(pieces(&[b"a", b"\xff", b"b\xf0\x9f", b"c"]));
        assert_eq!(text, "a\u{fffd}b\u{fffd}c");
        assert_eq!((ends, replaced), (vec![At(1), At(4), At(8), At(9)], vec![1, 5]));
        assert_eq!(text_of(pieces(&[b"a\xf0", b"\x9fc"])).ends, [Nowhere, At(5)]);
        assert_eq!(cut(&[b"a\xf0", b"\x9fc"], &[b"a", "\u{fffd}c".as_bytes()]), [(0..2, 0..2)]);
    }

    /// The teacher's U+FFFD is not what the student wrote, unless it wrote that character. A character that
    /// tokens of both cut at the same byte has the same bytes on both sides.
    #[test]
    fn bytes_that_are_no_text_are_another_text() {
        let same = |student: &[&[u8]], teacher: &[&[u8]]| -> Vec<bool> {
            let spans = spans_of(&text_of(pieces(student)), pieces(teacher)).spans;
            spans.into_iter().map(|span| span.same_text).collect()
        };
        let replacement = "\u{fffd}".as_bytes();
        let other: [&[u8]; 4] = [b"a", b"\xef", b"\xbf\xbd", b"b"];
        assert_eq!(same(&[b"a", b"\xff", b"b"], &other), [true, false, true]);
        assert_eq!(same(&[b"a", replacement, b"b"], &other), [true, true, true]);
        assert_eq!(same(&[b"a", b"\xc3"], &[b"a", replacement]), [true, false], "cut off at the end");
        assert_eq!(same(&[b"\xc3", b"\xa9"], &[b"\xc3", b"\xa9"]), [true, true]);
        assert_eq!(same(&[b"a\xff", b"b"], &[b"a", b"\xef\xbf", b"\xbdb"]), [false]);
    }

    /// A special token is in no span, and neither is the other side's token of the same text.
    #[test]
    fn tokens_without_text_are_in_no_span() {
        assert_eq!(cut(&[b"a", b"<s>", b"b", b"c"], &[b"a", b"b", b"c"]), [(0..1, 0..1), (3..4, 2..3)]);
        assert_eq!(text_of(pieces(&[b"a", b"<s>"])).ends, [At(1), NoText]);
    }

    /// Where a tokenizer changes the text (lower case, other spaces), spans end.
    #[test]
    fn spans_end_where_spellings_differ() {
        assert_eq!(cut(&[b"a", b"B", b"c"], &[b"a", b"b", b"c"]), [(0..1, 0..1)]);
    }
}
