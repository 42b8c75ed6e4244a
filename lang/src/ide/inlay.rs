//! Inlay hints: unit and axis of the `let`s and terms of objectives, which the text does not show. They stand
//! behind the value: behind the name they would look like a type that one could write there.

use super::{ENTRY, describe};
use crate::check::Analysis;
use crate::check::index::SymbolKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inlay {
    pub offset: u32,
    /// `nats[token]`
    pub text: String,
}

/// The hints of the entry file, in order of place.
pub fn inlays(analysis: &Analysis) -> Vec<Inlay> {
    let declared = analysis.index.uses_in(ENTRY).iter().filter(|a_use| a_use.declares);
    let hint = |a_use: &crate::check::index::NameUse| {
        let crate::check::index::NameTarget::Symbol(id) = a_use.target else { return None };
        let symbol = analysis.index.symbol(id);
        let info = symbol
            .info
            .as_ref()
            .filter(|_| matches!(symbol.kind, SymbolKind::LocalLet | SymbolKind::State | SymbolKind::Term))?;
        Some(Inlay { offset: symbol.extent.end, text: describe::unit_and_axis(info)? })
    };
    declared.filter_map(hint).collect()
}
