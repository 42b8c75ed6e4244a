//! Inlay hints: unit and axis of the `let`s, states and terms of objectives, which the text does not show.
//! The unit of a `let` stands behind its name, as the type that one can write there; a hint that is accepted
//! is in the text. What can't be written stands behind the value: an axis, and all of a state and a term.

use super::{ENTRY, describe};
use crate::check::Analysis;
use crate::check::index::{NameTarget, NameUse, Symbol, SymbolKind};
use mopd_experiment::formula::Axis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inlay {
    pub offset: u32,
    /// `: nats`, `per token`, `nats[token]`
    pub text: String,
    /// Whether the text can be written at the offset.
    pub typed: bool,
}

/// The hints of the entry file, in order of place.
pub fn inlays(analysis: &Analysis) -> Vec<Inlay> {
    let declared = analysis.index.uses_in(ENTRY).iter().filter(|a_use| a_use.declares);
    let of_use = |a_use: &NameUse| match a_use.target {
        NameTarget::Symbol(id) => of_symbol(analysis, analysis.index.symbol(id)),
        _ => Vec::new(),
    };
    let mut hints: Vec<Inlay> = declared.flat_map(of_use).collect();
    hints.sort_by_key(|hint| hint.offset);
    hints
}

fn of_symbol(analysis: &Analysis, symbol: &Symbol) -> Vec<Inlay> {
    let Some(info) = &symbol.info else { return Vec::new() };
    let end = symbol.extent.end;
    let behind = |text: String| Inlay { offset: end, text, typed: false };
    match symbol.kind {
        SymbolKind::LocalLet => {
            let Some((unit, axis)) = info.number else { return Vec::new() };
            let text = &analysis.sources.file(symbol.extent.file).text;
            let mut hints = Vec::new();
            if let Some(offset) = without_type(text, symbol.span.end as usize) {
                let text = format!(": {}", unit.name());
                hints.push(Inlay { offset: offset as u32, text, typed: true });
            }
            if axis != Axis::Run {
                hints.push(behind(format!("per {}", axis.name())));
            }
            hints
        }
        SymbolKind::State | SymbolKind::Term => {
            describe::unit_and_axis(info).map(behind).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Where the type of a `let` would stand: behind its name, which ends at `end`, and behind the index of a
/// family. `None` if it has one.
fn without_type(text: &str, end: usize) -> Option<usize> {
    let rest = text[end..].trim_start();
    let offset = match rest.starts_with('[') {
        true => text.len() - rest.len() + rest.find(']')? + 1,
        false => end,
    };
    text[offset..].trim_start().starts_with('=').then_some(offset)
}
