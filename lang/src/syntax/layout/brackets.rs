//! Brackets: the open ones, their partners, and reports where they do not match.

use super::words::{self, LineHead};
use super::{LastToken, MAX_DEPTH, OpenBracket, Scanner};
use crate::diag::{Code, Diagnostic};
use crate::syntax::quotes::text_end;

pub(super) fn partner(bracket: u8) -> u8 {
    match bracket {
        b'(' => b')',
        b'[' => b']',
        b'{' => b'}',
        _ => 0,
    }
}

/// The end of the arguments in `distill(base { ...`, a call whose block begins before its `)`.
fn block_of_call(text: &str, open: usize) -> Option<usize> {
    let line = text[open..].lines().next()?;
    let arguments = line[..line.find('{')?].trim_end();
    let before = arguments.trim_end_matches(words::is_word);
    let word = &arguments[before.len()..];
    let is_name = !word.is_empty() && word != "match" && !before.contains('"');
    is_name.then_some(open + arguments.len())
}

/// Where the arguments end in `mix(0.5, a, b, prompts = 8`: before a setting, which is no argument.
fn setting_inside(text: &str, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, character) in text[open + 1..].char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '"' | '\n' => return None,
            ',' if depth == 0 => {
                let rest = text[open + 1 + offset + 1..].trim_start();
                let after = rest.trim_start_matches(words::is_word);
                let is_set =
                    after.trim_start().strip_prefix('=').is_some_and(|value| !value.starts_with('='));
                if after.len() < rest.len() && is_set {
                    return Some(open + 1 + offset);
                }
            }
            _ => {}
        }
    }
    None
}

impl Scanner<'_> {
    /// Drops the open parentheses and square brackets inside the innermost block, and reports the outermost.
    pub(super) fn pop_parens(&mut self, next: Option<usize>) {
        // A `}` in the middle of a line that the block does not begin on is no end of the block, most likely.
        let block = self.open.iter().rfind(|open| open.bracket == b'{').map(|open| open.at);
        let odd_end = next.zip(block).is_some_and(|(next, block)| {
            let line = self.text[..next].rfind('\n').map_or(0, |newline| newline + 1);
            self.bytes[next] == b'}' && block < line && !self.text[line..next].trim().is_empty()
        });
        let mut outermost = None;
        while let Some(open) = self.open.last()
            && matches!(open.bracket, b'(' | b'[')
        {
            outermost = Some((open.bracket, open.at));
            self.depth -= 1 + open.operators;
            self.open.pop();
        }
        if let Some((bracket, at)) = outermost {
            self.report_unclosed(bracket, at, next);
            if odd_end && let Some(last) = self.diagnostics.pop() {
                self.diagnostics.push(last.possibly());
            }
        }
    }

    pub(super) fn report_unclosed(&mut self, bracket: u8, at: usize, next: Option<usize>) {
        let within = |diagnostic: &Diagnostic| {
            diagnostic.code == Code::NestingTooDeep && diagnostic.primary.span.start as usize >= at
        };
        // Its partner may be in what was passed over.
        if self.diagnostics.iter().any(within) || self.open_comment.is_some_and(|comment| comment >= at) {
            return;
        }
        let span = self.span(at, at + 1);
        let message = format!("this `{}` is never closed", bracket as char);
        let mut diagnostic = Diagnostic::error(Code::Syntax, span, message)
            .label(format!("`{}` is missing", partner(bracket) as char));
        if let Some(next) = next {
            let end = next + self.text[next..].find([' ', '\n', '{', '(']).unwrap_or(1).max(1);
            diagnostic = diagnostic.note(self.span(next, end), "it should be closed before this");
        }
        let diagnostic = self.close(diagnostic, bracket, at, next);
        self.report(diagnostic);
    }

    /// The fix for a bracket without a partner: the partner, after the last token that can belong inside.
    pub(super) fn close(
        &self,
        diagnostic: Diagnostic,
        bracket: u8,
        at: usize,
        next: Option<usize>,
    ) -> Diagnostic {
        let mut before = &self.text[..next.unwrap_or(self.text.len())];
        // Comments before the next statement belong to that statement.
        loop {
            before = before.trim_end();
            let line = before.rfind('\n').map_or(0, |newline| newline + 1);
            match before[line..].trim_start().starts_with("//") && line > at {
                true => before = &before[..line],
                false => break,
            }
        }
        let end = before.len();
        if end <= at {
            return diagnostic;
        }
        let partner = partner(bracket) as char;
        // Where other brackets or quotes are amiss too, this one may be no more than their consequence.
        let alone = !self.diagnostics.iter().any(|other| other.code == Code::Syntax);
        let title = format!("write `{partner}`");
        if bracket == b'('
            && let Some(block) = block_of_call(before, at)
        {
            let diagnostic = diagnostic.fix(title, self.span(block, block), partner.to_string());
            return if alone { diagnostic } else { diagnostic.possibly() };
        }
        if bracket != b'{'
            && let Some(setting) = setting_inside(before, at)
        {
            return diagnostic.fix(title, self.span(setting, setting), partner.to_string()).possibly();
        }
        let one_line = !before[at..].contains('\n');
        if before[before.rfind('\n').map_or(0, |newline| newline + 1)..].contains("//") {
            return diagnostic; // Behind a comment it would be part of the comment.
        }
        let text = match (bracket, one_line) {
            (b'{', true) => format!(" {partner}"),
            (b'{', false) => format!("\n{partner}"),
            _ => partner.to_string(),
        };
        let inside = &before[at + 1..];
        let doubled = inside.starts_with(bracket as char) || before[..at].ends_with(bracket as char);
        // A `}` as far to the left as the line of the `{` was to close it: one inside is missing.
        let line = &before[before[..at].rfind('\n').map_or(0, |newline| newline + 1)..];
        let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
        let end_of_it = format!("{indent}}}");
        let missing_inside =
            bracket == b'{' && inside.lines().skip(1).any(|line| line.starts_with(&end_of_it));
        let guessed = inside.trim().is_empty() || doubled || missing_inside;
        let sure = alone && !guessed && (bracket == b'{' || one_line);
        let diagnostic = diagnostic.fix(title, self.span(end, end), text);
        if sure { diagnostic } else { diagnostic.possibly() }
    }

    pub(super) fn opening(&mut self, bracket: u8) {
        let at = self.at;
        if self.depth >= MAX_DEPTH {
            return self.too_deep();
        }
        let before = self.text[..at].trim_end();
        let owner = ["match", "route"].into_iter().find_map(|word| before.strip_suffix(word));
        let arms = bracket == b'{' && owner.is_some_and(|before| !before.ends_with(words::is_word));
        self.open.push(OpenBracket { bracket, at, operators: 0, arms, led: false });
        self.depth += 1;
        self.last = LastToken::OpenBracket;
        self.at += 1;
    }

    pub(super) fn closing(&mut self, bracket: u8) {
        let here = self.at;
        let open_paren = |open: &OpenBracket| matches!(open.bracket, b'(' | b'[');
        if bracket == b'}'
            && self.open.iter().any(|open| open.bracket == b'{')
            && self.open.last().is_some_and(open_paren)
            && !self.goes_on(here)
        {
            self.pop_parens(Some(here));
        }
        let top = self.open.last().map_or(0, |open| open.bracket);
        let fits = partner(top) == bracket;
        if !fits && (top == 0 || top == b'{') {
            // It may close a bracket in a text that is never closed, which is reported.
            if let Some(nth) = self.swallowed.iter().rposition(|partner| *partner == bracket) {
                self.swallowed.remove(nth);
                return self.blank(here, here + 1);
            }
            let message = format!("`{}` closes nothing", bracket as char);
            let diagnostic = Diagnostic::error(Code::Syntax, self.span(here, here + 1), message);
            let diagnostic = diagnostic.label("no bracket is open here").replace_with("remove it", "");
            // Within an open `{`, it may close what is open around that.
            let around = self.open.iter().any(|open| partner(open.bracket) == bracket);
            self.report(if around { diagnostic.possibly() } else { diagnostic });
            self.blank(here, here + 1);
            return;
        }
        if !fits {
            let open_at = self.open.last().map_or(0, |open| open.at);
            let message = format!("`{}` is closed by `{}`", top as char, bracket as char);
            let diagnostic = Diagnostic::error(Code::Syntax, self.span(here, here + 1), message)
                .label(format!("expected `{}`", partner(top) as char))
                .note(self.span(open_at, open_at + 1), "opened here")
                .replace_with(
                    format!("write `{}`", partner(top) as char),
                    (partner(top) as char).to_string(),
                );
            // Where no value ends, a bracket may be one too many.
            let ends_value = |c: char| words::is_word(c) || matches!(c, '"' | ')' | ']' | '}' | '%');
            let sure = self.text[open_at + 1..here].trim_end().ends_with(ends_value);
            self.report(if sure { diagnostic } else { diagnostic.possibly() });
            self.replace(here, here + 1).fill(partner(top));
        }
        if let Some(open) = self.open.pop() {
            self.depth -= 1 + open.operators;
        }
        self.last = LastToken::Value;
        self.at += 1;
        // What follows a closed bracket is one level deeper: `f(a)(b)(c)`.
        self.count();
    }

    /// Whether the block around goes on behind a `}` that ends a line within parentheses of that line. It was
    /// meant to close them.
    fn goes_on(&self, here: usize) -> bool {
        let line = self.text[..here].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[here..].find('\n').map_or(self.bytes.len(), |length| here + length);
        let rest = &self.text[here + 1..line_end];
        let opened = |bracket: u8| self.open.iter().rev().find(|open| open.bracket == bracket);
        let paren = self.open.last().is_some_and(|open| open.at >= line);
        let outside = opened(b'{').is_some_and(|brace| brace.at < line);
        let next = self.text[line_end..].trim_start_matches('\n');
        paren && outside && matches!(rest.trim(), "" | ",") && next.starts_with([' ', '\t'])
    }

    /// Counts an operator in the innermost bracket.
    pub(super) fn count(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.operators += 1;
            self.depth += 1;
        }
    }

    /// Blanks text that is nested deeper than any tree may be, up to the next separator or closing bracket of
    /// this level.
    pub(super) fn too_deep(&mut self) {
        let start = self.at;
        let message = format!("nested more than {MAX_DEPTH} levels deep");
        let diagnostic = Diagnostic::error(Code::NestingTooDeep, self.span(start, start + 1), message)
            .label("brackets and operators are counted together, from the beginning of the entry")
            .help("name the parts with `let`, or remove brackets");
        self.report(diagnostic);
        let mut level = 0usize;
        let mut end = start;
        while end < self.bytes.len() {
            match self.bytes[end] {
                b'(' | b'[' | b'{' => level += 1,
                b')' | b']' | b'}' if level == 0 => break,
                b')' | b']' | b'}' => level -= 1,
                b',' if level == 0 => break,
                b'\n' if level == 0 => break,
                b'\n' => match words::line_head(self.text, end + 1) {
                    (_, LineHead::Item) => break,
                    (next, LineHead::ItemOrStatement) if self.bytes[next - 1] == b'\n' => break,
                    _ => {}
                },
                b'"' => end = text_end(self.text, end).unwrap_or(end),
                _ => {}
            }
            end += 1;
        }
        self.blank(start, end);
        self.last = LastToken::Value;
    }
}
