//! Tokens of a text as it stands, comments and newlines included. Unlike the grammar, this takes any text.

use crate::syntax::layout::string_end;
use crate::syntax::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Newline,
    /// To the end of its line, without the blanks there.
    Comment,
    Word,
    Number,
    Text,
    Open,
    Close,
    Comma,
    Operator,
    /// No part of the language: what it stands in is left as it is.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

pub fn lex(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let (kind, length) = match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\x0c' => {
                at += 1;
                continue;
            }
            b'\n' => (Kind::Newline, 1),
            b'/' if rest.starts_with("//") => (Kind::Comment, line(rest)),
            b'/' if rest.starts_with("/*") => {
                (Kind::Foreign, rest.find("*/").map_or(rest.trim_end().len(), |end| end + 2))
            }
            b'#' => (Kind::Foreign, line(rest)),
            b'"' if rest.starts_with("\"\"\"") => {
                (Kind::Foreign, rest[3..].find("\"\"\"").map_or_else(|| line(rest), |length| length + 6))
            }
            b'"' => match string_end(bytes, at) {
                Some(end) => (Kind::Text, end + 1 - at),
                None => (Kind::Foreign, line(rest)),
            },
            b'\'' => (
                Kind::Foreign,
                rest[1..line(rest)].find('\'').map_or_else(|| line(rest), |length| length + 2),
            ),
            b'(' | b'[' | b'{' => (Kind::Open, 1),
            b')' | b']' | b'}' => (Kind::Close, 1),
            b',' => (Kind::Comma, 1),
            b'0'..=b'9' => (Kind::Number, words::number_length(&bytes[at..])),
            b'.' if !rest.starts_with("..") && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                (Kind::Number, words::number_length(&bytes[at..]))
            }
            byte if words::is_word_byte(byte) => (Kind::Word, words::word_length(&bytes[at..])),
            byte if byte.is_ascii_punctuation()
                && !matches!(byte, b';' | b'`' | b'\\' | b'?' | b'~' | b'$') =>
            {
                let known = words::SIGNS.iter().find(|sign| rest.starts_with(**sign));
                (Kind::Operator, known.map_or(1, |sign| sign.len()))
            }
            _ => {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                // A byte order mark is no part of the text.
                if at == 0 && rest.starts_with('\u{feff}') {
                    at += length;
                    continue;
                }
                (Kind::Foreign, length)
            }
        };
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
    tokens
}

/// Length of what is left of the line, without the blanks at its end.
fn line(rest: &str) -> usize {
    let line = rest.split('\n').next().unwrap_or(rest);
    line.trim_end().len()
}
