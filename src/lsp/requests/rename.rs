//! Rename: in this file, in its imports, and in the files that import it, which are open or in the editor's
//! folders.

use std::collections::HashMap;

use lsp_types::{
    PrepareRenameResponse, RenameParams, TextDocumentPositionParams, TextEdit, Uri, WorkspaceEdit,
};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;
use super::references;

pub fn prepare(
    session: &Session,
    params: TextDocumentPositionParams,
) -> Result<PrepareRenameResponse, RequestError> {
    let (document, lines, offset) = super::place(session, &params)?;
    let (id, span) =
        ide::renameable(&document.analysis, offset).map_err(|problem| RequestError::refused(problem.0))?;
    let placeholder = document.analysis.index.symbol(id).name.clone();
    Ok(PrepareRenameResponse::RangeWithPlaceholder { range: lines.range_of(span), placeholder })
}

// The protocol's type for edits is keyed by URIs, whose hash does not depend on their mutable parts.
#[allow(clippy::mutable_key_type)]
pub fn handle(session: &Session, params: RenameParams) -> Result<WorkspaceEdit, RequestError> {
    let (document, _, offset) = super::place(session, &params.text_document_position)?;
    let (id, _) =
        ide::renameable(&document.analysis, offset).map_err(|problem| RequestError::refused(problem.0))?;
    let closed =
        references::closed(session, document, id).map_err(|why| references::refused(why, "changed"))?;
    for (analysis, id) in references::views(session, document, &closed, id) {
        ide::check_new_name(analysis, id, &params.new_name)
            .map_err(|problem| RequestError::refused(problem.0))?;
    }
    let mut changes: HashMap<Uri, Vec<TextEdit>> = HashMap::new();
    for place in references::everywhere(session, document, &closed, id, true) {
        changes
            .entry(place.uri)
            .or_default()
            .push(TextEdit { range: place.range, new_text: params.new_name.clone() });
    }
    Ok(WorkspaceEdit { changes: Some(changes), ..WorkspaceEdit::default() })
}
