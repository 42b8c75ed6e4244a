//! The canonical layout of a document: what `mopd fmt` would write.

use lsp_types::{DocumentFormattingParams, Range, TextEdit};

use super::super::dispatch::Failure;
use super::super::session::Session;

/// One edit of the whole document, or none where nothing changes. What does not parse stays as it is.
pub fn answer(session: &Session, params: DocumentFormattingParams) -> Result<Vec<TextEdit>, Failure> {
    let document = super::document(session, &params.text_document.uri)?;
    let formatted = mopd_lang::fmt::format(&document.text).text;
    if formatted == document.text {
        return Ok(Vec::new());
    }
    let lines = session.lines(document);
    let range = Range { start: lines.position(0), end: lines.position(document.text.len()) };
    Ok(vec![TextEdit { range, new_text: formatted }])
}
