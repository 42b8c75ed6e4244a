//! Checks the word after a number, `150 steps`, `2 * 2048 tokens`: it must be what the setting counts.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words::split_word;
use mopd_experiment::formula::CountWord;

use crate::check::builtins::bounds;
use crate::check::reporter::Reporter;
use crate::check::values::value::Value;

/// The word for what a setting or argument counts. `None` where its numbers take no word.
fn counted(key: &str) -> Option<&'static str> {
    match key {
        "steps" | "refresh" | "every" | "over" | "hold" => Some("steps"),
        "max_tokens" | "limits" | "context" | "width" | "block" => Some("tokens"),
        _ => None,
    }
}

/// Keys whose numbers take no word. For other keys this is not known.
fn stands_alone(key: &str) -> bool {
    bounds::is_own(key)
        || matches!(
            key,
            "lr" | "seed"
                | "seeds"
                | "samples"
                | "prompts"
                | "batch"
                | "n"
                | "layers"
                | "heads"
                | "key_value_heads"
                | "temperature"
                | "top_p"
                | "top_k"
                | "rank"
                | "alpha"
                | "share"
                | "micro_batch"
                | "beta"
                | "drop"
                | "density"
                | "scale"
                | "weight_decay"
                | "clip_norm"
                | "tolerance"
                | "limit"
                | "k"
        )
}

/// What a number counts, and the literal that says so: the number before its word, and the place of both.
/// `None` if no part of it has a word.
fn word_behind<'r>(reporter: &'r Reporter, value: &Value) -> Option<(&'r str, &'static str, Span)> {
    let Value::Formula(formula) = value else { return None };
    let CountWord { word, origin } = formula.0.counted?;
    let span = reporter.span(origin);
    let (number, _) = reporter.sources.text(span).rsplit_once([' ', '\t'])?;
    Some((number.trim_end(), word, span))
}

/// Whether the word after a number is what `key` counts. Reports it where it is not.
pub fn word_fits(reporter: &mut Reporter, value: &Value, span: Span, key: &str) -> bool {
    let Some((number, word, place)) = word_behind(reporter, value) else { return true };
    let wanted = counted(key);
    if wanted == Some(word) || wanted.is_none() && !stands_alone(key) {
        return true;
    }
    let (text, meant, help) = match wanted {
        Some(wanted) => (
            format!("`{key}` counts {wanted}, not {word}"),
            format!("{number} {wanted}"),
            format!("write `{number} {wanted}`, or the number alone"),
        ),
        None => (
            format!("`{key}` is a plain number, and counts no {word}"),
            number.to_owned(),
            format!("write the number without the word: `{number}`"),
        ),
    };
    // Reported at the number itself, so that one slip gives one diagnostic wherever it is read.
    let diagnostic = Diagnostic::error(Code::UnitMismatch, place, text).help(help).fix(
        format!("write `{meant}`"),
        place,
        meant,
    );
    let diagnostic = if place == span { diagnostic } else { diagnostic.note(span, "read here").possibly() };
    reporter.report(diagnostic);
    false
}

/// [`Self::word_fits`] for a value directly after `key =` or `key:`.
pub fn word_fits_here(reporter: &mut Reporter, value: &Value, span: Span) -> bool {
    match reporter.key_before(span).map(str::to_owned) {
        Some(key) => word_fits(reporter, value, span, &key),
        None => true,
    }
}

/// The diagnostic, with help, for `48 epochs` where no epochs are expected.
pub fn epochs_misplaced(reporter: &mut Reporter, span: Span, diagnostic: Diagnostic) -> Diagnostic {
    let key = reporter.key_before(span).unwrap_or_default();
    let written = reporter.sources.text(span);
    let (number, rest) = split_word(written);
    if !rest.starts_with("epoch") {
        return diagnostic;
    }
    let ours = counted(key).map_or(number.to_owned(), |wanted| format!("{number} {wanted}"));
    diagnostic.help(format!("only `steps` can be given in epochs: write `{ours}`")).fix(
        format!("write `{ours}`"),
        span,
        ours,
    )
}
