//! The requests, one file each: each converts between the protocol and a function of `mopd_lang::ide`.

pub mod code_actions;
pub mod code_lens;
pub mod completion;
pub mod definition;
pub mod document_symbols;
pub mod folding;
pub mod formatting;
pub mod highlight;
pub mod hover;
pub mod inlay_hints;
pub mod links;
pub mod references;
pub mod rename;
pub mod selection;
pub mod semantic_tokens;
pub mod signature;
pub mod workspace_symbols;

use lsp_types::{MarkupContent, MarkupKind, SymbolKind, TextDocumentPositionParams};
use mopd_lang::check::index;

use super::convert::LineIndex;
use super::dispatch::RequestError;
use super::session::{Document, RefreshInterruption, Session};

/// The document of a request.
fn document<'a>(session: &'a Session, uri: &lsp_types::Uri) -> Result<&'a Document, RequestError> {
    session.document(uri).ok_or_else(|| RequestError::refused(format!("{} is not open", uri.as_str())))
}

/// The document of a request, its line index, and the byte offset of the position.
fn place<'a>(
    session: &'a Session,
    params: &TextDocumentPositionParams,
) -> Result<(&'a Document, LineIndex<'a>, u32), RequestError> {
    let document = document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let offset = lines.offset(params.position) as u32;
    Ok((document, lines, offset))
}

/// A part of a response, left out if it takes too long. A text that has changed meanwhile is an error.
fn in_time<T>(found: Result<T, RefreshInterruption>) -> Result<Option<T>, RequestError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(RefreshInterruption::OutOfTime) => Ok(None),
        Err(changed @ RefreshInterruption::Changed) => Err(references::refused(changed, "answered")),
    }
}

fn markdown(value: String) -> MarkupContent {
    MarkupContent { kind: MarkupKind::Markdown, value }
}

/// The most similar kind of the protocol.
fn symbol_kind(kind: Option<index::SymbolKind>) -> SymbolKind {
    use index::SymbolKind as Kind;
    match kind {
        Some(Kind::Fn | Kind::Stage | Kind::Divergence | Kind::Step) => SymbolKind::FUNCTION,
        Some(Kind::Objective) => SymbolKind::CLASS,
        Some(Kind::Domain) => SymbolKind::NAMESPACE,
        Some(Kind::Model | Kind::Teacher | Kind::Panel | Kind::Trained) => SymbolKind::OBJECT,
        Some(Kind::Term) => SymbolKind::FIELD,
        Some(Kind::Let | Kind::Schedule | Kind::Reward | Kind::Template | Kind::Rollout | Kind::Eval) => {
            SymbolKind::CONSTANT
        }
        Some(
            Kind::Param
            | Kind::Parameter
            | Kind::LocalLet
            | Kind::State
            | Kind::Turn
            | Kind::Carried
            | Kind::Where,
        ) => SymbolKind::VARIABLE,
        None => SymbolKind::MODULE,
    }
}
