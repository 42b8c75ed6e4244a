//! Go to definition, including the standard library.

use lsp_types::{GotoDefinitionParams, GotoDefinitionResponse, LocationLink};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(
    session: &Session,
    params: GotoDefinitionParams,
) -> Result<Option<GotoDefinitionResponse>, RequestError> {
    let (document, lines, offset) = super::place(session, &params.text_document_position_params)?;
    let Some(found) = ide::definition(&document.analysis, offset) else { return Ok(None) };
    let Some(name) = session.location(&document.analysis, found.name) else { return Ok(None) };
    if !session.client.links {
        return Ok(Some(GotoDefinitionResponse::Scalar(name)));
    }
    let extent = session.location(&document.analysis, found.extent).map_or(name.range, |extent| extent.range);
    Ok(Some(GotoDefinitionResponse::Link(vec![LocationLink {
        origin_selection_range: Some(lines.range_of(found.from)),
        target_uri: name.uri,
        target_range: extent,
        target_selection_range: name.range,
    }])))
}
