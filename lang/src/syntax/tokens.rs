//! The tokens of any text, however broken, including comments and newlines: for the formatter, editors and
//! `// allow(...)` comments. The other pass over a text is [`super::layout`], which rewrites syntax of other
//! languages for the grammar. Both have the same rules for the ends of words, numbers, texts and
//! signs.

use super::quotes::{TRIPLE, text_end};
use super::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Newline,
    /// A comment up to the end of its line, without trailing blanks.
    Comment,
    /// `///` or `//!`
    Doc,
    Word,
    Number,
    /// In quotes, on one line or on several.
    Text,
    /// A quote whose partner is missing, and the rest of the line.
    OpenText,
    Open,
    Close,
    Comma,
    /// `=`, `->`, `.`, ...
    Sign,
    /// A comment or a text in another language's syntax: `# ...`, `/* ... */`, `'...'`, `"""..."""` on one
    /// line.
    Foreign,
    /// A character that no token begins with.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxToken {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl SyntaxToken {
    pub fn text(self, source: &str) -> &str {
        &source[self.start..self.end]
    }

    pub fn is_comment(self) -> bool {
        matches!(self.kind, TokenKind::Comment | TokenKind::Doc)
    }
}

/// Every token of a text, in order, without the blanks between them.
pub fn lex(text: &str) -> Vec<SyntaxToken> {
    let mut tokens = Vec::new();
    // A byte order mark is not part of the text.
    let mut at = text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len();
    while at < text.len() {
        if matches!(text.as_bytes()[at], b' ' | b'\t' | b'\r' | b'\x0c') {
            at += 1;
            continue;
        }
        let (kind, length) = token(text, at);
        tokens.push(SyntaxToken { kind, start: at, end: at + length });
        at += length;
    }
    tokens
}

/// The token that begins at an offset, and its length.
fn token(text: &str, at: usize) -> (TokenKind, usize) {
    let (bytes, rest) = (text.as_bytes(), &text[at..]);
    match bytes[at] {
        b'\n' => (TokenKind::Newline, 1),
        b'/' if rest.starts_with("//") => {
            let doc = rest.starts_with("//!") || (rest.starts_with("///") && !rest.starts_with("////"));
            (if doc { TokenKind::Doc } else { TokenKind::Comment }, line(rest))
        }
        b'/' if rest.starts_with("/*") => {
            (TokenKind::Foreign, rest.find("*/").map_or_else(|| trimmed(rest).len(), |end| end + 2))
        }
        b'#' => (TokenKind::Foreign, line(rest)),
        // On one line, they are those of Python.
        b'"' if rest.starts_with(TRIPLE) && line(rest) > TRIPLE.len() => {
            let closed = rest[TRIPLE.len()..].find(TRIPLE);
            (TokenKind::Foreign, closed.map_or_else(|| line(rest), |length| length + 2 * TRIPLE.len()))
        }
        b'"' => match text_end(text, at) {
            Some(end) => (TokenKind::Text, end + 1 - at),
            None => (TokenKind::OpenText, rest.find('\n').unwrap_or(rest.len())),
        },
        b'\'' => {
            let closed = rest[1..line(rest)].find('\'');
            (TokenKind::Foreign, closed.map_or_else(|| line(rest), |length| length + 2))
        }
        b'(' | b'[' | b'{' => (TokenKind::Open, 1),
        b')' | b']' | b'}' => (TokenKind::Close, 1),
        b',' => (TokenKind::Comma, 1),
        byte if byte.is_ascii_digit()
            || byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) =>
        {
            (TokenKind::Number, words::number_length(&bytes[at..]))
        }
        byte if words::is_word_byte(byte) => (TokenKind::Word, words::word_length(&bytes[at..])),
        byte if byte.is_ascii_punctuation() && !matches!(byte, b';' | b'`' | b'\\' | b'?' | b'~' | b'$') => {
            let known = words::SIGNS.iter().find(|sign| rest.starts_with(**sign));
            (TokenKind::Sign, known.map_or(1, |sign| sign.len()))
        }
        _ => (TokenKind::Unknown, rest.chars().next().map_or(1, char::len_utf8)),
    }
}

/// Length of the rest of the line, without trailing blanks.
fn line(rest: &str) -> usize {
    trimmed(rest.split('\n').next().unwrap_or(rest)).len()
}

/// A text without trailing blanks and line breaks, as [`lex`] skips them. Any other space, such as a no-break
/// space, is part of its token.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches([' ', '\t', '\r', '\x0c', '\n'])
}

/// A piece of text on one line, without comments and with single blanks.
pub fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    let mut end = 0;
    let mut after_open = true;
    let tokens = lex(text).into_iter();
    for token in tokens.filter(|token| token.kind != TokenKind::Newline && !token.is_comment()) {
        let closes = token.kind == TokenKind::Close;
        if closes && text[end..token.start].contains('\n') && line.ends_with(',') {
            line.pop();
        }
        if token.start > end && !after_open && !closes {
            line.push(' ');
        }
        line += token.text(text);
        (end, after_open) = (token.end, token.kind == TokenKind::Open);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_that_is_no_blank_is_part_of_its_comment() {
        for text in ["// note\u{a0}", "/// note\u{2003}", "# note\u{a0}", "/* note\u{a0}", "\"note\u{a0}"] {
            let source = format!("{text} \t\r\nlet");
            let tokens = lex(&source);
            assert_eq!(trimmed(tokens[0].text(&source).split('\n').next().unwrap()), text);
            assert!(tokens.iter().all(|token| token.kind != TokenKind::Unknown), "{source:?}");
        }
    }

    #[test]
    fn a_name_is_on_one_line() {
        let call = "near(\n  expert[sort], // the one\n  by:   0.5,\n  // none\n)";
        assert_eq!(on_one_line(call), "near(expert[sort], by: 0.5)");
        for text in ["f(a, [b - 1])", "-x", "\"a // b\"", "clip_at: nats = 5", "f()"] {
            assert_eq!(on_one_line(text), text);
        }
    }

    #[test]
    fn every_byte_but_blanks_is_in_a_token() {
        let source = "/// é\nlet x = 3e-6 + \"a\\\"b\" // c\n\"open\nlr = 35%->𝒜";
        let shown: Vec<&str> = lex(source).into_iter().map(|token| token.text(source)).collect();
        let expected = [
            "/// é",
            "\n",
            "let",
            "x",
            "=",
            "3e-6",
            "+",
            "\"a\\\"b\"",
            "// c",
            "\n",
            "\"open",
            "\n",
            "lr",
            "=",
            "35%",
            "->",
            "𝒜",
        ];
        assert_eq!(shown, expected);
    }
}
