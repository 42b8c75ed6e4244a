//! Signature help for the call around the cursor.

use lsp_types::{
    Documentation, ParameterInformation, ParameterLabel, SignatureHelp, SignatureHelpParams,
    SignatureInformation,
};
use mopd_lang::ide;

use super::super::dispatch::RequestError;
use super::super::session::Session;

pub fn handle(session: &Session, params: SignatureHelpParams) -> Result<Option<SignatureHelp>, RequestError> {
    let (document, _, offset) = super::place(session, &params.text_document_position_params)?;
    let Some(found) = ide::signature_help(&document.text, offset, &document.analysis) else {
        return Ok(None);
    };
    // Offsets into a label are always in UTF-16 units.
    let units = |at: usize| found.label[..at].encode_utf16().count() as u32;
    let parameters = found.parameters.iter().map(|(start, end)| ParameterInformation {
        label: ParameterLabel::LabelOffsets([units(*start), units(*end)]),
        documentation: None,
    });
    // An index past the last parameter highlights none.
    let active = Some(found.active.unwrap_or(found.parameters.len()) as u32);
    let signature = SignatureInformation {
        parameters: Some(parameters.collect()),
        documentation: (!found.doc.is_empty())
            .then(|| Documentation::MarkupContent(super::markdown(found.doc.clone()))),
        active_parameter: active,
        label: found.label,
    };
    Ok(Some(SignatureHelp {
        signatures: vec![signature],
        active_signature: Some(0),
        active_parameter: active,
    }))
}
