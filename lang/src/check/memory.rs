//! What is kept of one analysis for the next, while a file is being written.

use std::collections::HashMap;

use crate::diag::Diagnostic;
use crate::source::FileId;
use crate::syntax::KnownFile;
use crate::syntax::ast::Module;

/// Belongs to whoever analyses the same file again and again. It knows the files of the last analysis and no others, so it grows
/// with them alone.
#[derive(Default)]
pub struct Memory {
    files: HashMap<String, Remembered>,
}

#[derive(Default)]
struct Remembered {
    known: KnownFile,
    /// Read by the analysis that is under way.
    used: bool,
}

impl Memory {
    /// The tree of a file, as [`crate::syntax::parse`] gives it.
    pub(super) fn parse(&mut self, path: &str, file: FileId, text: &str) -> (Module, Vec<Diagnostic>) {
        let remembered = match self.files.get_mut(path) {
            Some(remembered) => remembered,
            None => self.files.entry(path.to_owned()).or_default(),
        };
        remembered.used = true;
        remembered.known.parse(file, text)
    }

    /// Forgets the files that the analysis had no use for.
    pub(super) fn finish(&mut self) {
        self.files.retain(|_, remembered| std::mem::take(&mut remembered.used));
    }
}
