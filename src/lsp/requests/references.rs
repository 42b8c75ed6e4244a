//! References: in this file, in its imports, and in the files that import its declaration, which are open or
//! in the editor's folders.

use lsp_server::ErrorCode;
use lsp_types::{Location, ReferenceParams};
use mopd_lang::check::Analysis;
use mopd_lang::check::index::SymbolId;
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::{Document, ENTRY, RefreshInterruption, Session};

pub fn handle(session: &Session, params: ReferenceParams) -> Result<Option<Vec<Location>>, RequestError> {
    let (document, _, offset) = super::place(session, &params.text_document_position)?;
    let Some(id) = ide::declared_target(&document.analysis, ENTRY, offset) else { return Ok(None) };
    let closed = closed(session, document, id).map_err(|why| refused(why, "looked up"))?;
    Ok(Some(everywhere(session, document, &closed, id, params.context.include_declaration)))
}

/// Every place that names the symbol, in the analyses of open documents and of closed files, each once,
/// sorted.
pub fn everywhere(
    session: &Session,
    document: &Document,
    closed: &[Analysis],
    id: SymbolId,
    with_declaration: bool,
) -> Vec<Location> {
    let mut found = Vec::new();
    for (analysis, id) in views(session, document, closed, id) {
        let spans = ide::references(analysis, id, with_declaration);
        found.extend(spans.into_iter().filter_map(|span| session.location(analysis, span)));
    }
    found.sort_by(|a, b| (a.uri.as_str(), a.range.start).cmp(&(b.uri.as_str(), b.range.start)));
    found.dedup();
    found
}

/// The analyses of closed files that may name the symbol. Only public symbols can be named in other files.
pub fn closed(
    session: &Session,
    document: &Document,
    id: SymbolId,
) -> Result<Vec<Analysis>, RefreshInterruption> {
    let symbol = document.analysis.index.symbol(id);
    if symbol.public || symbol.owner.is_some() { session.closed_naming(&symbol.name) } else { Ok(Vec::new()) }
}

/// An incomplete result is an error. `done` says what was to be done with the name.
pub fn refused(why: RefreshInterruption, done: &str) -> RequestError {
    match why {
        RefreshInterruption::Changed => RequestError {
            code: ErrorCode::ContentModified,
            message: format!("the text has changed since: nothing was {done}"),
        },
        RefreshInterruption::OutOfTime => RequestError::refused(format!(
            "not all files of the editor's folders could be read in time: nothing was {done}; open a smaller \
             folder"
        )),
    }
}

/// The symbol in each analysis, found by the file and place of its declaration.
pub fn views<'a>(
    session: &'a Session,
    document: &'a Document,
    closed: &'a [Analysis],
    id: SymbolId,
) -> impl Iterator<Item = (&'a Analysis, SymbolId)> {
    let span = document.analysis.index.symbol(id).span;
    let path = &document.analysis.sources.file(span.file).path;
    session.documents().map(|other| &other.analysis).chain(closed).filter_map(move |analysis| {
        let (file, _) = analysis.sources.files().find(|(_, file)| file.path == *path)?;
        let id = analysis.index.declared_at(mopd_lang::source::Span { file, ..span })?;
        Some((analysis, id))
    })
}
