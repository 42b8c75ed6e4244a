//! Diagnostics for constructs of other languages, with their notation in mopd.

use super::build::CatchAllRule;
use super::imports::{import_by_another_name, import_of_all, import_of_several, imported, is_of_python};
use super::unparsed::Unparsed;
use crate::diag::Diagnostic;
use crate::syntax::words::{self, split_word};

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
            match function_head(unparsed) {
                Some((length, ours)) => diagnostic.fix(format!("write `{ours}`"), unparsed.span(0, length), ours),
                None => diagnostic,
            }
        }
        "import" | "from" if is_of_python(slice) => error("nothing is imported from Python")
            .label("not needed")
            .help("functions such as `exp`, `clip` and `kl` are part of the language")
            .fix("remove the line", unparsed.span(0, slice.trim_end().len()), ""),
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
        "match" if rest.starts_with('{') => error("a `match` is a value: it needs a name")
            .help("for example `let weight = match { correct -> 1, else -> 0 }`"),
        "while" | "loop" if named || rest.starts_with(['(', '{']) => error("there are no loops")
            .label("every model is a binding of its own")
            .help("repeat over domains with `for d in domains: ...`"),
        "return" if !rest.starts_with('=') && kind == CatchAllRule::Statement => {
            let diagnostic =
                error("there is no `return`: the loss of an objective is the sum of its terms");
            match is_live(slice) && !unparsed.builder.text().contains("term loss") {
                true => diagnostic.replace_with("write a term", "term loss ="),
                false => diagnostic.help(
                    "write `term name = ...`, with `live` before what carries gradient",
                ),
            }
        }
        "return" if !rest.starts_with('=') => {
            error("there is no `return`: a function is one expression").help("write `fn name(x) = value`")
        }
        "class" | "struct" | "type" | "try" | "with" | "assert" | "print" | "async" | "yield"
            if named || rest.starts_with('(') =>
        {
            let diagnostic = error(&format!("there is no `{first}`"))
                .label("an experiment is made of declarations, not of commands");
            match first {
                "print" => diagnostic.help(
                    "`mopd try` shows the numbers of an objective, and `metrics.parquet` those of a run",
                ),
                "class" | "struct" => diagnostic
                    .help("a loss is an `objective name { ... }`, a stage of your own `stage name(...) = ...`"),
                "with" if rest.contains("no_grad") => {
                    diagnostic.help("nothing needs to be detached: only what is marked `live` carries gradient")
                }
                _ => diagnostic,
            }
        }
        "const" | "var" | "val" | "set"
            if named && matches!(kind, CatchAllRule::Item | CatchAllRule::Statement) =>
        {
            let diagnostic = error(&format!("a constant is declared with `let`, not `{first}`"))
                .replace_with("write `let`", "let");
            // Not every block may have a `let`.
            if kind == CatchAllRule::Item { diagnostic } else { diagnostic.possibly() }
        }
        "for" if kind == CatchAllRule::Statement && named => error("there are no loops")
            .label("a formula holds for every token")
            .help("`mean(x, over: sequence)` reduces numbers; a number for each teacher of a panel is `let x[t in panel] = ...`"),
        "for" if kind == CatchAllRule::Item => error("there is no `for` over items")
            .label("a loop, as in Python")
            .help("one model or teacher for each domain is a family: `model expert[d in domains] = ...`"),
        _ => return ternary(unparsed),
    };
    Some(diagnostic)
}

/// The head of a function as it is written here, `fn name(a, b) =`, and the length that it replaces. `None`
/// if the body is more than one expression, or a parameter has more than a name.
fn function_head(unparsed: &Unparsed) -> Option<(usize, String)> {
    let (slice, first) = (unparsed.slice, unparsed.first().0);
    let end = slice.find(')')? + 1;
    let (head, body) = slice.split_at(end);
    if head.contains([':', '=']) {
        return None;
    }
    let sign = if body.trim_start().starts_with('=') { '=' } else { ':' };
    let value = body.trim_start().strip_prefix(sign)?;
    let length = slice.len() - value.len();
    let is_one =
        !value.trim().is_empty() && !value.starts_with('=') && !value.trim_start().starts_with("return");
    is_one.then(|| (length, format!("fn{} =", &head[first.len()..])))
}

/// Whether a text has the word `live`.
fn is_live(text: &str) -> bool {
    text.split(|c: char| !words::is_word(c)).any(|word| word == "live")
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
        let is_word =
            |word: &str| words::RESERVED.contains(&word) && !matches!(word, "true" | "false" | "not");
        !part.is_empty()
            && !part.contains(['(', '[', '{', ',', '"', '?', ':'])
            && !part.contains(" if ")
            && !part.split(|c: char| !words::is_word(c)).any(is_word)
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

/// The diagnostic of the first of [`HABITS`] that matches, for signs and words of other languages.
pub(super) fn habit(unparsed: &Unparsed) -> Option<Diagnostic> {
    HABITS.iter().find_map(|habit| habit(unparsed))
}

const HABITS: [fn(&Unparsed) -> Option<Diagnostic>; 18] = [
    assigned_in_place,
    unnamed,
    dotted_setting,
    number_without_a_last_digit,
    sign_before_a_block,
    value_in_braces,
    absolute_value,
    comment_of_another_language,
    unnamed_term,
    reduce_with_commas,
    import_of_all,
    import_of_several,
    import_by_another_name,
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

/// `term = ...`, `model = ...`, `domain "math" { ... }`
fn unnamed(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, stuck) = (unparsed.first().0, unparsed.stuck());
    let titled = matches!(first, "experiment" | "compare" | "use" | "sweep" | "route");
    let declares = match unparsed.kind {
        CatchAllRule::Item => words::ITEMS.contains(&first) && !titled,
        CatchAllRule::Statement => matches!(first, "term" | "state" | "let" | "step" | "trains"),
        CatchAllRule::Arm | CatchAllRule::MatchArm | CatchAllRule::Axis => false,
    };
    if !declares || unparsed.at != unparsed.after_first() {
        return None;
    }
    if let Some(quoted) = stuck.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
        let diagnostic = unparsed.foreign(
            unparsed.at,
            quoted.len() + 2,
            format!("the name after `{first}` has no quotes"),
        );
        let is_name = quoted.chars().all(words::is_word) && !quoted.starts_with(|c: char| c.is_ascii_digit());
        return Some(match is_name && !quoted.is_empty() {
            true => diagnostic.replace_with("remove the quotes", quoted),
            false => diagnostic.help("names are made of letters, digits and `_`"),
        });
    }
    let article = if first.starts_with(['a', 'e', 'o']) { "an" } else { "a" };
    stuck.starts_with(['=', ':']).then(|| {
        unparsed.foreign(0, first.len(), format!("{article} `{first}` needs a name")).help(match first {
            "domain" | "objective" | "eval" | "step" => format!("write `{first} name {{ ... }}`"),
            _ => format!("write `{first} name = ...`"),
        })
    })
}

/// `trainer.total_epochs = 3`
fn dotted_setting(unparsed: &Unparsed) -> Option<Diagnostic> {
    let first = unparsed.first().0;
    let dotted = unparsed.slice.find(|c: char| !words::is_word(c) && c != '.')?;
    let name = &unparsed.slice[..dotted];
    let assigned = unparsed.slice[dotted..].trim_start();
    if first.is_empty() || !name.contains('.') || name.ends_with('.') || !assigned.starts_with(['=', ':']) {
        return None;
    }
    Some(
        unparsed
            .foreign(0, dotted, format!("the name of a setting has no `.`: `{name}`"))
            .help(match first {
            "rollout" | "objective" | "optimizer" | "adapter" => format!(
                "it is an argument of the call: `{first} = ...({}: ...)`",
                name.rsplit('.').next().unwrap_or_default()
            ),
            _ => "`mopd import FILE` translates a configuration of verl or TRL; here each block has its own \
                      settings, such as `lr = 1e-4`"
                .to_owned(),
        }),
    )
}

/// `1.`
fn number_without_a_last_digit(unparsed: &Unparsed) -> Option<Diagnostic> {
    let number = unparsed.before().strip_suffix('.')?;
    let digits = number.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits == 0 || number[..number.len() - digits].ends_with(words::is_word) {
        return None;
    }
    let start = number.len() - digits;
    let ours = format!("{}.0", &number[start..]);
    let diagnostic = unparsed.foreign(start, digits + 1, "a number does not end with a point");
    Some(diagnostic.replace_with(format!("write `{ours}`"), ours))
}

/// `fields = {"prompt": "question"}`, `models = {a, b}`
fn value_in_braces(unparsed: &Unparsed) -> Option<Diagnostic> {
    let before = unparsed.before();
    if !unparsed.stuck().starts_with('{') || !before.ends_with(['=', '(', ',', ':', '[']) {
        return None;
    }
    Some(unparsed.foreign(unparsed.at, 1, "a value does not begin with `{`").help(
        "a list is `[a, b]`; named values are the arguments of a call, `name(key: value)`, or the settings of a \
         block, `name { key = value }`",
    ))
}

/// `|x|`
fn absolute_value(unparsed: &Unparsed) -> Option<Diagnostic> {
    let inner = unparsed.stuck().strip_prefix('|')?;
    if inner.starts_with('|') || inner.trim_start().starts_with('{') {
        return None;
    }
    let diagnostic = unparsed.foreign(unparsed.at, 1, "an absolute value is written `abs(x)`, not `|x|`");
    let length = inner.find(['|', '\n'])?;
    let ours = format!("abs({})", inner[..length].trim());
    let whole = unparsed.span(unparsed.at, length + 2);
    Some(match inner[length..].starts_with('|') {
        true => diagnostic.fix(format!("write `{ours}`"), whole, ours),
        false => diagnostic,
    })
}

/// `domain math = { ... }`, `objective mine: { ... }`
fn sign_before_a_block(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, stuck) = (unparsed.first().0, unparsed.stuck());
    let has_block =
        matches!(first, "experiment" | "compare" | "domain" | "eval" | "objective" | "route" | "sweep");
    if unparsed.kind != CatchAllRule::Item || !has_block || !stuck.starts_with(['=', ':']) {
        return None;
    }
    let sign = &stuck[..1];
    if !stuck[1..].trim_start().starts_with('{') {
        return None;
    }
    let message = format!("the block of `{first}` follows its name directly, without `{sign}`");
    let before = unparsed.before().len();
    let blanks = stuck[1..].len() - stuck[1..].trim_start().len();
    let whole = unparsed.span(before, unparsed.at - before + 1 + blanks);
    Some(unparsed.foreign(unparsed.at, 1, message).fix(format!("remove the `{sign}`"), whole, " "))
}

/// `-- a comment`, `% a comment`, `---`
fn comment_of_another_language(unparsed: &Unparsed) -> Option<Diagnostic> {
    let slice = unparsed.slice;
    let sign = ["---", "--", "%"].into_iter().find(|sign| slice.starts_with(sign))?;
    let message = format!("a comment begins with `//`, not with `{sign}`");
    let diagnostic = unparsed.foreign(0, sign.len(), message).replace_with("write `//`", "//");
    // A line that opens a bracket is a declaration with a sign too many.
    Some(if slice.lines().next().unwrap_or_default().trim_end().ends_with(['{', '(', '[']) {
        diagnostic.possibly()
    } else {
        diagnostic
    })
}

/// `-live student.logp` alone on a line of an objective
fn unnamed_term(unparsed: &Unparsed) -> Option<Diagnostic> {
    let ((first, rest), slice) = (unparsed.first(), unparsed.slice);
    if unparsed.kind != CatchAllRule::Statement
        || rest.starts_with('=')
        || matches!(first, "term" | "let")
        || !is_live(slice)
    {
        return None;
    }
    let line = slice.lines().next().unwrap_or_default().trim_end();
    let message = "a part of the loss is a `term` with a name";
    let diagnostic = unparsed.foreign(0, line.len(), message).help("write `term name = ...`");
    // `loss distill = ...`
    let (named, value) = split_word(rest);
    Some(match !first.is_empty() && !named.is_empty() && value.starts_with('=') {
        true => diagnostic.fix("write `term`", unparsed.first_span(), "term"),
        false => diagnostic,
    })
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
    Some(unparsed.foreign(unparsed.at, 1, "there are no shell variables, so `$` has no meaning").help(
        "a value that several settings share is named by `let`; one from outside is a `param`: `param weights: text = \"...\"`, and `mopd run --set \
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
    let message = "a range is written `first..=last`, with both ends included, not with `:`";
    let whole = unparsed.span(from, unparsed.at + 1 + digits - from);
    Some(
        unparsed
            .foreign(unparsed.at, 1, message)
            .help(format!("write `{ours}`"))
            .fix(format!("write `{ours}`"), whole, ours)
            .possibly(),
    )
}
