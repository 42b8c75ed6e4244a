//! From a slice that could not be parsed to one diagnostic: a habit of another language, a common slip, or
//! what was expected.

use super::build::{AstBuilder, Broken};
use super::habits::{after_equals, chosen, foreign, habit};
use super::{Grammar, Rule, expected};
use crate::diag::{Code, Diagnostic, nearest};
use crate::syntax::words::{self, split_word};
use pest::Parser;
use pest::error::{Error, ErrorVariant, InputLocation};

pub fn error_offset(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    }
}

/// The diagnostic for `slice`, which begins at `start` of the file.
pub fn explain(builder: &AstBuilder, slice: &str, start: usize, kind: Broken) -> Diagnostic {
    if let Some(diagnostic) = foreign(builder, slice, start, kind) {
        return diagnostic;
    }
    let rule = match kind {
        Broken::Item => Rule::lone_item,
        Broken::Statement => Rule::lone_statement,
        Broken::Arm => Rule::lone_arm,
        Broken::MatchArm => Rule::lone_match_arm,
        Broken::Axis => Rule::lone_axis,
    };
    match Grammar::parse(rule, slice) {
        Err(error) => {
            let at = error_offset(&error);
            slip(builder, slice, start, at, kind)
                .unwrap_or_else(|| describe(builder, &error, start + at, kind != Broken::Item))
        }
        // The slice is sound on its own, so what follows it is not: it ran into the next statement.
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
    // At the end of a line the place is where its text ends, not where its blanks do.
    let at = if token.is_empty() { at } else { at + rest.len() - next.len() };
    let span = builder.span_at(at, at + token.len());
    let found = if token.is_empty() { "the end of the line".to_owned() } else { format!("`{token}`") };
    let diagnostic = Diagnostic::error(Code::Syntax, span, format!("expected {wanted}, found {found}"));
    let diagnostic = diagnostic.label(format!("expected {wanted}"));
    // Two values side by side: `[start, expert student]`, `{ seed = 1 out = "runs" }`.
    let value = |c: char| words::is_word(c) || matches!(c, '"' | ')' | ']');
    let begins_value =
        token.starts_with(|c: char| words::is_word(c) || c == '"') && !words::RESERVED.contains(&token);
    if wanted.contains("`,`") && begins_value && builder.text()[..at].trim_end().ends_with(value) {
        let end = builder.text()[..at].trim_end().len();
        return diagnostic.help("a comma is missing").fix("write a comma", builder.span_at(end, end), ",");
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

/// The token that `text` begins with; empty at the end of a line.
fn token(text: &str) -> &str {
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

/// Slips that deserve more than an expected set. `at` is where the grammar gave up, in the slice.
fn slip(builder: &AstBuilder, slice: &str, start: usize, at: usize, kind: Broken) -> Option<Diagnostic> {
    let (first, rest) = split_word(slice);
    let (second, after) = split_word(rest);
    let place = builder.span_at(start, start + first.len());
    let stuck = &slice[at..];

    if let Some(diagnostic) = habit(builder, slice, start, at, kind) {
        return Some(diagnostic);
    }
    if let Some(operator) = leading_operator(slice) {
        let span = builder.span_at(start, start + operator.len());
        return Some(
            Diagnostic::error(Code::Syntax, span, format!("a line can't begin with `{operator}`"))
                .label("the line before ended already")
                .help(format!(
                    "an expression goes on over the end of a line that ends in an operator: put \
                     `{operator}` there"
                )),
        );
    }
    if kind == Broken::Statement && is_item_head(slice) {
        return Some(
            Diagnostic::error(Code::Syntax, place, format!("`{first}` can't stand inside a block"))
                .label("an item of its own")
                .help("move it out of the braces"),
        );
    }
    if kind == Broken::Item {
        if matches!(first, "term" | "state" | "trains" | "step") && !second.is_empty() {
            let block = if matches!(first, "term" | "state") { "an `objective`" } else { "a `train` stage" };
            return Some(
                Diagnostic::error(Code::Syntax, place, format!("`{first}` can't stand on its own"))
                    .label("a statement")
                    .help(format!("it belongs inside the braces of {block}")),
            );
        }
        if !words::ITEMS.contains(&first) && rest.starts_with(['=', ':']) {
            return Some(
                Diagnostic::error(Code::Syntax, place, "a setting stands inside a block")
                    .label("at this level, only items such as `model` or `let`")
                    .fix("declare a constant", builder.span_at(start, start), "let "),
            );
        }
        let known = |word: &str| words::ITEMS.contains(&word) || word == "pub";
        let mistyped = !known(first) && at <= first.len();
        if let Some(meant) =
            nearest(first, words::ITEMS.iter().copied()).filter(|_| mistyped && !first.is_empty())
        {
            return Some(
                Diagnostic::error(
                    Code::Syntax,
                    place,
                    format!("`{first}` is not a kind of item; did you mean `{meant}`?"),
                )
                .replace_with(format!("write `{meant}`"), meant),
            );
        }
        if mistyped && !first.is_empty() {
            let kinds: Vec<String> = words::ITEMS.iter().map(|item| format!("`{item}`")).collect();
            return Some(
                Diagnostic::error(Code::Syntax, place, format!("`{first}` is not a kind of item"))
                    .help(format!("items begin with {}", kinds.join(", "))),
            );
        }
        if matches!(first, "experiment" | "compare") && !second.is_empty() && at == slice.len() - rest.len() {
            let name = builder.span_at(start + at, start + at + second.len());
            return Some(
                Diagnostic::error(
                    Code::Syntax,
                    name,
                    format!("the name of the `{first}` stands in double quotes"),
                )
                .replace_with("write quotes", format!("\"{second}\"")),
            );
        }
    }
    let arm = match kind {
        Broken::Arm => Some((
            "an arm of a route needs `->` and a teacher",
            "`domain == math -> specialist[math]`, or `else -> generalist`",
        )),
        Broken::MatchArm => {
            Some(("an arm of a `match` needs `->` and a value", "`correct -> 1`, or `else -> 0`"))
        }
        _ => None,
    };
    if let Some((message, example)) = arm.filter(|_| !slice.contains("->")) {
        let end = builder.span_at(start, start + slice.len());
        let diagnostic = Diagnostic::error(Code::Syntax, end, format!("{message}: `->` is missing"))
            .help(format!("for example {example}"));
        // `domain == code specialist[code]`: between two values.
        let between = at > 0
            && stuck.starts_with(words::is_word)
            && !stuck.starts_with(|c: char| c.is_ascii_digit())
            && slice[..at].trim_end().ends_with(|c: char| words::is_word(c) || matches!(c, ')' | ']' | '"'));
        return Some(match between && matches!(kind, Broken::Arm) {
            true => diagnostic.fix("write `->`", builder.span_at(start + at, start + at), "-> "),
            false => diagnostic,
        });
    }
    if kind == Broken::Statement
        && stuck == rest
        && !first.is_empty()
        && (second.is_empty() || after.is_empty())
        && stuck.starts_with(|c: char| words::is_word(c) || matches!(c, '"' | '['))
    {
        let gap = builder.span_at(start + first.len(), start + first.len());
        return Some(
            Diagnostic::error(
                Code::Syntax,
                builder.span_at(start + at, start + at + token(stuck).len()),
                "`=` is missing",
            )
            .label(format!("a setting is written `{first} = value`"))
            .fix("write `=`", gap, " ="),
        );
    }
    if let Some(before) = slice[..at].trim_end().strip_suffix("match")
        && !before.ends_with(words::is_word)
        && (stuck.starts_with(words::is_word) || stuck.starts_with('"'))
    {
        let word = builder.span_at(start + before.len(), start + before.len() + "match".len());
        return Some(
            Diagnostic::error(Code::ForeignSyntax, word, "a `match` has no subject: its arms are conditions")
                .label("expected `{` after it")
                .help("write `match { condition -> value, else -> value }`"),
        );
    }
    if let Some(choices) = stuck.strip_prefix('?') {
        let span = builder.span_at(start + at, start + at + 1);
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            span,
            "there is no `?`: a choice between two values is written `where`",
        )
        .label("a conditional expression, as in C")
        .help(
            "`c ? a : b` is `where(c, a, b)`; for more than two there is `match { c -> a, d -> b, else -> e \
             }`",
        );
        return Some(match choices.split_once(':') {
            Some((then, otherwise)) => {
                chosen(builder, diagnostic, slice, start, [after_equals(&slice[..at]), then, otherwise])
            }
            None => diagnostic,
        });
    }
    if stuck.starts_with('@')
        && slice[..at].trim_end().ends_with("pass")
        && let count = stuck[1..].bytes().take_while(u8::is_ascii_digit).count()
        && count > 0
    {
        let pass = slice[..at].trim_end().len() - "pass".len();
        let ours = format!("pass_at({})", &stuck[1..1 + count]);
        let span = builder.span_at(start + pass, start + at + 1 + count);
        let diagnostic = Diagnostic::error(
            Code::ForeignSyntax,
            span,
            format!("pass@{} is written `{ours}`", &stuck[1..1 + count]),
        );
        return Some(diagnostic.replace_with(format!("write `{ours}`"), ours));
    }
    if stuck.starts_with('@') && !slice[..at].trim_end().ends_with('=') {
        let span = builder.span_at(start + at, start + at + 1);
        return Some(
            Diagnostic::error(
                Code::Syntax,
                span,
                "a mark such as `@unpublished` follows the value of a setting in a block",
            )
            .help("nothing else can carry a mark yet"),
        );
    }
    if stuck.starts_with('%') {
        let span = builder.span_at(start + at, start + at + 1);
        return Some(
            Diagnostic::error(Code::Syntax, span, "`%` stands directly after a number, as in `35%`")
                .help("there is no remainder operator"),
        );
    }
    None
}

/// An item that can't stand in a block, such as `domain sort { ... }`.
pub fn is_item_head(slice: &str) -> bool {
    let (first, rest) = split_word(slice);
    let (second, _) = split_word(rest);
    let known = words::ITEMS.contains(&first) || first == "pub";
    known
        && first != "let"
        && (!second.is_empty() && !words::RESERVED.contains(&second) || rest.starts_with('"'))
}

fn leading_operator(slice: &str) -> Option<&'static str> {
    let operators = ["->", "==", "!=", "<=", ">=", "||", "&&", "..=", "^", "+", "-", "*", "/", "<", ">", "="];
    let sign = operators.into_iter().find(|operator| slice.starts_with(operator));
    sign.or_else(|| ["and", "or", "then"].into_iter().find(|word| split_word(slice).0 == *word))
}
