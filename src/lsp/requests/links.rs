//! Links to data, scripts, modules and papers.

use lsp_types::{DocumentLink, DocumentLinkParams, Uri};
use mopd_lang::ide::{self, Destination};

use super::super::dispatch::RequestError;
use super::super::session::Session;
use super::super::uri;
use crate::host;

pub fn handle(session: &Session, params: DocumentLinkParams) -> Result<Vec<DocumentLink>, RequestError> {
    let document = super::document(session, &params.text_document.uri)?;
    let folder = uri::to_path(&document.uri).map(|path| host::folder_of(&path));
    let lines = session.lines(document);
    let mut found: Vec<DocumentLink> = Vec::new();
    let mut end = 0;
    for link in ide::links(&document.text, &document.analysis) {
        // It is part of a link already.
        if link.start < end {
            continue;
        }
        let (target, tooltip) = match &link.to {
            // For a link to a missing file, editors would offer to create it: missing files are reported when
            // they are needed.
            Destination::File(name) => (
                folder
                    .as_ref()
                    .map(|folder| folder.join(name))
                    .filter(|file| file.is_file())
                    .and_then(|file| uri::of_path(&file)),
                None,
            ),
            Destination::Module(file) => (session.uri(&document.analysis.sources.file(*file).path), None),
            Destination::Paper(id) => {
                (format!("https://arxiv.org/abs/{id}").parse::<Uri>().ok(), Some(format!("arXiv:{id}")))
            }
        };
        let Some(target) = target else { continue };
        end = link.end;
        found.push(DocumentLink {
            range: lines.range(link.start as usize, link.end as usize),
            target: Some(target),
            tooltip,
            data: None,
        });
    }
    Ok(found)
}
