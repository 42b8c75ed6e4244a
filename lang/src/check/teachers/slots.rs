//! Slots as other languages write them, and texts that have none where one was meant.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Argument, Expr, ExprKind};
use crate::syntax::words;
use mopd_experiment::TemplatePiece;

use crate::check::reporter::Reporter;

/// The diagnostic for a slot of Jinja or Python, or one that lacks its share.
pub(super) fn of_another_language(span: Span, inside: &str) -> Option<Diagnostic> {
    let error = |message: &str| Diagnostic::error(Code::TemplateSlot, span, message);
    let inside = inside.trim();
    if inside.starts_with(['%', '#']) {
        let help = "a slot shows one thing, such as `{prompt}` or `{hint}`, a field of the data; a text with \
                    parts that may be missing is a field of its own";
        return Some(error("a slot has no commands such as `{% if %}`").label("as in Jinja").help(help));
    }
    let (name, format) = inside.split_once([':', '!'])?;
    let is_field = !name.is_empty() && name.chars().all(words::is_word);
    let is_format = !format.is_empty() && !format.contains(['(', ')', ',', ' ', '"']);
    (is_field && is_format).then(|| {
        error("a slot has no format behind `:`")
            .help(format!(
                "write `{{{name}}}`: a field is shown as it is, a number with three decimals at most"
            ))
            .fix(format!("write `{name}`"), span, name)
            .possibly()
    })
}

/// `first(solution)`
pub(super) fn without_its_share(expr: &Expr, span: Span) -> Option<Diagnostic> {
    let ExprKind::Call { callee, arguments, block: None } = &expr.kind else { return None };
    let (ExprKind::Name(part), [shown]) = (&callee.kind, arguments.as_slice()) else { return None };
    let ExprKind::Name(field) = &shown.value.kind else { return None };
    (shown.name.is_none() && matches!(part.as_str(), "first" | "last")).then(|| {
        let text = format!("`{part}` in a slot needs the share that is shown");
        let help = format!("for example `{{{part}({field}, 0.5)}}`; the whole of it is `{{{field}}}`");
        Diagnostic::error(Code::MissingArgument, span, text).help(help)
    })
}

/// Warns of a text in which a slot, a file or a line break was meant.
pub(super) fn warn_of_odd_texts(reporter: &mut Reporter, pieces: &[TemplatePiece], span: Span) {
    let texts = || {
        pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::Text(text) => Some(text.as_str()),
            _ => None,
        })
    };
    // The place of the words in a text that is written here, else the whole of it.
    let source = reporter.sources.text(span).to_owned();
    let span_of = |words: &str| {
        let start = source.find(words).map(|at| span.start as usize + at);
        start.map_or(span, |start| Span::new(span.file, start, start + words.len()))
    };
    let at = |span: Span, message: &str| Diagnostic::warning(Code::TemplateSlot, span, message);
    let warning = |message: &str| at(span, message);
    if texts().any(|text| text.contains("{prompt}")) {
        let diagnostic = at(
            span_of("{{prompt}}"),
            "two braces are one of the text: `{{prompt}}` shows `{prompt}`, not the prompt",
        );
        return reporter.report(diagnostic.help("write `{prompt}`"));
    }
    // `{prompt}/n/nHint: {hint}`
    let broken = |text: &str| {
        let rest = text.strip_prefix("/n");
        text.contains("/n/n")
            || rest
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()))
    };
    let behind_slots = pieces.windows(2).filter_map(|pair| match pair {
        [TemplatePiece::Text(_), _] => None,
        [_, TemplatePiece::Text(text)] => Some(text.as_str()),
        _ => None,
    });
    if behind_slots.into_iter().any(broken) {
        let diagnostic = at(span_of("/n"), "`/n` is shown as it is: a slash and a letter");
        return reporter.report(diagnostic.help("a line break is written `\\n`"));
    }
    if pieces.iter().any(|piece| !matches!(piece, TemplatePiece::Text(_))) {
        return;
    }
    let whole: String = texts().collect();
    let is_path = !whole.is_empty()
        && !whole.contains(char::is_whitespace)
        && [".txt", ".md", ".jinja", ".j2", ".prompt", ".mustache"].iter().any(|end| whole.ends_with(end));
    let of_a_shell = words::shell_names(&whole).next();
    let diagnostic = warning("this text has no slot: it is the same for every prompt");
    if is_path {
        let help = format!("the text of a file is `file(\"{whole}\")`");
        reporter.report(diagnostic.label("this is a path").help(help));
    } else if let Some(name) = of_a_shell {
        let help = format!("a slot stands in braces: `{{{name}}}`");
        reporter.report(diagnostic.label(format!("`${name}` is shown as it is")).help(help));
    } else if whole.contains("%s") {
        let help = "a slot is named in braces: `{prompt}`, or a field of the data";
        reporter.report(diagnostic.label("`%s` is shown as it is").help(help));
    }
}

/// The slot and the share in `first(solution, exposure)` and `last(...)`, which show a part of a slot.
pub fn part_of_slot(expr: &Expr) -> Option<(&str, &Argument, &Argument)> {
    let ExprKind::Call { callee, arguments, block: None } = &expr.kind else { return None };
    let (ExprKind::Name(name), [slot, share]) = (&callee.kind, arguments.as_slice()) else { return None };
    let is_part = matches!(name.as_str(), "first" | "last")
        && share.name.as_ref().is_none_or(|name| name.text != "over");
    is_part.then_some((name.as_str(), slot, share))
}
