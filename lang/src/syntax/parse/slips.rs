//! Slips for which a specific diagnostic is better than the grammar's expectation.

use super::build::CatchAllRule;
use super::explain::token;
use super::habits::{after_equals, chosen};
use super::unparsed::Unparsed;
use crate::diag::{Code, Diagnostic, nearest};
use crate::syntax::words::{self, split_word};

/// The diagnostic of the first of [`SLIPS`] that matches.
pub fn slip(unparsed: &Unparsed) -> Option<Diagnostic> {
    SLIPS.iter().find_map(|slip| slip(unparsed))
}

/// In order of precedence: slips of a whole slice, then slips at the place where the grammar stopped.
const SLIPS: [fn(&Unparsed) -> Option<Diagnostic>; 13] = [
    begins_with_an_operator,
    item_in_a_block,
    statement_outside_a_block,
    setting_outside_a_block,
    unknown_kind_of_item,
    unquoted_name,
    arm_without_an_arrow,
    setting_without_equals,
    match_with_a_subject,
    conditional_operator,
    pass_at_sign,
    misplaced_mark,
    remainder,
];

fn begins_with_an_operator(unparsed: &Unparsed) -> Option<Diagnostic> {
    let operator = leading_operator(unparsed.slice)?;
    let span = unparsed.span(0, operator.len());
    Some(
        Diagnostic::error(Code::Syntax, span, format!("a line can't begin with `{operator}`"))
            .label("the line before it is complete")
            .help(format!(
                "an expression continues after a line that ends with an operator: move `{operator}` to the \
                 end of the line before"
            )),
    )
}

fn item_in_a_block(unparsed: &Unparsed) -> Option<Diagnostic> {
    if unparsed.kind != CatchAllRule::Statement || !is_item_head(unparsed.slice) {
        return None;
    }
    let message = format!("`{}` can't stand inside a block", unparsed.first().0);
    Some(
        Diagnostic::error(Code::Syntax, unparsed.first_span(), message)
            .label("an item")
            .help("move it out of the braces"),
    )
}

fn statement_outside_a_block(unparsed: &Unparsed) -> Option<Diagnostic> {
    let first = unparsed.first().0;
    if unparsed.kind != CatchAllRule::Item || unparsed.second().0.is_empty() {
        return None;
    }
    let block = match first {
        "term" | "state" => "an `objective`",
        "trains" | "step" => "a `train` stage",
        _ => return None,
    };
    Some(
        Diagnostic::error(Code::Syntax, unparsed.first_span(), format!("`{first}` can't stand on its own"))
            .label("a statement")
            .help(format!("it belongs inside the braces of {block}")),
    )
}

fn setting_outside_a_block(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, rest) = unparsed.first();
    if unparsed.kind != CatchAllRule::Item || words::ITEMS.contains(&first) || !rest.starts_with(['=', ':']) {
        return None;
    }
    let value = split_word(rest.trim_start_matches(['=', ':', ' '])).0;
    if words::MAKES_A_MODEL.contains(&value) {
        let message = format!("`{first}` is not declared as a model");
        return Some(
            Diagnostic::error(Code::Syntax, unparsed.first_span(), message)
                .help(format!("write `model {first} = ...`"))
                .fix("write `model`", unparsed.span(0, 0), "model "),
        );
    }
    let diagnostic = Diagnostic::error(
        Code::Syntax,
        unparsed.first_span(),
        format!("a setting belongs inside a block: `{first}`"),
    )
    .label("outside blocks there are only items, such as `model` or `let`")
    .fix("declare a constant", unparsed.span(0, 0), "let ");
    // What is indented belonged to a block, the beginning of which is amiss.
    let indented = unparsed.builder.text()[..unparsed.start].ends_with([' ', '\t']);
    Some(if indented { diagnostic.possibly() } else { diagnostic })
}

fn unknown_kind_of_item(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, kind) = (unparsed.first().0, unparsed.kind);
    let known = words::ITEMS.contains(&first) || first == "pub";
    if kind != CatchAllRule::Item || first.is_empty() || known || unparsed.at > first.len() {
        return None;
    }
    let error = |message: String| Diagnostic::error(Code::Syntax, unparsed.first_span(), message);
    let message = format!("`{first}` is not a kind of item");
    Some(
        match words::meant_item(first, unparsed.first().1)
            .or_else(|| nearest(first, words::ITEMS.iter().copied()))
        {
            Some(meant) => error(format!("{message}; did you mean `{meant}`?"))
                .replace_with(format!("write `{meant}`"), meant),
            None => {
                let kinds: Vec<String> = words::ITEMS.iter().map(|item| format!("`{item}`")).collect();
                error(message).help(format!("items begin with {}", kinds.join(", ")))
            }
        },
    )
}

fn unquoted_name(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (first, second) = (unparsed.first().0, unparsed.second().0);
    let named = unparsed.kind == CatchAllRule::Item && matches!(first, "experiment" | "compare");
    if !named || second.is_empty() || unparsed.at != unparsed.after_first() {
        return None;
    }
    let message = format!("the name of the `{first}` is written in double quotes");
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(unparsed.at, second.len()), message)
            .replace_with("write quotes", format!("\"{second}\"")),
    )
}

fn arm_without_an_arrow(unparsed: &Unparsed) -> Option<Diagnostic> {
    let (message, example) = match unparsed.kind {
        CatchAllRule::Arm => (
            "an arm of a route needs `->` and a teacher",
            "`domain == math -> specialist[math]`, or `else -> generalist`",
        ),
        CatchAllRule::MatchArm => {
            ("an arm of a `match` needs `->` and a value", "`correct -> 1`, or `else -> 0`")
        }
        CatchAllRule::Item | CatchAllRule::Statement | CatchAllRule::Axis => return None,
    };
    if unparsed.slice.contains("->") {
        return None;
    }
    let (at, stuck) = (unparsed.at, unparsed.stuck());
    let whole = unparsed.span(0, unparsed.slice.len());
    let diagnostic = Diagnostic::error(Code::Syntax, whole, format!("{message}: `->` is missing"))
        .help(format!("for example {example}"));
    // `domain == code specialist[code]`: between two values.
    let ends_value = |c: char| words::is_word(c) || matches!(c, ')' | ']' | '"');
    let between = at > 0
        && stuck.starts_with(words::is_word)
        && !stuck.starts_with(|c: char| c.is_ascii_digit())
        && unparsed.before().ends_with(ends_value);
    if !between || unparsed.kind != CatchAllRule::Arm {
        return Some(diagnostic);
    }
    let diagnostic = diagnostic.fix("write `->`", unparsed.span(at, 0), "-> ");
    // `else const> guide`: another sign may stand for the arrow.
    Some(if stuck.contains('>') { diagnostic.possibly() } else { diagnostic })
}

fn setting_without_equals(unparsed: &Unparsed) -> Option<Diagnostic> {
    let ((first, rest), (second, after)) = (unparsed.first(), unparsed.second());
    let stuck = unparsed.stuck();
    let begins_value = |c: char| words::is_word(c) || matches!(c, '"' | '[');
    if unparsed.kind != CatchAllRule::Statement
        || stuck != rest
        || first.is_empty()
        || !(second.is_empty() || after.is_empty())
        || !stuck.starts_with(begins_value)
    {
        return None;
    }
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(unparsed.at, token(stuck).len()), "`=` is missing")
            .label(format!("a setting is written `{first} = value`"))
            .fix("write `=`", unparsed.span(first.len(), 0), " ="),
    )
}

fn match_with_a_subject(unparsed: &Unparsed) -> Option<Diagnostic> {
    let before = unparsed.before().strip_suffix("match")?;
    let stuck = unparsed.stuck();
    if before.ends_with(words::is_word) || !(stuck.starts_with(words::is_word) || stuck.starts_with('"')) {
        return None;
    }
    let message = "a `match` has no subject: its arms are conditions";
    Some(
        unparsed
            .foreign(before.len(), "match".len(), message)
            .label("expected `{` after it")
            .help("write `match { condition -> value, else -> value }`"),
    )
}

/// `c ? a : b`
fn conditional_operator(unparsed: &Unparsed) -> Option<Diagnostic> {
    let choices = unparsed.stuck().strip_prefix('?')?;
    let (slice, at) = (unparsed.slice, unparsed.at);
    let diagnostic = unparsed
        .foreign(at, 1, "there is no `?`: a choice between two values is written `where`")
        .label("a conditional expression, as in C")
        .help(
            "`c ? a : b` is `where(c, a, b)`; for more than two there is `match { c -> a, d -> b, else -> e \
             }`",
        );
    Some(match choices.split_once(':') {
        Some((then, otherwise)) => {
            chosen(unparsed, diagnostic, [after_equals(&slice[..at]), then, otherwise])
        }
        None => diagnostic,
    })
}

/// `pass@8`
fn pass_at_sign(unparsed: &Unparsed) -> Option<Diagnostic> {
    let counted = unparsed.stuck().strip_prefix('@')?;
    let before = unparsed.before().strip_suffix("pass")?;
    let digits = counted.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let count = &counted[..digits];
    let ours = format!("pass_at({count})");
    let length = unparsed.at + 1 + digits - before.len();
    let diagnostic = unparsed.foreign(before.len(), length, format!("pass@{count} is written `{ours}`"));
    Some(diagnostic.replace_with(format!("write `{ours}`"), ours))
}

fn misplaced_mark(unparsed: &Unparsed) -> Option<Diagnostic> {
    if !unparsed.stuck().starts_with('@') || unparsed.before().ends_with('=') {
        return None;
    }
    let message = "a mark such as `@unpublished` follows the value of a setting in a block";
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(unparsed.at, 1), message)
            .help("nothing else can carry a mark yet"),
    )
}

fn remainder(unparsed: &Unparsed) -> Option<Diagnostic> {
    if !unparsed.stuck().starts_with('%') {
        return None;
    }
    let message = "`%` stands directly after a number, as in `35%`";
    Some(
        Diagnostic::error(Code::Syntax, unparsed.span(unparsed.at, 1), message)
            .help("there is no remainder operator"),
    )
}

/// Whether a slice begins an item that can't be in a block, such as `domain sort { ... }`.
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
