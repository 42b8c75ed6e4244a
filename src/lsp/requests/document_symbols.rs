//! The outline of a file.

use lsp_types::{DocumentSymbol, DocumentSymbolParams, DocumentSymbolResponse, Location, SymbolInformation};
use mopd_lang::ide::{self, Outline};

use super::super::convert::LineIndex;
use super::super::dispatch::RequestError;
use super::super::session::{ENTRY, Session};

pub fn handle(
    session: &Session,
    params: DocumentSymbolParams,
) -> Result<DocumentSymbolResponse, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let outlines = ide::outline(&document.analysis, ENTRY);
    if session.client.nested_symbols {
        return Ok(DocumentSymbolResponse::Nested(
            outlines.iter().map(|outline| nested(outline, &lines)).collect(),
        ));
    }
    let flat = outlines.iter().map(|outline| {
        information(outline, Location::new(document.uri.clone(), lines.range_of(outline.extent)))
    });
    Ok(DocumentSymbolResponse::Flat(flat.collect()))
}

// The protocol's type still has a deprecated field.
#[allow(deprecated)]
fn nested(outline: &Outline, lines: &LineIndex) -> DocumentSymbol {
    let children: Vec<DocumentSymbol> = outline.children.iter().map(|child| nested(child, lines)).collect();
    DocumentSymbol {
        name: outline.name.clone(),
        detail: (!outline.detail.is_empty()).then(|| outline.detail.clone()),
        kind: super::symbol_kind(outline.kind),
        tags: None,
        deprecated: None,
        range: lines.range_of(outline.extent),
        selection_range: lines.range_of(outline.name_span),
        children: (!children.is_empty()).then_some(children),
    }
}

#[allow(deprecated)]
pub fn information(outline: &Outline, location: Location) -> SymbolInformation {
    SymbolInformation {
        name: outline.name.clone(),
        kind: super::symbol_kind(outline.kind),
        tags: None,
        deprecated: None,
        location,
        container_name: None,
    }
}
