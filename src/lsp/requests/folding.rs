//! Folding ranges.

use lsp_types::{FoldingRange, FoldingRangeKind, FoldingRangeParams};
use mopd_lang::ide::{self, FoldKind};

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: FoldingRangeParams) -> Result<Vec<FoldingRange>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let lines = session.lines(document);
    let folds = ide::folds(&document.text).into_iter().map(|fold| {
        let (start, mut end) = (lines.position(fold.start), lines.position(fold.end));
        // The line of the closing bracket stays visible.
        if fold.kind == FoldKind::Region {
            end.line -= 1;
        }
        FoldingRange {
            start_line: start.line,
            end_line: end.line,
            kind: Some(match fold.kind {
                FoldKind::Region => FoldingRangeKind::Region,
                FoldKind::Comment => FoldingRangeKind::Comment,
                FoldKind::Imports => FoldingRangeKind::Imports,
            }),
            ..FoldingRange::default()
        }
    });
    Ok(folds.filter(|fold| fold.start_line < fold.end_line).collect())
}
