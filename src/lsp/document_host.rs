//! The surroundings of a document, read from the disk when completion needs them.

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use mopd_lang::ide::{FolderEntry, IdeHost, LibraryModule};

use super::session::{Document, Session};
use super::uri;
use crate::{data, host, paths};

/// The most proposed entries of a folder; data sets of images have more.
const ENTRIES_AT_MOST: usize = 1_000;
pub struct DocumentHost<'a> {
    session: &'a Session,
    document: &'a Document,
    /// `None` for a text that was never saved.
    folder: Option<PathBuf>,
}

impl<'a> DocumentHost<'a> {
    pub fn new(session: &'a Session, document: &'a Document) -> DocumentHost<'a> {
        let folder = uri::to_path(&document.uri).map(|path| host::folder_of(&path));
        DocumentHost { session, document, folder }
    }
}

impl IdeHost for DocumentHost<'_> {
    fn modules(&self) -> Vec<Rc<LibraryModule>> {
        self.session.libraries(self.document)
    }

    fn entries(&self, folder: &str) -> Vec<FolderEntry> {
        let Some(own) = &self.folder else { return Vec::new() };
        let entries = fs::read_dir(own.join(folder)).into_iter().flatten().flatten();
        let shown = entries.filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            // A link counts as its target.
            let is_folder = entry.path().is_dir();
            (!name.starts_with('.') && !name.contains(['"', '\\'])).then_some(FolderEntry { name, is_folder })
        });
        shown.take(ENTRIES_AT_MOST).collect()
    }

    fn cached_models(&self) -> Vec<String> {
        paths::cached_models()
    }

    fn fields(&self, path: &str) -> Vec<String> {
        self.folder.as_ref().map_or_else(Vec::new, |own| data::fields(own, path))
    }
}
