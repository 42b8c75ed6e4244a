//! What a terminal, a page or another language left in a line, and forms that are nearly right.

use super::build::CatchAllRule;
use super::slips::is_item_head;
use super::unparsed::Unparsed;
use crate::diag::{Code, Diagnostic};
use crate::syntax::words::{self, split_word};

/// The diagnostic of the first of [`LEFTOVERS`] that matches.
pub fn leftover(unparsed: &Unparsed) -> Option<Diagnostic> {
    LEFTOVERS.iter().find_map(|leftover| leftover(unparsed))
}

/// First those of a whole slice, then those at the place where the grammar stopped.
const LEFTOVERS: [fn(&Unparsed) -> Option<Diagnostic>; 13] = [
    comment_of_a_page,
    mark_before_a_line,
    word_twice,
    setting_with_a_type,
    command,
    brackets_behind_a_value,
    values_without_names,
    changes_without_their_word,
    shared_value,
    percent_before_its_number,
    family_without_its_variable,
    unit_behind_a_number,
    argument_behind_its_call,
];

/// `<!-- as in the paper -->`
fn comment_of_a_page(unparsed: &Unparsed) -> Option<Diagnostic> {
    let comment = unparsed.slice.strip_prefix("<!--")?;
    let diagnostic = unparsed
        .foreign(0, "<!--".len(), "a comment begins with `//`, not `<!--`")
        .label("this begins a comment in HTML");
    Some(match comment.trim_end().strip_suffix("-->") {
        Some(words) => {
            let whole = unparsed.span(0, unparsed.slice.trim_end().len());
            diagnostic.fix("write `//`", whole, format!("// {}", words.trim()))
        }
        None => diagnostic.help("write `//` before every line of the comment"),
    })
}

/// `+ steps = 150`, copied from a difference; `>>> steps = 150`, from a terminal.
fn mark_before_a_line(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (mark, origin) = [
        (">>>", "a terminal"),
        ("...", "a terminal"),
        (">", "a quotation"),
        ("+", "a diff"),
        ("-", "a diff"),
    ]
    .into_iter()
    .find(|(mark, _)| unparsed.slice.starts_with(mark))?;
    let rest = unparsed.slice[mark.len()..].trim_start_matches([' ', '\t']);
    let (first, after) = split_word(rest);
    let is_entry = !first.is_empty() && after.starts_with('=') && !after.starts_with("==");
    let is_statement = matches!(first, "term" | "let" | "state") && !split_word(after).0.is_empty();
    if !is_entry && !is_statement && !is_item_head(rest) {
        return None;
    }
    let length = unparsed.slice.len() - rest.len();
    let message = format!("a line can't begin with `{mark}`");
    Some(
        unparsed
            .foreign(0, mark.len(), message)
            .label(format!("as in a line of {origin}"))
            .help(format!("remove `{mark}`"))
            .fix(format!("remove `{mark}`"), unparsed.span(0, length), "")
            .possibly(),
    )
}

/// `model model student = ...`
fn word_twice(unparsed: &Unparsed) -> Option<Diagnostic> {
    let ((first, _), (second, after)) = (unparsed.first(), unparsed.second());
    let twice = unparsed.kind == CatchAllRule::Item && first == second && words::ITEMS.contains(&first);
    if !twice || split_word(after).0.is_empty() && !after.starts_with('"') {
        return None;
    }
    let message = format!("the word `{first}` stands here twice");
    let fix = unparsed.span(0, unparsed.after_first());
    let diagnostic = Diagnostic::error(Code::Syntax, unparsed.first_span(), message);
    Some(diagnostic.help("write it once").fix("remove one of them", fix, ""))
}

/// `lr: float = 3e-4` in a block.
fn setting_with_a_type(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, rest) = unparsed.first();
    let (name, after) = split_word(rest.strip_prefix(':')?.trim_start());
    let typed = unparsed.kind == CatchAllRule::Statement
        && !first.is_empty()
        && !name.is_empty()
        && after.starts_with('=')
        && !after.starts_with("==");
    if !typed {
        return None;
    }
    let value = after[1..].trim_start();
    let head = unparsed.slice.len() - value.len();
    let message = format!("a setting has no type: `{first} = {}`", value.lines().next().unwrap_or_default());
    Some(unparsed.foreign(first.len(), head - first.len() - 1, message).label("remove `:` and the type").fix(
        "remove the type",
        unparsed.span(0, head),
        format!("{first} = "),
    ))
}

/// `loss.backward()` as a statement.
fn command(unparsed: &Unparsed) -> Option<Diagnostic> {
    let length = unparsed.slice.find(|c: char| !words::is_word(c) && c != '.')?;
    let called = &unparsed.slice[..length];
    let (_, method) = called.rsplit_once('.').filter(|(object, method)| {
        !object.is_empty() && !method.is_empty() && unparsed.slice[length..].starts_with('(')
    })?;
    if unparsed.kind != CatchAllRule::Statement {
        return None;
    }
    let help = match method {
        "backward" | "grad" | "autograd" => {
            "the gradient of every term is derived: it flows from what is marked `live`"
        }
        "step" | "zero_grad" => "the stage makes its steps itself: `optimizer = adamw(...)`",
        _ => "a number is named by `let name = ...`, a part of the loss by `term name = ...`",
    };
    Some(
        unparsed
            .foreign(0, length, format!("there are no commands such as `{called}()`"))
            .label("an experiment is made of declarations")
            .help(help),
    )
}

/// `teacher.logp[:, 1:]` and `sample[n: 4]`
fn brackets_behind_a_value(unparsed: &Unparsed) -> Option<Diagnostic> {
    if !unparsed.stuck().starts_with(':') {
        return None;
    }
    let before = unparsed.before();
    let open = before.rfind('[')?;
    let name_start = before[..open].rfind(|c: char| !words::is_word(c) && c != '.').map_or(0, |at| at + 1);
    let (name, inside) = (&before[name_start..open], before[open + 1..].trim());
    let head_of_a_family = unparsed.kind == CatchAllRule::Item && !before.contains('=');
    if name.is_empty() || before[open..].contains(']') || head_of_a_family {
        return None;
    }
    let is_argument =
        inside.starts_with(|c: char| c.is_ascii_alphabetic()) && inside.chars().all(words::is_word);
    if !is_argument {
        return Some(
            unparsed
                .foreign(open, 1, format!("`{name}` has no slices in `[`"))
                .label("there is one number for each token")
                .help(format!(
                    "all roles are aligned with the tokens of a completion: write `{name}` without `[...]`"
                )),
        );
    }
    let diagnostic = unparsed.foreign(open, 1, "the arguments of a call stand in parentheses, not in `[`");
    let ours = format!("{name}({inside}: ...)");
    let close = unparsed.slice[open + 1..].find([']', '[']).map(|length| open + 1 + length);
    Some(match close.filter(|close| unparsed.slice[*close..].starts_with(']')) {
        Some(close) => diagnostic.help(format!("write `{ours}`")).fix(
            "write parentheses",
            unparsed.span(open, close + 1 - open),
            format!("({})", &unparsed.slice[open + 1..close]),
        ),
        None => diagnostic.help(format!("write `{ours}`")),
    })
}

/// `model by[of in { mopd(), gkd() }]`
fn values_without_names(unparsed: &Unparsed) -> Option<Diagnostic> {
    let before = unparsed.before();
    let open = before.rfind('{')?;
    let family = before[..open].trim_end().ends_with(" in") && before[..open].contains('[');
    if !family || !unparsed.stuck().starts_with(['(', ',', '}', '[']) {
        return None;
    }
    let value = before[open + 1..].trim();
    let length = value.len().max(1);
    let at = before.len() - value.len();
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(at, length), "each value of a family has a name")
            .label("the name is missing")
            .help("write `{ name: value, other: value }`: the names are those of the members"),
    )
}

/// `student | { lr = 1e-4 }`
fn changes_without_their_word(unparsed: &Unparsed) -> Option<Diagnostic> {
    unparsed.stuck().strip_prefix('|').filter(|changes| changes.trim_start().starts_with('{'))?;
    let base = unparsed.before().trim_end();
    let base = base.rsplit(|c: char| !words::is_word(c)).next().filter(|base| !base.is_empty())?;
    let at = unparsed.at;
    Some(
        unparsed
            .foreign(at, 1, "settings are not changed by `|`")
            .help(format!("write `{base} with {{ ... }}`"))
            .fix("write `with`", unparsed.span(at, 1), "with"),
    )
}

/// `lr = &rate 3e-4`
fn shared_value(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (name, _) = split_word(unparsed.stuck().strip_prefix(['&', '*'])?);
    if name.is_empty() || !unparsed.before().ends_with('=') {
        return None;
    }
    let message = format!("`{}` has no meaning before a value", &unparsed.stuck()[..1]);
    Some(unparsed.foreign(unparsed.at, 1, message).label("an anchor, as in YAML").help(format!(
        "a value that several settings have is declared once, `let {name} = ...`, and named: `{name}`"
    )))
}

/// `%50`
fn percent_before_its_number(unparsed: &Unparsed) -> Option<Diagnostic> {
    let rest = unparsed.stuck().strip_prefix('%')?;
    let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    if digits == 0 || !unparsed.before().ends_with(['=', ':', '(', ',', '>', '[']) {
        return None;
    }
    let ours = format!("{}%", &rest[..digits]);
    Some(
        unparsed
            .foreign(unparsed.at, digits + 1, "`%` stands directly after its number")
            .replace_with(format!("write `{ours}`"), ours),
    )
}

/// `model expert[domains]`, `model expert[d for d in domains]`, `model expert[d: domains]`
fn family_without_its_variable(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (before, stuck) = (unparsed.before(), unparsed.stuck());
    let open = before.rfind('[')?;
    let inside = before[open + 1..].trim();
    let head = unparsed.kind == CatchAllRule::Item && !before.contains('=');
    if !head || inside.is_empty() || !inside.chars().all(words::is_word) {
        return None;
    }
    if stuck.starts_with(']') {
        let ours = format!("d in {inside}");
        let at = before.len() - inside.len();
        let message = "a family names its variable before `in`";
        return Some(
            Diagnostic::error(Code::Syntax, unparsed.span(at, inside.len()), message)
                .help(format!("write `[{ours}]`, and `d` where a member differs from the others")),
        );
    }
    if stuck.starts_with(':') {
        let message = "a family's variable stands before `in`, not before `:`";
        let end = before.len();
        return Some(
            unparsed.foreign(unparsed.at, 1, message).help(format!("write `[{inside} in ...]`")).fix(
                "write `in`",
                unparsed.span(end, unparsed.at + 1 - end),
                " in",
            ),
        );
    }
    let (word, rest) = split_word(stuck);
    let (variable, rest) = split_word(rest);
    if word != "for" || variable != inside || split_word(rest).0 != "in" {
        return None;
    }
    let length = stuck.len() - rest.len();
    Some(
        unparsed
            .foreign(unparsed.at, "for".len(), "a family has no `for`: its variable stands before `in`")
            .help(format!("write `[{inside} in ...]`"))
            .fix("write `in` alone", unparsed.span(unparsed.at, length), ""),
    )
}

/// `5 nats`
fn unit_behind_a_number(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (unit, _) = split_word(unparsed.stuck());
    let before = unparsed.before();
    let number = before.trim_end_matches(|c: char| words::is_word(c) || c == '.').len();
    let is_unit =
        matches!(unit, "nats" | "logp" | "prob" | "ratio" | "fraction" | "real" | "count" | "nat" | "bits");
    if !is_unit || !before[number..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number_text = &before[number..];
    let diagnostic = Diagnostic::error(
        Code::Syntax,
        unparsed.span(unparsed.at, unit.len()),
        format!("a number is written without its unit: `{number_text}`, not `{number_text} {unit}`"),
    );
    let length = unparsed.at + unit.len() - before.len();
    Some(diagnostic.help("its unit follows from where it stands").fix(
        format!("remove `{unit}`"),
        unparsed.span(before.len(), length),
        "",
    ))
}

/// `minmax(student.entropy) over: batch`
fn argument_behind_its_call(unparsed: &Unparsed) -> Option<Diagnostic> {
    let inner = unparsed.before().strip_suffix(')')?;
    let (name, rest) = split_word(unparsed.stuck());
    let (value, after) = split_word(rest.strip_prefix(':')?.trim_start());
    if name.is_empty() || value.is_empty() || !(after.is_empty() || after.starts_with('\n')) {
        return None;
    }
    let end = unparsed.slice.len() - after.len();
    let length = unparsed.slice[..end].trim_end().len() - inner.len();
    let ours = format!(", {name}: {value})");
    let message = format!("the argument `{name}` stands inside the parentheses of its call");
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(unparsed.at, name.len()), message)
            .help(format!("write `{ours}`"))
            .fix("move it into the parentheses", unparsed.span(inner.len(), length), ours),
    )
}
