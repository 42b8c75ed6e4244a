//! Inlay hints: unit and axis of the values of an objective.

use lsp_types::{InlayHint, InlayHintKind, InlayHintLabel, InlayHintParams};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: InlayHintParams) -> Result<Vec<InlayHint>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let (start, end) = (lines.offset(params.range.start) as u32, lines.offset(params.range.end) as u32);
    let hints =
        ide::inlays(&document.analysis).into_iter().filter(|hint| (start..=end).contains(&hint.offset));
    let hints = hints.map(|hint| InlayHint {
        position: lines.position(hint.offset as usize),
        label: InlayHintLabel::String(hint.text),
        kind: Some(InlayHintKind::TYPE),
        text_edits: None,
        tooltip: None,
        padding_left: Some(true),
        padding_right: None,
        data: None,
    });
    Ok(hints.collect())
}
