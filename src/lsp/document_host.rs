//! The surroundings of a document, read from the disk when completion needs them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::rc::Rc;

use mopd_lang::ide::{FolderEntry, IdeHost, LibraryModule};

use super::session::{Document, Session};
use super::uri;
use crate::{host, paths};

/// The most proposed entries of a folder; data sets of images have more.
const ENTRIES_AT_MOST: usize = 1_000;
/// The number of rows whose fields are proposed, and the most bytes that are read for them.
const ROWS: usize = 20;
const BYTES: u64 = 1 << 20;

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
        let Some(file) = self.folder.as_ref().map(|own| own.join(path)) else { return Vec::new() };
        // Reading a pipe would block.
        if !file.is_file() {
            return Vec::new();
        }
        let Ok(file) = fs::File::open(file) else { return Vec::new() };
        let rows = BufReader::new(file.take(BYTES)).lines().take(ROWS);
        let mut fields = BTreeSet::new();
        for row in rows.map_while(Result::ok) {
            if let Ok(serde_json::Value::Object(row)) = serde_json::from_str(&row) {
                fields.extend(row.into_iter().map(|(field, _)| field));
            }
        }
        // A field with another name needs `columns(...)`.
        let is_name = |field: &String| {
            field.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && field.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        fields.into_iter().filter(is_name).collect()
    }
}
