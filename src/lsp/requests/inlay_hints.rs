//! Inlay hints: unit and axis of the values of an objective. One that can be written is an edit, too.

use lsp_types::{InlayHint, InlayHintKind, InlayHintLabel, InlayHintParams, Range, TextEdit};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: InlayHintParams) -> Result<Vec<InlayHint>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let (start, end) = (lines.offset(params.range.start) as u32, lines.offset(params.range.end) as u32);
    let hints =
        ide::inlays(&document.analysis).into_iter().filter(|hint| (start..=end).contains(&hint.offset));
    let hints = hints.map(|hint| {
        let position = lines.position(hint.offset as usize);
        let edit = || vec![TextEdit { range: Range::new(position, position), new_text: hint.text.clone() }];
        InlayHint {
            position,
            text_edits: hint.typed.then(edit),
            label: InlayHintLabel::String(hint.text),
            kind: Some(InlayHintKind::TYPE),
            tooltip: None,
            padding_left: Some(!hint.typed),
            padding_right: None,
            data: None,
        }
    });
    Ok(hints.collect())
}
