//! Texts, comments, and look-alikes of characters and quotes.

use super::{DocLine, LastToken, Scanner, partner};
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::quotes::{TRIPLE, text_end};
use crate::syntax::words::{self, LineHead};

impl Scanner<'_> {
    /// Handles a character that looks like one of the grammar's, or a stray one.
    pub(super) fn lookalike(&mut self) {
        let Some(character) = self.text[self.at..].chars().next() else { return };
        let (at, length) = (self.at, character.len_utf8());
        let span = self.span(at, at + length);
        let code = character as u32;
        if matches!(character, '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '\u{201e}') {
            return self.curly_quoted(length);
        }
        if character == '\u{feff}' && at == 0 {
            return self.blank(at, at + length);
        }
        let Some(meant) = words::lookalike(character) else {
            // The whole word is taken, so that a part of it does not pass for a name.
            let mut end = at + length;
            while let Some(next) = self.text[end..].chars().next()
                && (next.is_alphanumeric() || next == '_')
            {
                end += next.len_utf8();
            }
            let start =
                at - self.bytes[..at].iter().rev().take_while(|byte| words::is_word_byte(**byte)).count();
            let report = self.odd_letter(character, span, self.span(start, end), &self.text[start..end]);
            self.report(report);
            self.blank(start, end);
            self.last = LastToken::Value;
            return;
        };
        let invisible = || format!("an invisible character (U+{code:04X}) stands here");
        let (shown, title) = match meant {
            " " => (invisible(), "write a space".to_owned()),
            "" => (invisible(), "remove it".to_owned()),
            _ => (
                format!("`{character}` (U+{code:04X}) looks like `{meant}` but is another character"),
                format!("write `{meant}`"),
            ),
        };
        self.report(Diagnostic::error(Code::ForeignSyntax, span, shown).replace_with(title, meant));
        if meant.is_empty() {
            // Within a word it stays a part of the word.
            let around =
                [at.checked_sub(1).map(|before| self.bytes[before]), self.bytes.get(at + length).copied()];
            let within = around.iter().all(|byte| byte.is_some_and(words::is_word_byte));
            self.replace(at, at + length).fill(if within { b'_' } else { b' ' });
            self.at += length;
            return;
        }
        self.replace(at, at + length).fill(b' ');
        self.replace(at, at + meant.len()).copy_from_slice(meant.as_bytes());
        self.at += length;
        if meant == "," {
            self.separate();
            self.last = LastToken::Comma;
        } else if meant != " " {
            self.count();
            self.last = LastToken::Operator;
        }
    }

    /// The diagnostic of a character that no name has, in the word at `whole`.
    fn odd_letter(&self, character: char, span: Span, whole: Span, word: &str) -> Diagnostic {
        let code = character as u32;
        let message = format!("`{character}` (U+{code:04X}) does not belong here");
        let diagnostic = Diagnostic::error(Code::Syntax, span, message);
        if let Some(ours) = words::written_out(character) {
            let mut next = word.chars().skip_while(|c| *c != character).skip(1);
            let diagnostic = diagnostic.help(format!("write `{ours}`"));
            // `x\u{b2}\u{b3}` and `1\u{bd}` mean more than the sum of their signs.
            let alone = next.next().is_none() && (ours.starts_with('^') || word.starts_with(character));
            return if alone { diagnostic.replace_with(format!("write `{ours}`"), ours) } else { diagnostic };
        }
        let latin: Option<String> =
            word.chars().map(|c| if c.is_ascii() { Some(c) } else { words::latin(c) }).collect();
        match (latin, words::latin(character)) {
            (Some(ours), Some(letter)) => {
                let message = format!(
                    "`{character}` (U+{code:04X}) looks like the letter `{letter}` but is another character"
                );
                Diagnostic::error(Code::Syntax, span, message)
                    .fix(format!("write `{ours}`"), whole, ours.clone())
                    .possibly()
            }
            _ => diagnostic.help(match words::greek(character) {
                Some(name) => format!("names are made of the letters a to z, digits and `_`: write `{name}`"),
                None => "names are made of the letters a to z, digits and `_`".to_owned(),
            }),
        }
    }

    // ---- Strings and comments ----

    pub(super) fn string(&mut self) {
        match text_end(self.text, self.at) {
            Some(end) => {
                self.directions(self.at, end);
                self.last = LastToken::Value;
                self.at = end + 1;
            }
            None => self.unterminated(1),
        }
    }

    /// Blanks a string that does not end on its line, except brackets after it that close brackets of this
    /// line.
    pub(super) fn unterminated(&mut self, quote: usize) {
        let start = self.at;
        let line_end = self.line_end();
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let mut end = start + self.text[start..line_end].trim_end().len();
        let mut closers = end;
        for open in self.open.iter().rev().take_while(|open| open.bracket != 0 && open.at >= line_start) {
            let before = self.text[start..closers].trim_end();
            if before.len() <= quote || before.as_bytes()[before.len() - 1] != partner(open.bracket) {
                break;
            }
            closers = start + before.len() - 1;
        }
        if let Some(block) = self.block_after_title(start, end) {
            closers = block;
        } else if self.text[start..end].ends_with('{') && end - start > quote {
            closers = end - 1;
        }
        end = start + self.text[start..closers.max(start + quote)].trim_end().len().max(quote);
        let diagnostic = Diagnostic::error(Code::Syntax, self.span(start, end), "this text is never closed")
            .label("the closing `\"` is missing on this line")
            .help("a text stands on one line; `\\n` inside it is a line break");
        let is_plain = end > start + quote
            && !self.text[start + quote..end].contains(['"', ',', '=', '{', '}', '(', ')', '[', ']', '/']);
        self.report(match is_plain && self.bytes[start] == b'"' {
            true => diagnostic.fix("write `\"`", self.span(end, end), "\"").possibly(),
            false => diagnostic,
        });
        self.swallow(start, end);
        self.blank(start, end);
        self.last = LastToken::Value;
        // The brackets opened on this line may have been meant to close inside the text.
        if self.text[end..line_end].trim().is_empty() {
            while let Some(open) = self.open.last()
                && matches!(open.bracket, b'(' | b'[')
                && open.at >= line_start
            {
                self.depth -= 1 + open.operators;
                self.open.pop();
            }
        }
    }

    /// Remembers the brackets that open in a text and don't close in it: what closes them is no mistake.
    fn swallow(&mut self, start: usize, end: usize) {
        let before = self.swallowed.len();
        for byte in self.text[start..end].bytes() {
            if partner(byte) != 0 {
                self.swallowed.push(partner(byte));
            } else if self.swallowed.len() > before && self.swallowed.last() == Some(&byte) {
                self.swallowed.pop();
            }
        }
    }

    /// The `{` after an open title: `experiment "name { ... }`.
    fn block_after_title(&self, start: usize, end: usize) -> Option<usize> {
        let before = self.text[..start].trim_end_matches([' ', '\t']);
        let titled = ["experiment", "compare"].iter().find_map(|word| before.strip_suffix(word))?;
        let brace = self.text[start..end].find('{').filter(|_| !titled.ends_with(words::is_word))?;
        Some(start + brace)
    }

    pub(super) fn single_quoted(&mut self) {
        let line_end = self.line_end();
        if let Some(inner) = self.text[self.at..].strip_prefix("'''")
            && let Some(length) = inner.find("'''")
        {
            let (start, end) = (self.at, self.at + 2 * "'''".len() + length);
            let ours = format!("{TRIPLE}{}{TRIPLE}", &inner[..length]);
            let message = "a text of several lines stands in double quotes, three of them";
            let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(start, start + 3), message);
            self.report(diagnostic.help("write `\"\"\"` on both sides").fix(
                "write double quotes",
                self.span(start, end),
                ours,
            ));
            self.blank(start, end);
            self.replace(start, start + 2).fill(b'"');
            self.last = LastToken::Value;
            return;
        }
        let rest = &self.text[self.at + 1..line_end];
        let Some(length) = rest.find('\'') else { return self.unterminated(1) };
        let (start, end) = (self.at, self.at + 1 + length);
        let inner = &rest[..length];
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(start, end + 1),
            "a text is written in double quotes",
        )
        .replace_with("write double quotes", format!("\"{}\"", inner.replace('"', "\\\"")));
        self.report(diagnostic);
        self.quote(start, end, end + 1);
    }

    pub(super) fn curly_quoted(&mut self, opening: usize) {
        let line_end = self.line_end();
        let start = self.at;
        let rest = &self.text[start + opening..line_end];
        let Some(length) = rest.find(['\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '"']) else {
            return self.unterminated(opening);
        };
        let close = start + opening + length;
        let end = close + self.text[close..].chars().next().map_or(0, char::len_utf8);
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(start, end),
            "a text needs straight quotes, not curly ones",
        )
        .label("a word processor may have put them here")
        .replace_with("write straight quotes", format!("\"{}\"", &rest[..length]));
        self.report(diagnostic);
        self.replace(start, start + opening).fill(b' ');
        self.replace(close, end).fill(b' ');
        self.quote(start + opening - 1, close, end);
    }

    /// Puts straight quotes around `start + 1..close`, which the grammar reads as a text.
    pub(super) fn quote(&mut self, start: usize, close: usize, end: usize) {
        for byte in self.replace(start + 1, close) {
            if matches!(*byte, b'"' | b'\\') {
                *byte = b' ';
            }
        }
        self.replace(start, start + 1).fill(b'"');
        self.replace(close, close + 1).fill(b'"');
        self.last = LastToken::Value;
        self.at = end;
    }

    /// `"""`, lines, `"""`
    pub(super) fn several_lines(&mut self) {
        let start = self.at;
        // What was not found behind an earlier place is not behind this one.
        let end = if self.context.rest_of_file { None } else { text_end(self.text, start) };
        let first = &self.text[start + TRIPLE.len()..self.line_end()];
        let in_brackets = self.open.last().is_some_and(|open| matches!(open.bracket, b'(' | b'['));
        if matches!(self.last, LastToken::Nothing | LastToken::OpenBracket) && !in_brackets {
            return self.doc_string(first, end);
        }
        let Some(end) = end.map(|last| last + 1).filter(|_| first.trim().is_empty()) else {
            return self.lines_amiss(first, end);
        };
        self.directions(start, end);
        self.last = LastToken::Value;
        self.at = end;
    }

    /// Documentation as Python has it, where no text can stand.
    fn doc_string(&mut self, first: &str, end: Option<usize>) {
        let start = self.at;
        let behind = start + TRIPLE.len();
        let closes = first.find(TRIPLE).map(|length| behind + length + TRIPLE.len());
        let end = closes.or_else(|| {
            let rest = &self.text[behind..];
            rest.find(TRIPLE).map(|length| behind + length + TRIPLE.len()).or(end)
        });
        self.context.rest_of_file |= end.is_none();
        let span = self.span(start, behind);
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, span, "documentation stands after `///`");
        self.report(
            diagnostic.label("these are Python's quotes").help("write `///` before each of its lines"),
        );
        self.blank(start, end.or_else(|| self.next_item()).unwrap_or(self.bytes.len()));
    }

    /// Reports a text of several lines that has words behind its opening quotes (`first`), or no end.
    fn lines_amiss(&mut self, first: &str, end: Option<usize>) {
        let start = self.at;
        let opening = self.span(start, start + TRIPLE.len());
        let (diagnostic, end) = if let Some(length) = first.find(TRIPLE) {
            let end = start + TRIPLE.len() + length + TRIPLE.len();
            let inner = &first[..length];
            let ours = format!("\"{}\"", inner.replace('"', "\\\""));
            let diagnostic =
                Diagnostic::error(Code::ForeignSyntax, opening, "a text of one line stands in `\"`")
                    .label("between these, a text has several lines")
                    .fix("write `\"`", self.span(start, end), ours);
            (diagnostic, end)
        } else if let Some(last) = end {
            let diagnostic = Diagnostic::error(
                Code::Syntax,
                opening,
                "a text of several lines begins on the next line",
            )
            .label("nothing may stand behind these quotes")
            .help("the closing `\"\"\"` has a line of its own, whose indentation is left out of the text");
            (diagnostic, last + 1)
        } else if let Some(closing) = self.closing_behind_text() {
            let line = self.text[..closing].rfind('\n').map_or(0, |newline| newline + 1);
            let indent = self.text[line..].len() - self.text[line..].trim_start_matches([' ', '\t']).len();
            let span = self.span(closing, closing + TRIPLE.len());
            let ours = format!("\n{}", &self.text[line..line + indent]);
            let message = "the closing `\"\"\"` stands on a line of its own";
            let diagnostic = Diagnostic::error(Code::Syntax, span, message)
                .note(opening, "the text begins here")
                .help("its indentation is left out of every line of the text")
                .fix("write it on the next line", self.span(closing, closing), ours);
            (diagnostic, closing + TRIPLE.len())
        } else {
            self.context.rest_of_file = true;
            let diagnostic = Diagnostic::error(Code::Syntax, opening, "this text is never closed")
                .label("the closing `\"\"\"` is missing")
                .help("it is the first on its line; its indentation is left out of the text");
            (diagnostic, self.next_item().unwrap_or(self.bytes.len()))
        };
        self.report(diagnostic);
        self.blank(start, end);
        // A stand-in for the text, so that the code around it still parses.
        self.replace(start, start + 2).fill(b'"');
        self.last = LastToken::Value;
    }

    /// The closing quotes that stand at the end of a line of a text of several lines, before the next item.
    fn closing_behind_text(&self) -> Option<usize> {
        let begin = self.line_end();
        let end = self.next_item().unwrap_or(self.bytes.len());
        let quotes = begin + self.text[begin..end.max(begin)].find(TRIPLE)?;
        let line = self.text[..quotes].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[quotes..].find('\n').map_or(self.bytes.len(), |length| quotes + length);
        let is_closing = !self.text[line..quotes].trim().is_empty()
            && self.text[quotes + TRIPLE.len()..line_end].trim().is_empty();
        is_closing.then_some(quotes)
    }

    /// The end of the line before the next one at the left margin that begins an item.
    fn next_item(&self) -> Option<usize> {
        let mut at = self.at;
        loop {
            at += self.text[at..].find('\n')?;
            if let (next, LineHead::Item | LineHead::ItemOrStatement) = words::line_head(self.text, at + 1)
                && next == at + 1
            {
                return Some(at);
            }
            at += 1;
        }
    }

    pub(super) fn comment(&mut self) {
        if self.floor_division() {
            return;
        }
        let end = self.line_end();
        self.directions(self.at, end);
        let comment = self.text[self.at..end].trim_end();
        let strip = |text: &str| text.strip_prefix(' ').unwrap_or(text).to_owned();
        if let Some(doc) = comment.strip_prefix("//!") {
            self.module_doc.push(strip(doc));
        } else if let Some(doc) = comment.strip_prefix("///")
            && !doc.starts_with('/')
        {
            self.docs.push(DocLine { at: self.at, text: strip(doc) });
        }
        self.blank(self.at, end);
    }
}

impl Scanner<'_> {
    /// Reports bidirectional control characters, with which an editor may show another program than is parsed
    /// (Trojan Source, arXiv:2111.00169). They are allowed in a text that ends every direction it
    /// begins.
    fn directions(&mut self, start: usize, end: usize) {
        let inside = &self.text[start..end];
        let controls: Vec<(usize, char)> = inside
            .char_indices()
            .filter(|(_, c)| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
            .collect();
        let Some(&(first, control)) = controls.first() else { return };
        let is_text = inside.starts_with('"');
        let mut open = Vec::new();
        let balanced = controls.iter().all(|(_, c)| match c {
            '\u{202c}' => open.pop() == Some('\u{202c}'),
            '\u{2069}' => open.pop() == Some('\u{2069}'),
            '\u{2066}'..='\u{2068}' => {
                open.push('\u{2069}');
                true
            }
            _ => {
                open.push('\u{202c}');
                true
            }
        });
        if is_text && balanced && open.is_empty() {
            return;
        }
        let span = self.span(start + first, start + first + control.len_utf8());
        let code = control as u32;
        let text = format!(
            "an invisible character (U+{code:04X}) changes the direction in which this line is shown"
        );
        let diagnostic =
            Diagnostic::error(Code::Syntax, span, text).label("what is read may differ from what is seen");
        self.report(diagnostic.help("remove it").replace_with("remove it", ""));
    }
}
