//! The declarations and uses of names.

use super::ENTRY;
use crate::check::Analysis;
use crate::check::index::{NameTarget, SymbolId};
use crate::source::{FileId, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name at the cursor.
    pub from: Span,
    /// The name in its declaration.
    pub name: Span,
    /// The whole declaration.
    pub extent: Span,
}

pub fn definition(analysis: &Analysis, offset: u32) -> Option<Definition> {
    let found = analysis.index.at(ENTRY, offset)?;
    match found.target {
        NameTarget::Symbol(id) => {
            let symbol = analysis.index.symbol(id);
            Some(Definition { from: found.span, name: symbol.span, extent: symbol.extent })
        }
        NameTarget::Module(file) => {
            let start = Span::new(file, 0, 0);
            Some(Definition { from: found.span, name: start, extent: start })
        }
        _ => None,
    }
}

/// The symbol that the name at an offset of a file refers to.
pub fn declared_target(analysis: &Analysis, file: FileId, offset: u32) -> Option<SymbolId> {
    match analysis.index.at(file, offset)?.target {
        NameTarget::Symbol(id) => Some(id),
        _ => None,
    }
}

/// Every place of the analysis that names a symbol, with or without its declaration.
pub fn references(analysis: &Analysis, id: SymbolId, with_declaration: bool) -> Vec<Span> {
    analysis
        .index
        .places(id)
        .filter(|place| with_declaration || !place.declares)
        .map(|place| place.span)
        .collect()
}

/// The uses of a symbol or another word within the file. The flag marks its declaration.
pub fn highlights(analysis: &Analysis, offset: u32) -> Vec<(Span, bool)> {
    let Some(found) = analysis.index.at(ENTRY, offset) else { return Vec::new() };
    let same = |target: NameTarget| match (found.target, target) {
        (NameTarget::Symbol(a), NameTarget::Symbol(b)) => a == b,
        (NameTarget::Signal(a), NameTarget::Signal(b)) | (NameTarget::Part(a), NameTarget::Part(b)) => {
            a.name == b.name
        }
        (NameTarget::Builtin(a), NameTarget::Builtin(b)) => a.name == b.name,
        (NameTarget::Domains, NameTarget::Domains) => true,
        _ => false,
    };
    let uses = analysis.index.uses_in(ENTRY).iter().filter(|a_use| same(a_use.target));
    uses.map(|a_use| (a_use.span, a_use.declares)).collect()
}
