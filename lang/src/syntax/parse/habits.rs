//! What other languages write: found in what could not be read, and said how it is written here.

use super::build::{AstBuilder, Broken};
use crate::diag::{Code, Diagnostic};
use crate::syntax::words::{self, split_word};

/// Statements of other languages, by their first word.
pub(super) fn foreign(builder: &AstBuilder, slice: &str, start: usize, kind: Broken) -> Option<Diagnostic> {
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
    let (value, rest) = slice.split_once(" if ")?;
    let (condition, otherwise) = rest.split_once(" else ")?;
    if value.contains('"') {
        return None;
    }
    let word = start + value.len() + 1;
    let place = builder.span_at(word, word + "if".len());
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
    let parts = [condition, after_equals(value), otherwise];
    Some(chosen(builder, diagnostic, slice, start, parts))
}

/// What a setting or `let` is given.
pub(super) fn after_equals(text: &str) -> &str {
    let equals = text.char_indices().find(|(at, c)| {
        *c == '=' && !text[at + 1..].starts_with('=') && !text[..*at].ends_with(['=', '<', '>', '!'])
    });
    equals.map_or("", |(at, _)| &text[at + 1..])
}

/// With the fix `where(condition, then, otherwise)`, if the parts are so plain that it is clear where they
/// begin and end.
pub(super) fn chosen(
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
pub(super) fn imported(word: &str, rest: &str) -> Option<String> {
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

/// Signs and words of other languages where the grammar gave up.
pub(super) fn habit(
    builder: &AstBuilder,
    slice: &str,
    start: usize,
    at: usize,
    kind: Broken,
) -> Option<Diagnostic> {
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
