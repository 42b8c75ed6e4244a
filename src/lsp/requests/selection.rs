//! Expanding selections.

use lsp_types::{SelectionRange, SelectionRangeParams};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: SelectionRangeParams) -> Result<Vec<SelectionRange>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let grown = params.positions.iter().map(|position| {
        let ranges = ide::selections(&document.text, lines.offset(*position));
        let outwards = ranges.into_iter().rev();
        let nested = outwards.fold(None, |parent, (start, end)| {
            Some(SelectionRange { range: lines.range(start, end), parent: parent.map(Box::new) })
        });
        nested.unwrap_or_else(|| SelectionRange {
            range: lsp_types::Range::new(*position, *position),
            parent: None,
        })
    });
    Ok(grown.collect())
}
