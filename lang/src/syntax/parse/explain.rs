//! From a slice that could not be parsed to one diagnostic: a habit of another language, a common slip, or what
//! was expected.

use pest::Parser;
use pest::error::{Error, ErrorVariant, InputLocation};

use super::build::{AstBuilder, Broken};
use super::{Grammar, Rule, expected};
use crate::diag::{Code, Diagnostic, nearest};
use crate::syntax::words::{self, split_word};

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

/// Statements of other languages, by their first word.
fn foreign(builder: &AstBuilder, slice: &str, start: usize, kind: Broken) -> Option<Diagnostic> {
    let (first, rest) = split_word(slice);
    let (second, _) = split_word(rest);
    let place = builder.span_at(start, start + first.len());
    let error = |message: &str| Diagnostic::error(Code::ForeignSyntax, place, message);
    let named = !second.is_empty();
    let in_arms = matches!(kind, Broken::Arm | Broken::MatchArm);
    let diagnostic = match first {
        "def" | "func" | "function" | "defn" if named => {
            let diagnostic = error(&format!("there is no `{first}`: a function is declared with `fn`"))
                .label("`fn name(x) = value`")
                .help(
                    "for example `fn soft_or(a, b) = a + b - a * b`: a function is one expression; a loss \
                     is an `objective`",
                );
            // With a body of several lines it is more than another word.
            if slice.trim_end().ends_with(':') {
                diagnostic
            } else {
                diagnostic.replace_with("write `fn`", "fn")
            }
        }
        "import" | "from" | "include" | "require" if named || rest.starts_with('"') => {
            let diagnostic = error(&format!("an import is written `use`, not `{first}`"))
                .label("`use module.name`")
                .help("for example `use std.opd.mopd` or `use std.baselines.{mix_rl, cascade_rl}`");
            match imported(first, rest) {
                Some(ours) => diagnostic.fix(
                    format!("write `{ours}`"),
                    builder.span_at(start, start + slice.trim_end().len()),
                    ours,
                ),
                None => diagnostic,
            }
        }
        "if" | "elif" | "when" | "case" if in_arms && (named || rest.starts_with('(')) => {
            let whole = builder.span_at(start, start + slice.len() - rest.len());
            error(&format!("an arm begins with its condition, without `{first}`"))
                .label("nothing stands before it")
                .fix("remove it", whole, "")
        }
        "if" | "elif" | "unless" | "switch" if named || rest.starts_with('(') => {
            error(&format!("there is no `{first}` statement")).label("a choice is a value here").help(CHOICES)
        }
        "else" if rest.starts_with([':', '{']) && !in_arms => {
            error("there is no `else` statement").help(CHOICES)
        }
        "match" | "case" if named && !words::RESERVED.contains(&second) => {
            error(&format!("there is no `{first}` statement")).label("a choice is a value here").help(CHOICES)
        }
        "match" if rest.starts_with('{') => error("a `match` is a value: something has to be called it")
            .help("for example `let weight = match { correct -> 1, else -> 0 }`"),
        "while" | "loop" if named || rest.starts_with(['(', '{']) => error("there are no loops")
            .label("every model is a binding of its own")
            .help("repeat over domains with `for d in domains: ...`"),
        "return" if !rest.starts_with('=') => {
            error("nothing is returned: a function is one expression").help("write `fn name(x) = value`")
        }
        "class" | "struct" | "type" | "try" | "with" | "assert" | "print" | "async" | "yield"
            if named || rest.starts_with('(') =>
        {
            error(&format!("there is no `{first}`"))
                .label("an experiment is made of declarations, not of commands")
        }
        "const" | "var" | "val" | "set" if named && matches!(kind, Broken::Item | Broken::Statement) => {
            error(&format!("a constant is declared with `let`, not `{first}`"))
                .replace_with("write `let`", "let")
        }
        "for" if kind == Broken::Item => error("there is no `for` over items")
            .label("a loop, as in Python")
            .help("one model or teacher for each domain is a family: `model expert[d in domains] = ...`"),
        _ => return ternary(builder, slice, start),
    };
    Some(diagnostic)
}

const CHOICES: &str = "choose between two numbers with `where(condition, then, else)`, between more with \
                       `match { condition -> value, else -> value }`, a teacher with `route`";

/// `a if c else b`
fn ternary(builder: &AstBuilder, slice: &str, start: usize) -> Option<Diagnostic> {
    let condition = slice.find(" if ")?;
    slice[condition..].find(" else ")?;
    if slice[..condition].contains('"') {
        return None;
    }
    let place = builder.span_at(start + condition + 1, start + condition + 3);
    let diagnostic = Diagnostic::error(
        Code::ForeignSyntax,
        place,
        "there is no `if`: a choice between two values is written `where`",
    )
    .label("a conditional expression, as in Python")
    .help(
        "`a if c else b` is `where(c, a, b)`; for more than two there is `match { c -> a, d -> b, else -> e \
         }`",
    );
    let otherwise = condition + slice[condition..].find(" else ")?;
    let parts =
        [&slice[condition + 4..otherwise], after_equals(&slice[..condition]), &slice[otherwise + 6..]];
    Some(chosen(builder, diagnostic, slice, start, parts))
}

/// What a setting or `let` is given.
fn after_equals(text: &str) -> &str {
    let equals = text.char_indices().find(|(at, c)| {
        *c == '=' && !text[at + 1..].starts_with('=') && !text[..*at].ends_with(['=', '<', '>', '!'])
    });
    equals.map_or("", |(at, _)| &text[at + 1..])
}

/// With the fix `where(condition, then, otherwise)`, if the parts are so plain that it is clear where they
/// begin and end.
fn chosen(
    builder: &AstBuilder,
    diagnostic: Diagnostic,
    slice: &str,
    start: usize,
    parts: [&str; 3],
) -> Diagnostic {
    let parts = parts.map(str::trim);
    let plain = |part: &str| {
        !part.is_empty() && !part.contains(['(', '[', '{', ',', '"', '?', ':']) && !part.contains(" if ")
    };
    let value = parts.iter().filter_map(|part| slice.find(part)).min();
    match value.filter(|_| parts.iter().all(|part| plain(part))) {
        Some(_) => {
            let [condition, then, otherwise] = parts;
            let ours = format!("where({condition}, {then}, {otherwise})");
            let first = slice.len() - after_equals(slice).trim_start().len();
            diagnostic.fix(
                format!("write `{ours}`"),
                builder.span_at(start + first, start + slice.trim_end().len()),
                ours,
            )
        }
        None => diagnostic,
    }
}

/// `use std.opd.mopd` for `import std.opd.mopd` and `from std.opd import mopd`.
fn imported(word: &str, rest: &str) -> Option<String> {
    let is_path = |path: &str| {
        !path.is_empty() && path.split('.').all(|part| !part.is_empty() && part.chars().all(words::is_word))
    };
    let rest = rest.trim();
    if word == "import" {
        let dots = if rest.starts_with("std.") { 2 } else { 1 };
        return (is_path(rest) && rest.matches('.').count() >= dots).then(|| format!("use {rest}"));
    }
    let (module, names) = rest.split_once(" import ")?;
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let sound = word == "from"
        && is_path(module.trim())
        && names.iter().all(|name| is_path(name) && !name.contains('.'));
    let module = module.trim();
    sound.then(|| match names.as_slice() {
        [name] => format!("use {module}.{name}"),
        names => format!("use {module}.{{{}}}", names.join(", ")),
    })
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
        if matches!(first, "term" | "trains" | "step") && !second.is_empty() {
            let block = if first == "term" { "an `objective`" } else { "a `train` stage" };
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

/// Signs and words of other languages where the grammar gave up.
fn habit(builder: &AstBuilder, slice: &str, start: usize, at: usize, kind: Broken) -> Option<Diagnostic> {
    let stuck = &slice[at..];
    let (first, rest) = split_word(slice);
    let error = |from: usize, length: usize, message: &str| {
        Diagnostic::error(Code::ForeignSyntax, builder.span_at(start + from, start + from + length), message)
    };
    // `doubt += 0.1`
    if let Some(sign) = ["+=", "-=", "*=", "/="].into_iter().find(|sign| rest.starts_with(sign))
        && kind == Broken::Statement
        && !first.is_empty()
    {
        let from = slice.len() - rest.len();
        let diagnostic =
            error(from, sign.len(), &format!("`{sign}` would change a value in place: a name has one value"));
        return Some(diagnostic.help(format!(
            "give the new value a name of its own: `let new_{first} = {first} {} ...`",
            &sign[..1]
        )));
    }
    // `-live student.logp` alone on a line of an objective
    if kind == Broken::Statement
        && !rest.starts_with('=')
        && slice.split(|c: char| !words::is_word(c)).any(|word| word == "live")
        && first != "term"
        && first != "let"
    {
        let diagnostic = error(
            0,
            slice.lines().next().unwrap_or_default().trim_end().len(),
            "a part of the loss is a `term` with a name",
        );
        return Some(diagnostic.help("write `term name = ...`"));
    }
    // `reduce = mean(token), mean(sequence)`
    if kind == Broken::Statement && matches!(first, "mean" | "sum") && rest.starts_with('(') {
        let before = builder.text()[..start].trim_end();
        let comma = before.strip_suffix(',').map(|before| before.trim_end().len());
        let diagnostic = error(0, first.len(), "the steps of a `reduce` are joined by `then`");
        let diagnostic = diagnostic.help("for example `reduce = mean(token) then mean(sequence)`");
        return Some(match comma {
            Some(comma) => diagnostic.fix("write `then`", builder.span_at(comma, start), " then "),
            None => diagnostic,
        });
    }
    if first == "use" && kind == Broken::Item {
        if let Some(star) = slice.find('*') {
            return Some(
                error(star, 1, "an import takes names one by one: there is no `*`")
                    .help(format!("list them: `{}{{first, second}}`", slice[..star].trim_end())),
            );
        }
        if let Some(alias) = slice.find(" as ") {
            return Some(
                error(alias + 1, 2, "an import keeps its name: there is no `as`")
                    .help(format!("write `{}`, and use that name", slice[..alias].trim_end())),
            );
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let path = quoted.split('"').next().unwrap_or_default();
            let module = path.trim_end_matches(".mopd").trim_start_matches("./").replace('/', ".");
            let diagnostic = error(
                slice.len() - rest.len(),
                path.len() + 2,
                "a module is named by a path of words, without quotes",
            );
            return Some(
                diagnostic.help(format!("for example `use {module}.name` takes `name` from `{path}`")),
            );
        }
    }
    if matches!(first, "experiment" | "compare" | "domain" | "eval")
        && stuck.starts_with('(')
        && kind == Broken::Item
    {
        let diagnostic = error(at, 1, &format!("the settings of `{first}` stand in braces, not in `(`"));
        let diagnostic = diagnostic.help("write `{` and `}`: `{ key = value }`");
        let inner = stuck.trim_end().strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
        return Some(match inner.filter(|inner| !inner.contains(['(', ')', ':'])) {
            Some(inner) => {
                let ours = format!("{{ {} }}", inner.trim());
                diagnostic.fix(
                    "write braces",
                    builder.span_at(start + at, start + slice.trim_end().len()),
                    ours,
                )
            }
            None => diagnostic,
        });
    }
    if matches!(first, "experiment" | "compare")
        && stuck.starts_with('{')
        && kind == Broken::Item
        && at == slice.len() - rest.len()
    {
        let example = format!("`{first} \"name\" {{ ... }}`");
        return Some(
            error(at, 1, &format!("`{first}` needs a name in double quotes"))
                .help(format!("write {example}")),
        );
    }
    // `3 + 4` is no value with a sign; `+3` is.
    let before = slice[..at].trim_end();
    if stuck.starts_with('+') && before.ends_with(['=', '(', ',', ':', '[', '>']) && !stuck.starts_with("+=")
    {
        return Some(
            error(at, 1, "a number has no `+` in front").help("remove it").replace_with("remove it", ""),
        );
    }
    if stuck.starts_with('$') && at > 0 {
        return Some(error(at, 1, "`$` names nothing here").help(
            "a value from outside is a `param`: `param weights: text = \"...\"`, and `mopd run --set \
             weights=...`",
        ));
    }
    // `0:8`
    if stuck.starts_with(':')
        && let digits = stuck[1..].bytes().take_while(u8::is_ascii_digit).count()
        && let from = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count()
        && digits > 0
        && from < before.len()
        && !before[..from].ends_with(words::is_word)
        && let Ok(end @ 1..) = stuck[1..1 + digits].parse::<u64>()
    {
        let ours = format!("{}..={}", &before[from..], end - 1);
        let diagnostic = error(at, 1, "a range is written `..=` and holds both its ends; `:` makes none");
        let whole = builder.span_at(start + from, start + at + 1 + digits);
        return Some(
            diagnostic.help(format!("write `{ours}`")).fix(format!("write `{ours}`"), whole, ours).possibly(),
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
