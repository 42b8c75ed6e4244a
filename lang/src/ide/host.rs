//! The surroundings of a file, which only the host can read: modules, files, rows of data. Completion reads
//! them only at places that accept them.

use std::rc::Rc;

use super::LibraryModule;

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderEntry {
    pub name: String,
    pub is_folder: bool,
}

/// The host's side of completion. Paths are relative to the folder of the completed file.
pub trait IdeHost {
    /// The modules that a `use` may name.
    fn modules(&self) -> Vec<Rc<LibraryModule>>;

    /// The entries of a folder; `""` is the folder of the file.
    fn entries(&self, _folder: &str) -> Vec<FolderEntry> {
        Vec::new()
    }

    /// The names of the hub's models that are on this machine, for `hf(...)`.
    fn cached_models(&self) -> Vec<String> {
        Vec::new()
    }

    /// The fields of the rows of a file.
    fn fields(&self, _path: &str) -> Vec<String> {
        Vec::new()
    }
}
