//! What stands around a file and is read by the host alone: modules, files, rows of data. Completion asks for
//! it only where it can stand.

use std::rc::Rc;

use super::LibraryModule;

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderEntry {
    pub name: String,
    pub is_folder: bool,
}

/// Paths are relative to the folder of the file that is being completed.
pub trait Surroundings {
    /// The modules that a `use` may name.
    fn modules(&self) -> Vec<Rc<LibraryModule>>;

    /// What a folder holds; the file's own is `""`.
    fn entries(&self, _folder: &str) -> Vec<FolderEntry> {
        Vec::new()
    }

    /// The models that `hf(...)` finds on this machine, by their names on the hub.
    fn cached_models(&self) -> Vec<String> {
        Vec::new()
    }

    /// The fields that the rows of a file have.
    fn fields(&self, _path: &str) -> Vec<String> {
        Vec::new()
    }
}
