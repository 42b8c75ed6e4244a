//! The diagnostic for a slice that could not be parsed: syntax of another language, a common slip, or the
//! grammar's expectation.

use pest::Parser;
use pest::error::{Error, ErrorVariant, InputLocation};

use super::build::{AstBuilder, CatchAllRule};
use super::habits::{foreign, habit};
use super::leftovers::leftover;
use super::slips::slip;
use super::unparsed::Unparsed;
use super::{Grammar, Rule, expected};
use crate::diag::{Code, Diagnostic};
use crate::syntax::words;

pub fn error_offset(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    }
}

/// The diagnostic for `slice`, which begins at `start` of the file.
pub fn explain(builder: &AstBuilder, slice: &str, start: usize, kind: CatchAllRule) -> Diagnostic {
    let unparsed = |at: usize| Unparsed { builder, slice, start, at, kind };
    if let Some(diagnostic) = foreign(&unparsed(0)) {
        return diagnostic;
    }
    let rule = match kind {
        CatchAllRule::Item => Rule::lone_item,
        CatchAllRule::Statement => Rule::lone_statement,
        CatchAllRule::Arm => Rule::lone_arm,
        CatchAllRule::MatchArm => Rule::lone_match_arm,
        CatchAllRule::Axis => Rule::lone_axis,
    };
    match Grammar::parse(rule, slice) {
        Err(error) => {
            let at = error_offset(&error);
            let unparsed = unparsed(at);
            leftover(&unparsed)
                .or_else(|| habit(&unparsed))
                .or_else(|| slip(&unparsed))
                .unwrap_or_else(|| describe(builder, &error, start + at, kind != CatchAllRule::Item))
        }
        // The slice parses on its own, so the text ran on into the next statement.
        Ok(_) => Diagnostic::error(
            Code::Syntax,
            builder.span_at(start, start + slice.len()),
            "this does not end where it should",
        ),
    }
}

/// `expected ..., found ...`
pub fn describe(builder: &AstBuilder, error: &Error<Rule>, at: usize, in_block: bool) -> Diagnostic {
    let alternatives = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => expected::alternatives(positives, in_block),
        ErrorVariant::CustomError { .. } => Vec::new(),
    };
    let wanted = expected::list(&alternatives);
    let rest = &builder.text()[at..];
    let next = rest.trim_start_matches([' ', '\t']);
    let token = token(next);
    // At the end of a line, the place is the end of its text, not of its blanks.
    let at = if token.is_empty() { at } else { at + rest.len() - next.len() };
    let span = builder.span_at(at, at + token.len());
    let found = if token.is_empty() { "the end of the line".to_owned() } else { format!("`{token}`") };
    let diagnostic = Diagnostic::error(Code::Syntax, span, format!("expected {wanted}, found {found}"));
    let diagnostic = diagnostic.label(format!("expected {wanted}"));
    // Two values side by side: `[start, expert student]`, `{ seed = 1 out = "runs" }`.
    let value = |c: char| words::is_word(c) || matches!(c, '"' | ')' | ']');
    let begins_value =
        token.starts_with(|c: char| words::is_word(c) || c == '"') && !words::RESERVED.contains(&token);
    if let Some((message, title, ours)) = word_of_python(token) {
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, span, message);
        return match ours {
            Some(ours) => diagnostic.replace_with(title, ours),
            None => diagnostic.help(title),
        };
    }
    // In a block only a setting can follow.
    let after = rest.trim_start_matches(|c: char| words::is_word(c) || c == ' ');
    let separate = wanted.contains("`)`")
        || wanted.contains("`]`")
        || after.starts_with([':', '{', '-'])
        || after.starts_with('=') && !after.starts_with("==");
    let before = builder.text()[..at].trim_end();
    let two_values = begins_value && before.ends_with(value);
    if two_values
        && ends_with_number(before)
        && token.starts_with(|c: char| c.is_ascii_alphabetic())
        && !after.starts_with([':', '='])
    {
        return diagnostic.help(match is_time(token) {
            true => "a time is a number of seconds, without a unit: `0.5`",
            false => "after a number stands `steps`, `epochs` or `tokens`, or nothing",
        });
    }
    if wanted.contains("`,`") && two_values && separate {
        let end = builder.text()[..at].trim_end().len();
        if is_argument_name(&builder.text()[..end], rest) {
            let help = "`:` is missing between the argument's name and its value";
            return diagnostic.help(help).fix("write a colon", builder.span_at(end, end), ":");
        }
        let diagnostic =
            diagnostic.help("a comma is missing").fix("write a comma", builder.span_at(end, end), ",");
        // Between two values another sign may be missing, or one word too many may stand there.
        let line = before[before.rfind('\n').map_or(0, |newline| newline + 1)..].trim_start();
        let in_term = ["term ", "let ", "state "].iter().any(|word| line.starts_with(word));
        let sure = match (wanted.contains("`]`"), wanted.contains("`)`")) {
            (true, _) => true,
            (false, true) => after.starts_with(':'),
            (false, false) => !in_term && (after.starts_with('=') || after.starts_with("->")),
        };
        return if sure { diagnostic } else { diagnostic.possibly() };
    }
    if words::RESERVED.contains(&token)
        && ["name", "setting", "parameter"].iter().any(|needed| wanted.contains(needed))
    {
        return diagnostic.help(format!("`{token}` is a word of the language and can't be a name"));
    }
    if token == "-" && builder.text()[..at].ends_with(words::is_word) && wanted != "a value" {
        return diagnostic.help("names are made of letters, digits and `_`");
    }
    diagnostic
}

/// Whether the last word of a text is a number.
fn ends_with_number(text: &str) -> bool {
    let start = text.trim_end_matches(|c: char| words::is_word(c) || c == '.').len();
    text[start..].starts_with(|c: char| c.is_ascii_digit())
}

/// Whether a word is a unit of time.
fn is_time(word: &str) -> bool {
    matches!(
        word,
        "ms" | "s"
            | "sec"
            | "secs"
            | "second"
            | "seconds"
            | "min"
            | "mins"
            | "minute"
            | "minutes"
            | "h"
            | "hour"
            | "hours"
    )
}

/// What the words of Python between two values are called here: the message, what to do, and the replacement
/// if there is one.
fn word_of_python(token: &str) -> Option<(&'static str, &'static str, Option<&'static str>)> {
    Some(match token {
        "is" => ("`is` is written `==`", "write `==`", Some("==")),
        "to" => ("a range from one value to another is written `->`", "write `->`", Some("->")),
        "for" => (
            "there are no comprehensions",
            "a list is written out, `[1, 2, 3]`; a formula holds for every token, and `mean(x, over: sequence)` \
             reduces it; one model for each domain is a family, `model expert[d in domains] = ...`",
            None,
        ),
        _ => return None,
    })
}

/// Whether `before` ends with a name that stands alone as an argument of a call whose other arguments, before
/// or after it, are named: `sample(n: 1, temperature`.
fn is_argument_name(before: &str, after: &str) -> bool {
    let earlier = before.trim_end_matches(words::is_word).trim_end();
    if earlier.len() == before.len() || !earlier.ends_with(['(', ',']) {
        return false;
    }
    let Some(open) = earlier.rfind(['(', '[', '{']).filter(|open| earlier[*open..].starts_with('(')) else {
        return false;
    };
    let rest = after.split([')', '\n', '\u{1}']).next().unwrap_or_default();
    !earlier[open..].contains(')') && (earlier[open..].contains(':') || rest.contains(':'))
}

/// The token that `text` begins with; empty at the end of a line.
pub(super) fn token(text: &str) -> &str {
    let word = words::word_length(text.as_bytes());
    if word > 0 {
        return &text[..word];
    }
    match text.chars().next() {
        None | Some('\n' | '\u{1}') => "",
        Some('"') => text[1..].find(['"', '\n']).map_or(&text[..1], |end| &text[..end + 2]),
        Some(first) => {
            let long = words::SIGNS.iter().find(|long| text.starts_with(**long));
            long.map_or(&text[..first.len_utf8()], |long| &text[..long.len()])
        }
    }
}
