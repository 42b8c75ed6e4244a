//! Settings of other tools under their names here: the edit, if the whole setting is right after it.

use crate::diag::Diagnostic;
use crate::source::Span;
use crate::syntax::ast::{Entry, Expr, ExprKind};

use crate::check::builtins;
use crate::check::builtins::kinds::{ArgumentKind, SettingKey};
use crate::check::declarations::Declarations;
use crate::check::reporter::Reporter;
use crate::check::suggestions::foreign::{self, ForeignSetting};
use crate::check::suggestions::unknown;

/// The matrices of every layer, as PEFT's `all-linear` names them.
pub const ALL_MATRICES: &str = "[attention, feed_forward]";

/// Whether a text is PEFT's word for all matrices.
pub fn is_all_matrices(text: &str) -> bool {
    matches!(text, "all" | "all-linear" | "all_linear")
}

/// Adds the edit that writes a foreign setting as it is written here. `others` are all settings of the
/// block. Of several settings that become one, the first has the edit.
pub(super) fn with_our_setting(
    declarations: &Declarations,
    diagnostic: Diagnostic,
    entry: &Entry,
    setting: ForeignSetting,
    keys: &[SettingKey],
    others: &[&Entry],
) -> Diagnostic {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let same = |other: &Entry| {
        foreign::setting(&other.key.text, &names, &names).filter(|other| other.key() == setting.key())
    };
    let alike: Vec<(&Entry, ForeignSetting)> = others
        .iter()
        .filter(|other| !names.contains(&other.key.text.as_str()))
        .filter_map(|other| Some((*other, same(other)?)))
        .collect();
    if alike.first().is_some_and(|(first, _)| first.key.span != entry.key.span) {
        return diagnostic;
    }
    let value = declarations.sources.text(entry.value.span);
    let whole = entry.key.span.to(entry.value.span);
    match setting {
        ForeignSetting::Is(key) => {
            let takes = keys.iter().find(|known| known.name == key).map(|known| known.takes);
            match value_here(declarations, key, takes, &entry.value) {
                Some(ours) if ours == value => diagnostic.replace_with(format!("change to `{key}`"), key),
                Some(ours) => {
                    let written = format!("{key} = {ours}");
                    diagnostic.fix(format!("write `{written}`"), whole, written)
                }
                None => diagnostic,
            }
        }
        ForeignSetting::Within { key, .. } => match one_call(declarations, key, &alike) {
            Some((span, written)) => diagnostic.fix(format!("write `{written}`"), span, written),
            None => diagnostic,
        },
        _ => match setting.written(value) {
            Some(written) => diagnostic.fix(format!("write `{written}`"), whole, written),
            None => diagnostic,
        },
    }
}

/// `weight_decay = 0.1, max_grad_norm = 1`: one `optimizer = adamw(...)`. `None` if other settings are
/// between.
fn one_call(reporter: &Reporter, key: &str, alike: &[(&Entry, ForeignSetting)]) -> Option<(Span, String)> {
    let span = |entry: &Entry| entry.key.span.to(entry.value.span);
    let (mut arguments, mut whole) = (Vec::new(), span(alike.first()?.0));
    for (entry, setting) in alike {
        let ForeignSetting::Within { before, .. } = setting else { return None };
        let between = Span { start: whole.end, end: entry.key.span.start.max(whole.end), ..whole };
        if !reporter.sources.text(between).chars().all(|c| c.is_whitespace() || c == ',') {
            return None;
        }
        let value = reporter.sources.text(entry.value.span);
        arguments.push(format!("{}{value}", before.trim_start_matches("adamw(")));
        whole = whole.to(span(entry));
    }
    Some((whole, format!("{key} = adamw({})", arguments.join(", "))))
}

/// The value of a foreign setting as it is written here for `key`, which `takes` such values; `None` if
/// it would not fit.
pub(super) fn value_here(
    declarations: &Declarations,
    key: &str,
    takes: Option<ArgumentKind>,
    value: &Expr,
) -> Option<String> {
    let written = declarations.sources.text(value.span);
    let declared = |name: &str| unknown::is_declared(&declarations.modules, value.span.file, name);
    if key == "targets" {
        return match &value.kind {
            ExprKind::Text(text) if is_all_matrices(text) => Some(ALL_MATRICES.to_owned()),
            ExprKind::Text(_) => None,
            _ => Some(written.to_owned()),
        };
    }
    let bare = match &value.kind {
        ExprKind::Text(text) => text.as_str(),
        ExprKind::Name(name) => name,
        _ => return Some(written.to_owned()),
    };
    let is_text = matches!(value.kind, ExprKind::Text(_));
    let ours = |fits: bool| fits.then(|| bare.to_owned());
    match takes? {
        ArgumentKind::Text
        | ArgumentKind::Texts
        | ArgumentKind::Secret
        | ArgumentKind::Dataset
        | ArgumentKind::Template => Some(written.to_owned()),
        ArgumentKind::Words(words) => {
            let names: Vec<&str> = words.iter().map(|word| word.name).collect();
            let word = names.iter().find(|name| **name == bare).copied();
            word.or_else(|| foreign::word(bare, &names)).map(str::to_owned)
        }
        ArgumentKind::Count | ArgumentKind::Number | ArgumentKind::Schedule if is_text => {
            ours(bare.parse::<f64>().is_ok() && bare.starts_with(|c: char| c.is_ascii_digit()))
        }
        ArgumentKind::Objective | ArgumentKind::Rollout => ours(declared(bare)),
        ArgumentKind::Reward | ArgumentKind::Optimizer => {
            ours(declared(bare) || builtins::find(bare).is_some_and(|builtin| builtin.required() == 0))
        }
        ArgumentKind::Field => Some(bare.to_owned()),
        _ if is_text => ours(declared(bare)),
        _ => Some(written.to_owned()),
    }
}
