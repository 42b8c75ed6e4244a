//! Formats a document as `mopd fmt` does, or a range. It sends small edits, so that cursors and bookmarks
//! stay in place. Text that does not parse is left unchanged.

use lsp_types::{
    DocumentFormattingParams, DocumentOnTypeFormattingParams, DocumentRangeFormattingParams, TextEdit,
};
use mopd_lang::fmt;

use super::super::convert::LineIndex;
use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: DocumentFormattingParams) -> Result<Vec<TextEdit>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    Ok(converted(&session.lines(document), fmt::edits(&document.text)))
}

pub fn range(
    session: &Session,
    params: DocumentRangeFormattingParams,
) -> Result<Vec<TextEdit>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let (start, end) = (lines.offset(params.range.start), lines.offset(params.range.end));
    // A selection of whole lines ends before the first character of the next line.
    let end = if end > start && document.text[..end].ends_with('\n') { end - 1 } else { end };
    Ok(converted(&lines, fmt::edits_in(&document.text, start.min(end)..end.max(start))))
}

/// Editors send this right after the character was inserted, with the position after it.
pub fn on_type(
    session: &Session,
    params: DocumentOnTypeFormattingParams,
) -> Result<Vec<TextEdit>, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position)?;
    let edits = match params.ch.as_str() {
        "}" => fmt::edits_on_close(&document.text, offset as usize),
        "\n" => fmt::edits_on_newline(&document.text, offset as usize),
        _ => Vec::new(),
    };
    Ok(converted(&lines, edits))
}

fn converted(lines: &LineIndex, edits: Vec<fmt::TextEdit>) -> Vec<TextEdit> {
    let convert = |edit: fmt::TextEdit| TextEdit {
        range: lines.range(edit.range.start, edit.range.end),
        new_text: edit.text,
    };
    edits.into_iter().map(convert).collect()
}
