//! The other occurrences of a name in the same file.

use lsp_types::{DocumentHighlight, DocumentHighlightKind, DocumentHighlightParams};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(
    session: &Session,
    params: DocumentHighlightParams,
) -> Result<Vec<DocumentHighlight>, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position_params)?;
    let found =
        ide::highlights(&document.analysis, offset).into_iter().map(|(span, declares)| DocumentHighlight {
            range: lines.range_of(span),
            kind: Some(if declares { DocumentHighlightKind::WRITE } else { DocumentHighlightKind::READ }),
        });
    Ok(found.collect())
}
