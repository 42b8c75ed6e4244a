//! What may stand where a name is unknown, so that no name of another kind is suggested.

use crate::source::Span;
use crate::syntax::ast::ItemKind;
use crate::syntax::words;

use crate::check::builtins::kinds::ArgumentKind;
use crate::check::builtins::vocabulary::BLOCKS;

/// What the setting takes whose value begins with a name; empty if the name is no such value.
pub(super) fn taken(text: &str, name: Span) -> Vec<ArgumentKind> {
    let before = text[..name.start as usize].trim_end();
    let Some(before) = before.strip_suffix('=').filter(|before| !before.ends_with(['=', '<', '>', '!']))
    else {
        return Vec::new();
    };
    let before = before.trim_end();
    let key = &before[before.trim_end_matches(words::is_word).len()..];
    let settings = BLOCKS.iter().flat_map(|(_, keys)| keys.iter());
    settings.filter(|setting| setting.name == key).map(|setting| setting.takes).collect()
}

/// Whether an item of this kind can be meant where one of `taken` stands.
pub(super) fn may_be(kind: &ItemKind, taken: &[ArgumentKind]) -> bool {
    taken.is_empty() || taken.iter().any(|takes| accepts(*takes, kind))
}

fn accepts(takes: ArgumentKind, kind: &ItemKind) -> bool {
    // A `let`, a `param` or a function may have any value.
    if matches!(kind, ItemKind::Let { .. } | ItemKind::Param(_) | ItemKind::Fn { .. }) {
        return true;
    }
    match takes {
        ArgumentKind::Model | ArgumentKind::Models => {
            matches!(kind, ItemKind::Model(_) | ItemKind::Stage { .. })
        }
        ArgumentKind::Teacher | ArgumentKind::Teachers => matches!(kind, ItemKind::Teacher { .. }),
        ArgumentKind::Domains => matches!(kind, ItemKind::Domain { .. }),
        ArgumentKind::Objective => matches!(kind, ItemKind::Objective { .. }),
        ArgumentKind::Rollout => matches!(kind, ItemKind::Rollout { .. }),
        ArgumentKind::Template => matches!(kind, ItemKind::Template { .. }),
        ArgumentKind::Reward => matches!(kind, ItemKind::Reward { .. }),
        ArgumentKind::Benchmark | ArgumentKind::Benchmarks => {
            matches!(kind, ItemKind::Eval { .. } | ItemKind::Domain { .. })
        }
        ArgumentKind::Count | ArgumentKind::Number | ArgumentKind::Schedule => {
            matches!(kind, ItemKind::Schedule { .. })
        }
        ArgumentKind::Optimizer | ArgumentKind::Adapter | ArgumentKind::Truth | ArgumentKind::Text => false,
        _ => true,
    }
}
