//! The trees of a file that is being edited and of its imports, kept between analyses.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::Diagnostic;
use crate::source::FileId;
use crate::syntax::KnownFile;
use crate::syntax::ast::Module;

/// The parsed files of the last analysis, for the next one of the same entry file: items that have not
/// changed are not parsed again.
#[derive(Default)]
pub struct ParseCache {
    /// By path.
    files: FxHashMap<String, CachedFile>,
}

#[derive(Default)]
struct CachedFile {
    parsed: KnownFile,
    /// Whether the current analysis has read the file.
    read: bool,
}

impl ParseCache {
    /// The tree of a file, as [`crate::syntax::parse`] gives it.
    pub fn parse(&mut self, path: &str, file: FileId, text: &str) -> (Rc<Module>, Vec<Diagnostic>) {
        let cached = match self.files.get_mut(path) {
            Some(cached) => cached,
            None => self.files.entry(path.to_owned()).or_default(),
        };
        cached.read = true;
        cached.parsed.unchanged(file, text).unwrap_or_else(|| cached.parsed.parse(file, text))
    }

    /// Drops the files that were not read since the last call, so that the cache does not grow.
    pub(super) fn forget_unread(&mut self) {
        self.files.retain(|_, file| std::mem::take(&mut file.read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_has_the_files_of_the_last_analysis_only() {
        let mut cache = ParseCache::default();
        for paths in [&["a", "b"][..], &["b", "c"]] {
            for (number, path) in paths.iter().enumerate() {
                cache.parse(path, FileId(number as u32), "let x = 1\n");
            }
            cache.forget_unread();
            let mut paths_left: Vec<&str> = cache.files.keys().map(String::as_str).collect();
            paths_left.sort_unstable();
            assert_eq!(paths_left, paths);
        }
    }
}
