//! Workspace symbols: items by name, in the open files, their imports, and the other files of the
//! editor's folders.

use std::collections::HashSet;

use lsp_types::{Location, SymbolInformation, WorkspaceSymbolParams};
use mopd_lang::ide;

use super::super::convert::LineIndex;
use super::super::dispatch::RequestError;
use super::super::session::Session;
use super::document_symbols::information;

pub fn handle(
    session: &Session,
    params: WorkspaceSymbolParams,
) -> Result<Vec<SymbolInformation>, RequestError> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for document in session.documents() {
        for (file, source) in document.analysis.sources.files() {
            if !seen.insert(source.path.clone()) {
                continue;
            }
            for outline in ide::outline(&document.analysis, file) {
                if outline.kind.is_some() && matches(&outline.name, &params.query) {
                    found.extend(
                        session
                            .location(&document.analysis, outline.extent)
                            .map(|place| information(&outline, place)),
                    );
                }
            }
        }
    }
    for file in session.closed_files() {
        if !seen.insert(file.path.clone()) {
            continue;
        }
        let Some(address) = session.uri(&file.path) else { continue };
        let lines = LineIndex::new(&file.text, session.client.encoding);
        for outline in ide::declarations(&file.text) {
            if matches(&outline.name, &params.query) {
                found.push(information(
                    &outline,
                    Location::new(address.clone(), lines.range_of(outline.extent)),
                ));
            }
        }
    }
    Ok(found)
}

/// Whether a name contains a query's letters in order: editors filter in the same way as more is typed.
fn matches(name: &str, query: &str) -> bool {
    let mut letters = name.chars().flat_map(char::to_lowercase);
    query.chars().flat_map(char::to_lowercase).all(|wanted| letters.any(|letter| letter == wanted))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn letters_in_order_match() {
        assert!(matches("mopd_top_k", "mtk") && matches("Mopd", "mopd") && matches("x", ""));
        assert!(!matches("mopd", "dm"));
    }
}
