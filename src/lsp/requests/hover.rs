//! What the name under the cursor is.

use lsp_types::{Hover, HoverContents, HoverParams};
use mopd_lang::ide;

use super::super::dispatch::Failure;
use super::super::session::Session;

pub fn answer(session: &Session, params: HoverParams) -> Result<Option<Hover>, Failure> {
    let (document, lines, offset) = super::place(session, &params.text_document_position_params)?;
    let found = ide::hover(&document.analysis, offset);
    Ok(found.map(|found| Hover {
        contents: HoverContents::Markup(super::markdown(found.markdown)),
        range: Some(lines.range_of(found.span)),
    }))
}
