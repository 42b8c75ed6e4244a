//! Tokens of any text, however broken: what completion and colouring read where there is no tree.

use crate::syntax::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Comment,
    /// `///` or `//!`
    Doc,
    /// In quotes; the closing quote may be missing.
    Text,
    Number,
    Word,
    Open,
    Close,
    /// `=`, `->`, `.`, `,`, ...
    Sign,
    Newline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn text(self, source: &str) -> &str {
        &source[self.start..self.end]
    }

    pub fn is_comment(self) -> bool {
        matches!(self.kind, TokenKind::Comment | TokenKind::Doc)
    }
}

/// Every token of a text, in order; blanks stand between them.
pub fn lex(source: &str) -> Vec<Token> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let (kind, length) = match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\x0c' => {
                at += 1;
                continue;
            }
            b'\n' => (TokenKind::Newline, 1),
            b'/' if rest.starts_with("//") => {
                let line = rest.find('\n').unwrap_or(rest.len());
                let doc = rest.starts_with("//!") || (rest.starts_with("///") && !rest.starts_with("////"));
                (if doc { TokenKind::Doc } else { TokenKind::Comment }, rest[..line].trim_end().len())
            }
            b'"' => (TokenKind::Text, text_length(rest)),
            b'(' | b'[' | b'{' => (TokenKind::Open, 1),
            b')' | b']' | b'}' => (TokenKind::Close, 1),
            byte if byte.is_ascii_digit()
                || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)) =>
            {
                (TokenKind::Number, words::number_length(rest.as_bytes()))
            }
            byte if words::is_word_byte(byte) => (TokenKind::Word, words::word_length(rest.as_bytes())),
            _ => {
                let long = words::SIGNS.iter().find(|sign| rest.starts_with(**sign)).map(|sign| sign.len());
                (TokenKind::Sign, long.unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8)))
            }
        };
        tokens.push(Token { kind, start: at, end: at + length });
        at += length;
    }
    tokens
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            '\n' => return at,
            '"' if !escaped => return at + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

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
