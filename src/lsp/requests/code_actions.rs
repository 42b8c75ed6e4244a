//! Quick fixes: the fix of a diagnostic, the choices between several, and for a warning the comment that
//! silences it; all certain fixes of a file; and changes that are offered without a mistake.

use std::collections::HashMap;

use lsp_types::{CodeAction, CodeActionKind, CodeActionOrCommand, CodeActionParams, TextEdit, WorkspaceEdit};
use mopd_lang::check::allow;
use mopd_lang::diag::{Applicability, Fix, compatible};
use mopd_lang::ide::refactorings;
use mopd_lang::source::Span;

use super::super::dispatch::RequestError;
use super::super::session::{Document, ENTRY, Session};

// See `rename`.
#[allow(clippy::mutable_key_type)]
pub fn handle(session: &Session, params: CodeActionParams) -> Result<Vec<CodeActionOrCommand>, RequestError> {
    let wanted = params.context.only.as_ref();
    // A kind contains those that begin with it: `source` asks for `source.fixAll` too.
    let asked = |kind: &CodeActionKind| {
        wanted.is_none_or(|kinds| {
            let mut kinds = kinds.iter().map(CodeActionKind::as_str);
            kinds.any(|asked| {
                asked.is_empty() || kind.as_str() == asked || kind.as_str().starts_with(&format!("{asked}."))
            })
        })
    };
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let (start, end) = (lines.offset(params.range.start) as u32, lines.offset(params.range.end) as u32);
    let mut actions = Vec::new();
    if asked(&CodeActionKind::QUICKFIX) {
        actions.extend(fixes(session, document, start, end));
    }
    if asked(&CodeActionKind::REFACTOR) {
        for found in refactorings(&document.analysis, start) {
            actions.extend(action(session, document, found.title, CodeActionKind::REFACTOR, found.edits));
        }
    }
    // Asked for when a file is saved, and by a command; among what is offered at a place it would be noise.
    if wanted.is_some() && asked(&CodeActionKind::SOURCE_FIX_ALL) {
        let certain = |fix: &Fix| fix.applicability == Applicability::Certain;
        let fixes = compatible(ENTRY, &document.analysis.diagnostics, certain).into_iter();
        let edits: Vec<(Span, String)> = fixes.map(|fix| (fix.span, fix.replacement.clone())).collect();
        if !edits.is_empty() {
            let title = "apply all certain fixes".to_owned();
            actions.extend(action(session, document, title, CodeActionKind::SOURCE_FIX_ALL, edits));
        }
    }
    Ok(actions)
}

/// An action that changes the document.
#[allow(clippy::mutable_key_type)]
fn action(
    session: &Session,
    document: &Document,
    title: String,
    kind: CodeActionKind,
    edits: Vec<(Span, String)>,
) -> Option<CodeActionOrCommand> {
    let mut uri = None;
    let mut changes = Vec::new();
    for (span, new_text) in edits {
        let place = session.location(&document.analysis, span)?;
        changes.push(TextEdit { range: place.range, new_text });
        uri = Some(place.uri);
    }
    let changes = Some(HashMap::from([(uri?, changes)]));
    let edit = Some(WorkspaceEdit { changes, ..WorkspaceEdit::default() });
    Some(CodeActionOrCommand::CodeAction(CodeAction {
        title,
        kind: Some(kind),
        edit,
        ..CodeAction::default()
    }))
}

/// The fixes of the diagnostics at a place.
#[allow(clippy::mutable_key_type)]
fn fixes(session: &Session, document: &Document, start: u32, end: u32) -> Vec<CodeActionOrCommand> {
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
    actions
}
