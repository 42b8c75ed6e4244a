//! Reports syntax of other languages and tools that the grammar does not have, and rewrites it for the
//! grammar.

use super::{LastToken, Scanner};
use crate::diag::{Code, Diagnostic};
use crate::syntax::words;

impl Scanner<'_> {
    pub(super) fn at_line_start(&self) -> bool {
        let line = self.text[..self.at].rfind('\n').map_or(0, |newline| newline + 1);
        self.text[line..self.at].bytes().all(|byte| byte == b' ')
    }

    /// Skips a line of a merge conflict or of a page of Markdown, with a report.
    pub(super) fn left_behind(&mut self, rest: &str) -> bool {
        let line = rest.lines().next().unwrap_or_default();
        let marker =
            ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().find(|marker| line.starts_with(**marker));
        let start = self.at;
        let diagnostic = if let Some(marker) = marker {
            let span = self.span(start, start + marker.len());
            Diagnostic::error(Code::ForeignSyntax, span, "a merge conflict stands here")
                .label("left behind by the merge")
                .help("keep one side of it, and remove the lines with `<<<<<<<`, `=======` and `>>>>>>>`")
        } else if line.starts_with("```") {
            let span = self.span(start, start + 3);
            let end = (start + line.len() + 1).min(self.bytes.len());
            Diagnostic::error(
                Code::ForeignSyntax,
                span,
                "a Markdown code fence (```) is not part of the program",
            )
            .label("copied from a page or a chat")
            .help("remove the line")
            .fix("remove the line", self.span(start, end), "")
        } else {
            return false;
        };
        self.report(diagnostic);
        self.blank(start, start + line.len());
        true
    }

    /// `/* ... */`
    pub(super) fn block_comment(&mut self) {
        let rest = &self.text[self.at..];
        let closed = rest.find("*/").map(|end| self.at + end + 2);
        if closed.is_none() {
            self.open_comment.get_or_insert(self.at);
        }
        let end = closed.unwrap_or(self.bytes.len());
        let whole = &self.text[self.at..end];
        let mut diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(self.at, self.at + 2),
            "`/* ... */` is not a comment here",
        )
        .label("a comment runs from `//` to the end of its line")
        .help("write `//` before every line of the comment");
        let ends_line = self.text[end..].trim_start_matches([' ', '\t', '\r']).starts_with('\n')
            || end == self.bytes.len();
        if ends_line && !whole.contains('\n') && whole.len() >= 4 {
            let inner = whole[2..].trim_end_matches("*/").trim();
            diagnostic = diagnostic.fix("write `//`", self.span(self.at, end), format!("// {inner}"));
        }
        self.report(diagnostic);
        self.blank(self.at, end);
    }

    /// `std::opd::mopd`
    pub(super) fn double_colon(&mut self) {
        let at = self.at;
        if at >= self.path_end {
            let rest = &self.text[at..];
            let path = rest.find(|c: char| !words::is_word(c) && c != ':').unwrap_or(rest.len());
            self.path_end = at + path;
            let diagnostic = Diagnostic::error(
                Code::ForeignSyntax,
                self.span(at, at + 2),
                "the parts of a path are joined by `.`, not `::`",
            )
            .help("for example `std.opd.mopd`")
            .fix("write `.`", self.span(at, self.path_end), rest[..path].replace("::", "."));
            self.report(diagnostic);
        }
        self.replace(at, at + 2).copy_from_slice(b". ");
        self.last = LastToken::Operator;
        self.at += 2;
    }

    /// `&gt;`: read as `>`.
    pub(super) fn entity(&mut self, rest: &str) -> bool {
        const ENTITIES: [(&str, &str); 4] = [("&gt;", ">"), ("&lt;", "<"), ("&amp;", "&"), ("&quot;", "\"")];
        let Some((entity, meant)) = ENTITIES.into_iter().find(|(entity, _)| rest.starts_with(entity)) else {
            return false;
        };
        let at = self.at;
        let message = format!("`{entity}` is how HTML writes `{meant}`");
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(at, at + entity.len()), message);
        self.report(diagnostic.replace_with(format!("write `{meant}`"), meant));
        let text = self.replace(at, at + entity.len());
        text.fill(b' ');
        text[0] = if meant == "\"" { b' ' } else { meant.as_bytes()[0] };
        self.last = LastToken::Operator;
        self.at += entity.len();
        true
    }

    /// `f"..."`, `r"..."`
    pub(super) fn prefixed_text(&mut self, rest: &str) -> bool {
        let length = words::word_length(rest.as_bytes());
        let inside = self.at > 0 && words::is_word_byte(self.bytes[self.at - 1]);
        if inside || length > 2 || !matches!(rest.as_bytes().get(length), Some(b'"' | b'\'')) {
            return false;
        }
        let prefix = &rest[..length];
        if !matches!(prefix, "f" | "r" | "b" | "u" | "rf" | "fr" | "br") {
            return false;
        }
        let at = self.at;
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(at, at + length),
            format!("a text has no prefix such as `{prefix}\"`"),
        )
        .help("a text stands in double quotes alone; in a `template`, braces are slots")
        .replace_with(format!("remove the `{prefix}`"), "");
        self.report(diagnostic);
        self.blank(at, at + length);
        true
    }

    /// `hf(Qwen/Qwen3-0.6B)`: a path without quotes, after a word of `length` bytes.
    pub(super) fn unquoted_path(&mut self, length: usize) -> bool {
        let start = self.at + length + 1;
        let rest = self.text[self.at + length..].strip_prefix('(').unwrap_or_default();
        let end = rest.find([')', ',', '\n']).unwrap_or(rest.len());
        let path = rest[..end].trim_end();
        let is_path = path.contains('/')
            && path.len() > 2
            && path.bytes().all(|byte| words::is_word_byte(byte) || b"/.-~".contains(&byte));
        if !is_path {
            return false;
        }
        let span = self.span(start, start + path.len());
        let ours = format!("\"{path}\"");
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, span, "a path is written in double quotes");
        self.report(diagnostic.replace_with("write quotes", ours));
        // The quotes replace the first and the last letter, so that no offset changes.
        self.at += length;
        self.opening(b'(');
        self.quote(start, start + path.len() - 1, start + path.len());
        true
    }

    /// `AND`, `OR`, `NOT` as in SQL.
    pub(super) fn loud_word(&mut self, word: &str) -> bool {
        let (at, length) = (self.at, word.len());
        let next = self.text[at + length..].trim_start_matches([' ', '\t']);
        let operand = next.starts_with(|c: char| words::is_word(c) || c == '(');
        if !operand || (word == "NOT") == (self.last == LastToken::Value) {
            return false;
        }
        let ours = word.to_ascii_lowercase();
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(at, at + length),
            format!("`{word}` is written `{ours}`"),
        );
        self.report(diagnostic.replace_with(format!("write `{ours}`"), ours.clone()));
        self.replace(at, at + length).copy_from_slice(ours.as_bytes());
        self.last = LastToken::Operator;
        self.at += length;
        true
    }

    /// `3e−4`, with the minus of a typeset page: read as `3e-4`.
    pub(super) fn exponent(&mut self, start: usize, end: usize) -> bool {
        let Some(sign) = self.text[end..].chars().next().filter(|sign| words::lookalike(*sign) == Some("-"))
        else {
            return false;
        };
        let digits_at = end + sign.len_utf8();
        let digits = self.bytes[digits_at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        let ours = format!("{}-{}", &self.text[start..end], &self.text[digits_at..digits_at + digits]);
        let message = format!("`{sign}` (U+{:04X}) looks like `-` but is another character", sign as u32);
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(end, digits_at), message);
        self.report(diagnostic.help(format!("write `{ours}`")).replace_with("write `-`", "-"));
        let until = digits_at + digits;
        let text = self.replace(start, until);
        text.fill(b' ');
        text[..ours.len()].copy_from_slice(ours.as_bytes());
        self.last = LastToken::Value;
        self.at = until;
        true
    }

    /// `1.e-3`: read as `1e-3`.
    pub(super) fn point_before_exponent(&mut self, start: usize, end: usize) -> bool {
        let exponent = match &self.text[end..] {
            rest if rest.starts_with(".e") || rest.starts_with(".E") => &rest[1..],
            _ => return false,
        };
        let sign = usize::from(exponent[1..].starts_with(['-', '+']));
        let digits = exponent[1 + sign..].bytes().take_while(u8::is_ascii_digit).count();
        let is_whole = self.bytes[start..end].iter().all(u8::is_ascii_digit);
        if digits == 0 || !is_whole {
            return false;
        }
        let exponent = exponent[..1 + sign + digits].to_owned();
        let ours = format!("{}.0{exponent}", &self.text[start..end]);
        let until = end + 1 + exponent.len();
        let message = "a digit follows the point of a number";
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(start, until), message);
        self.report(diagnostic.help(format!("write `{ours}`")).replace_with(format!("write `{ours}`"), ours));
        let text = self.replace(end, until);
        text[..exponent.len()].copy_from_slice(exponent.as_bytes());
        text[exponent.len()..].fill(b' ');
        self.last = LastToken::Value;
        self.at = until;
        true
    }

    /// `0,7`: a comma for the point of a fraction, after `key =` or `name:`.
    pub(super) fn decimal_comma(&mut self, start: usize, end: usize) -> bool {
        let fraction = self.text[end..].strip_prefix(',').unwrap_or_default();
        let digits = fraction.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'_').count();
        let given = self.text[..start].trim_end().ends_with(['=', ':']);
        if digits == 0 || !given || &self.text[start..end] != "0" {
            return false;
        }
        let until = end + 1 + digits;
        let written = self.text[start..until].to_owned();
        let ours = written.replacen(',', ".", 1);
        let message = format!("`{written}`: a comma stands between values, and a fraction has a point");
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(start, until), message);
        self.report(diagnostic.help(format!("write `{ours}`")).replace_with(format!("write `{ours}`"), ours));
        self.replace(end, end + 1).fill(b'.');
        self.last = LastToken::Value;
        self.at = until;
        true
    }

    /// `end` behind a value, as in Ruby or Julia: read as `}`.
    pub(super) fn end_of_a_block(&mut self) -> bool {
        let at = self.at;
        let behind = self.text[at + "end".len()..self.line_end()].trim();
        let in_block = self.open.last().is_some_and(|open| open.bracket == b'{');
        let number = self.text[..at].trim_end_matches(' ');
        let after_value = self.last == LastToken::Value && number.len() < at && !number.ends_with('\n');
        if !behind.is_empty() || !in_block || !after_value {
            return false;
        }
        let span = self.span(at, at + "end".len());
        let diagnostic =
            Diagnostic::error(Code::ForeignSyntax, span, "a block ends with `}`, not with `end`");
        self.report(diagnostic.replace_with("write `}`", "}"));
        self.replace(at, at + "end".len()).copy_from_slice(b"}  ");
        if let Some(open) = self.open.pop() {
            self.depth -= 1 + open.operators;
        }
        self.last = LastToken::Value;
        self.at += "end".len();
        self.count();
        true
    }

    /// Opens the block whose `{` is missing at the end of the line that ends here: `model a = distill(b)`,
    /// before lines of settings and a `}`.
    pub(super) fn block_without_its_opening(&mut self, at: usize, next: usize) -> bool {
        let line = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let head = &self.text[line..at];
        let item = words::split_word(head).0;
        let has_block = matches!(item, "model" | "domain" | "eval" | "objective" | "experiment" | "compare");
        let closes = || {
            let margin =
                self.text[next..].lines().skip(1).find(|line| line.starts_with(|c: char| !c.is_whitespace()));
            margin.is_some_and(|line| line.starts_with('}'))
        };
        if !has_block || head.contains('{') || !self.text[..next].ends_with([' ', '\t']) || !closes() {
            return false;
        }
        let end = line + head.trim_end().len();
        let message = "`{` is missing: the settings of a block follow";
        let diagnostic = Diagnostic::error(Code::Syntax, self.span(line, line + item.len()), message)
            .note(self.span(next, next + 1), "the first of them")
            .help("the block begins on this line")
            .fix("write `{`", self.span(end, end), " {");
        self.report(diagnostic);
        self.replace(at, at + 1).fill(b'{');
        self.at = at;
        self.opening(b'{');
        true
    }

    /// `2,000`: a comma between the thousands. Reported only where it can't separate two values: no number
    /// begins with `000`, and only after `key =` or `name:` is a comma followed by a value without a blank.
    pub(super) fn thousands(&mut self, start: usize, first_end: usize) {
        let group = |at: usize| {
            let digits =
                self.bytes.get(at + 1..at + 4).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
            let ends = self.bytes.get(at + 4).is_none_or(|byte| !words::is_word_byte(*byte) && *byte != b'.');
            self.bytes.get(at) == Some(&b',') && digits && ends
        };
        let mut end = first_end;
        while group(end) {
            end += 4;
        }
        let (zeros, in_list) = (
            self.text[first_end..end].starts_with(",000"),
            self.open.last().is_some_and(|open| open.bracket == b'['),
        );
        let given = self.text[..start].trim_end().ends_with(['=', ':']);
        if end == first_end || first_end - start > 3 || in_list && !zeros || !zeros && !given {
            return;
        }
        let written = &self.text[start..end];
        let ours = written.replace(',', "_");
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(start, end),
            format!("`{written}`: a comma stands between values, not in a number"),
        )
        .help(format!("write `{ours}`"))
        .replace_with(format!("write `{ours}`"), ours);
        self.report(diagnostic);
        for at in (first_end..end).step_by(4) {
            self.replace(at, at + 1).fill(b'_');
        }
        self.at = end;
    }

    /// `240 // 2, ...)` within brackets that open on its line and close after the `//`: a floor division as
    /// in Python. At the end of a line, `240 // 2` only gets a warning.
    pub(super) fn floor_division(&mut self) -> bool {
        let at = self.at;
        let line_start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let rest = &self.text[at + 2..self.line_end()];
        let after = rest.trim_start().trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
        let number = after.len() < rest.trim_start().len();
        let help = "a division is written `/`";
        if number && after.trim().is_empty() && self.last == LastToken::Value {
            // It may be a comment, so it stays one.
            let text = "a comment that is only a number: `//` is no division";
            let diagnostic = Diagnostic::warning(Code::ForeignSyntax, self.span(at, at + 2), text);
            self.report(diagnostic.help(help).replace_with("write `/`", "/").possibly());
            return false;
        }
        let Some(open) = self.open.last() else { return false };
        let on_line = matches!(open.bracket, b'(' | b'[') && open.at >= line_start;
        // Only a number, followed by a comma or a closing bracket: a comment in prose may begin with a word.
        let divisor = number && after.trim_start().starts_with([',', ')', ']']);
        let closes = rest.contains(super::brackets::partner(open.bracket) as char);
        if !on_line || !divisor || !closes || self.last != LastToken::Value {
            return false;
        }
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            self.span(at, at + 2),
            "`//` begins a comment, which takes the rest of the line",
        )
        .help(help)
        .replace_with("write `/`", "/");
        self.report(diagnostic);
        self.replace(at, at + 2).copy_from_slice(b"/ ");
        self.last = LastToken::Operator;
        self.at += 2;
        true
    }
}
