//! Quick fixes: the fix of a diagnostic, the choices between several, and for a warning the comment that
//! silences it.

use std::collections::HashMap;

use lsp_types::{CodeAction, CodeActionKind, CodeActionOrCommand, CodeActionParams, TextEdit, WorkspaceEdit};
use mopd_lang::check::allow;
use mopd_lang::diag::{Applicability, Fix};

use super::super::dispatch::RequestError;
use super::super::session::{ENTRY, Session};

// See `rename`.
#[allow(clippy::mutable_key_type)]
pub fn handle(session: &Session, params: CodeActionParams) -> Result<Vec<CodeActionOrCommand>, RequestError> {
    let wanted = params.context.only.as_ref();
    if wanted.is_some_and(|kinds| !kinds.iter().any(|kind| ["", "quickfix"].contains(&kind.as_str()))) {
        return Ok(Vec::new());
    }
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let (start, end) = (lines.offset(params.range.start) as u32, lines.offset(params.range.end) as u32);
    let mut actions = Vec::new();
    for diagnostic in &document.analysis.diagnostics {
        let span = diagnostic.primary.span;
        if span.file != ENTRY || span.end < start || end < span.start {
            continue;
        }
        let silence = allow::insertion(&document.analysis.sources, diagnostic);
        let certain = |fix: &Fix| fix.applicability == Applicability::Certain;
        let fixes = diagnostic
            .fix
            .iter()
            .chain(&diagnostic.choices)
            .map(|fix| (fix, certain(fix)))
            .chain(silence.iter().map(|fix| (fix, false)));
        for (fix, preferred) in fixes {
            let Some(place) = session.location(&document.analysis, fix.span) else { continue };
            let edit = TextEdit { range: place.range, new_text: fix.replacement.clone() };
            actions.push(CodeActionOrCommand::CodeAction(CodeAction {
                title: fix.title.clone(),
                kind: Some(CodeActionKind::QUICKFIX),
                diagnostics: Some(vec![session.diagnostic(document, diagnostic)]),
                edit: Some(WorkspaceEdit {
                    changes: Some(HashMap::from([(place.uri, vec![edit])])),
                    ..WorkspaceEdit::default()
                }),
                is_preferred: Some(preferred),
                ..CodeAction::default()
            }));
        }
    }
    Ok(actions)
}
