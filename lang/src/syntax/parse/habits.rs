//! Diagnostics for constructs of other languages, with their notation in mopd.

use super::build::CatchAllRule;
use super::unparsed::Unparsed;
use crate::diag::Diagnostic;
use crate::syntax::words;

/// The diagnostic for a statement of another language, recognised by its first word.
pub(super) fn foreign(unparsed: &Unparsed) -> Option<Diagnostic> {
    let Unparsed { slice, kind, .. } = *unparsed;
    let ((first, rest), (second, _)) = (unparsed.first(), unparsed.second());
    let error = |message: &str| unparsed.foreign(0, first.len(), message);
    let named = !second.is_empty();
    let in_arms = matches!(kind, CatchAllRule::Arm | CatchAllRule::MatchArm);
    let diagnostic = match first {
        "def" | "func" | "function" | "defn" if named => {
            let diagnostic = error(&format!("there is no `{first}`: a function is declared with `fn`"))
                .label("`fn name(x) = value`")
                .help(
                    "for example `fn soft_or(a, b) = a + b - a * b`: a function is one expression; a loss \
                     is an `objective`",
                );
            // A body of several lines needs more than another keyword.
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
                Some(ours) => {
                    diagnostic.fix(format!("write `{ours}`"), unparsed.span(0, slice.trim_end().len()), ours)
                }
                None => diagnostic,
            }
        }
        "if" | "elif" | "when" | "case" if in_arms && (named || rest.starts_with('(')) => {
            let whole = unparsed.span(0, unparsed.after_first());
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
        "const" | "var" | "val" | "set"
            if named && matches!(kind, CatchAllRule::Item | CatchAllRule::Statement) =>
        {
            error(&format!("a constant is declared with `let`, not `{first}`"))
                .replace_with("write `let`", "let")
        }
        "for" if kind == CatchAllRule::Item => error("there is no `for` over items")
            .label("a loop, as in Python")
            .help("one model or teacher for each domain is a family: `model expert[d in domains] = ...`"),
        _ => return ternary(unparsed),
    };
    Some(diagnostic)
}

const CHOICES: &str = "choose between two numbers with `where(condition, then, else)`, between more with \
                       `match { condition -> value, else -> value }`, a teacher with `route`";

/// `a if c else b`
fn ternary(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (value, rest) = unparsed.slice.split_once(" if ")?;
    let (condition, otherwise) = rest.split_once(" else ")?;
    if value.contains('"') {
        return None;
    }
    let diagnostic = unparsed
        .foreign(
            value.len() + 1,
            "if".len(),
            "there is no `if`: a choice between two values is written `where`",
        )
        .label("a conditional expression, as in Python")
        .help(
            "`a if c else b` is `where(c, a, b)`; for more than two there is `match { c -> a, d -> b, else -> e \
             }`",
        );
    Some(chosen(unparsed, diagnostic, [condition, after_equals(value), otherwise]))
}

/// The value after the `=` of a setting or `let`.
pub(super) fn after_equals(text: &str) -> &str {
    let equals = text.char_indices().find(|(at, c)| {
        *c == '=' && !text[at + 1..].starts_with('=') && !text[..*at].ends_with(['=', '<', '>', '!'])
    });
    equals.map_or("", |(at, _)| &text[at + 1..])
}

/// Adds the fix `where(condition, then, otherwise)`, if the parts are simple enough that their boundaries are
/// clear.
pub(super) fn chosen(unparsed: &Unparsed, diagnostic: Diagnostic, parts: [&str; 3]) -> Diagnostic {
    let slice = unparsed.slice;
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
            let value = unparsed.span(first, slice.trim_end().len() - first);
            diagnostic.fix(format!("write `{ours}`"), value, ours)
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

/// The diagnostic of the first of [`HABITS`] that matches, for signs and words of other languages.
pub(super) fn habit(unparsed: &Unparsed) -> Option<Diagnostic> {
    HABITS.iter().find_map(|habit| habit(unparsed))
}

const HABITS: [fn(&Unparsed) -> Option<Diagnostic>; 11] = [
    assigned_in_place,
    unnamed_term,
    reduce_with_commas,
    import_of_all,
    import_by_another_name,
    import_of_a_file,
    settings_in_parentheses,
    block_without_a_name,
    plus_sign,
    shell_variable,
    half_open_range,
];

/// `doubt += 0.1`
fn assigned_in_place(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, rest) = unparsed.first();
    let sign = ["+=", "-=", "*=", "/="].into_iter().find(|sign| rest.starts_with(sign))?;
    if unparsed.kind != CatchAllRule::Statement || first.is_empty() {
        return None;
    }
    let message = format!("`{sign}` would change a value in place: a name has one value");
    Some(unparsed.foreign(unparsed.after_first(), sign.len(), message).help(format!(
        "give the new value a name of its own: `let new_{first} = {first} {} ...`",
        &sign[..1]
    )))
}

/// `-live student.logp` alone on a line of an objective
fn unnamed_term(unparsed: &Unparsed) -> Option<Diagnostic> {
    let ((first, rest), slice) = (unparsed.first(), unparsed.slice);
    let is_live = || slice.split(|c: char| !words::is_word(c)).any(|word| word == "live");
    if unparsed.kind != CatchAllRule::Statement
        || rest.starts_with('=')
        || matches!(first, "term" | "let")
        || !is_live()
    {
        return None;
    }
    let line = slice.lines().next().unwrap_or_default().trim_end();
    let message = "a part of the loss is a `term` with a name";
    Some(unparsed.foreign(0, line.len(), message).help("write `term name = ...`"))
}

/// `reduce = mean(token), mean(sequence)`
fn reduce_with_commas(unparsed: &Unparsed) -> Option<Diagnostic> {
    let ((first, rest), start) = (unparsed.first(), unparsed.start);
    if unparsed.kind != CatchAllRule::Statement || !matches!(first, "mean" | "sum") || !rest.starts_with('(')
    {
        return None;
    }
    let diagnostic = unparsed
        .foreign(0, first.len(), "the steps of a `reduce` are joined by `then`")
        .help("for example `reduce = mean(token) then mean(sequence)`");
    let before = unparsed.builder.text()[..start].trim_end();
    let comma = before.strip_suffix(',').map(|before| before.trim_end().len());
    Some(match comma {
        Some(comma) => diagnostic.fix("write `then`", unparsed.builder.span_at(comma, start), " then "),
        None => diagnostic,
    })
}

/// The text after `use` in an import.
fn import<'a>(unparsed: &Unparsed<'a, '_>) -> Option<&'a str> {
    let (first, rest) = unparsed.first();
    (first == "use" && unparsed.kind == CatchAllRule::Item).then_some(rest)
}

/// `use std.opd.*`
fn import_of_all(unparsed: &Unparsed) -> Option<Diagnostic> {
    import(unparsed)?;
    let star = unparsed.slice.find('*')?;
    let module = unparsed.slice[..star].trim_end();
    Some(
        unparsed
            .foreign(star, 1, "an import takes names one by one: there is no `*`")
            .help(format!("list them: `{module}{{first, second}}`")),
    )
}

/// `use std.opd.mopd as base`
fn import_by_another_name(unparsed: &Unparsed) -> Option<Diagnostic> {
    import(unparsed)?;
    let alias = unparsed.slice.find(" as ")?;
    let import = unparsed.slice[..alias].trim_end();
    Some(
        unparsed
            .foreign(alias + 1, "as".len(), "an import keeps its name: there is no `as`")
            .help(format!("write `{import}`, and use that name")),
    )
}

/// `use "losses/mine.mopd"`
fn import_of_a_file(unparsed: &Unparsed) -> Option<Diagnostic> {
    let quoted = import(unparsed)?.strip_prefix('"')?;
    let path = quoted.split('"').next().unwrap_or_default();
    let module = path.trim_end_matches(".mopd").trim_start_matches("./").replace('/', ".");
    let message = "a module is named by a path of words, without quotes";
    Some(
        unparsed
            .foreign(unparsed.after_first(), path.len() + 2, message)
            .help(format!("for example `use {module}.name` takes `name` from `{path}`")),
    )
}

/// `experiment (seed = 1)`
fn settings_in_parentheses(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, at, stuck) = (unparsed.first().0, unparsed.at, unparsed.stuck());
    let has_settings = matches!(first, "experiment" | "compare" | "domain" | "eval");
    if unparsed.kind != CatchAllRule::Item || !has_settings || !stuck.starts_with('(') {
        return None;
    }
    let diagnostic = unparsed
        .foreign(at, 1, format!("the settings of `{first}` stand in braces, not in `(`"))
        .help("write `{` and `}`: `{ key = value }`");
    let inner = stuck.trim_end().strip_prefix('(').and_then(|inner| inner.strip_suffix(')'));
    Some(match inner.filter(|inner| !inner.contains(['(', ')', ':'])) {
        Some(inner) => {
            let ours = format!("{{ {} }}", inner.trim());
            diagnostic.fix("write braces", unparsed.span(at, stuck.trim_end().len()), ours)
        }
        None => diagnostic,
    })
}

/// `experiment { ... }`
fn block_without_a_name(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, at) = (unparsed.first().0, unparsed.at);
    let named = unparsed.kind == CatchAllRule::Item && matches!(first, "experiment" | "compare");
    if !named || !unparsed.stuck().starts_with('{') || at != unparsed.after_first() {
        return None;
    }
    Some(
        unparsed
            .foreign(at, 1, format!("`{first}` needs a name in double quotes"))
            .help(format!("write `{first} \"name\" {{ ... }}`")),
    )
}

/// `+3`; the `+` of `3 + 4` is an operator.
fn plus_sign(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (stuck, before) = (unparsed.stuck(), unparsed.before());
    let is_sign = before.ends_with(['=', '(', ',', ':', '[', '>']);
    if !stuck.starts_with('+') || stuck.starts_with("+=") || !is_sign {
        return None;
    }
    let diagnostic = unparsed.foreign(unparsed.at, 1, "a number has no `+` in front");
    Some(diagnostic.help("remove it").replace_with("remove it", ""))
}

fn shell_variable(unparsed: &Unparsed) -> Option<Diagnostic> {
    if !unparsed.stuck().starts_with('$') || unparsed.at == 0 {
        return None;
    }
    Some(unparsed.foreign(unparsed.at, 1, "`$` names nothing here").help(
        "a value from outside is a `param`: `param weights: text = \"...\"`, and `mopd run --set \
         weights=...`",
    ))
}

/// `0:8`
fn half_open_range(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (after, before) = (unparsed.stuck().strip_prefix(':')?, unparsed.before());
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let from = before.len() - before.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits == 0 || from == before.len() || before[..from].ends_with(words::is_word) {
        return None;
    }
    let Ok(end @ 1..) = after[..digits].parse::<u64>() else { return None };
    let ours = format!("{}..={}", &before[from..], end - 1);
    let message = "a range is written `..=` and holds both its ends; `:` makes none";
    let whole = unparsed.span(from, unparsed.at + 1 + digits - from);
    Some(
        unparsed
            .foreign(unparsed.at, 1, message)
            .help(format!("write `{ours}`"))
            .fix(format!("write `{ours}`"), whole, ours)
            .possibly(),
    )
}
