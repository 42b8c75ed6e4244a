//! Data that a serving worker keeps in memory between runs: rows as read, and prompts as tokens. A file with
//! the same path, length and times is assumed to be unchanged.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mopd_store::content::FileStamp;

use crate::failure::Result;
use crate::prepare::prompts::Prompts;

#[derive(Default)]
pub struct DataCache {
    data: Mutex<Vec<CachedData>>,
}

struct CachedData {
    /// The request as text, which is the key.
    request: String,
    files: Vec<(PathBuf, FileStamp)>,
    prompts: Arc<Prompts>,
    /// Whether it was used since the last [`DataCache::forget_unused`].
    used: bool,
}

impl DataCache {
    /// Returns the cached data of an equal `request` if its files are unchanged, else the result of `read`.
    /// `files` is called first and lists the files that `read` would read.
    pub fn prompts(
        &self,
        request: &str,
        files: impl FnOnce() -> Vec<PathBuf>,
        read: impl FnOnce() -> Result<Prompts>,
    ) -> Result<Arc<Prompts>> {
        // Stamped before reading: a file that changes meanwhile is read again the next time.
        let files = identified(files());
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &files
            && let Some(kept) = data.iter_mut().find(|kept| kept.request == request && kept.files == *files)
        {
            kept.used = true;
            return Ok(Arc::clone(&kept.prompts));
        }
        let prompts = Arc::new(read()?);
        data.retain(|kept| kept.request != request);
        if let Some(files) = files {
            data.push(CachedData {
                request: request.to_owned(),
                files,
                prompts: Arc::clone(&prompts),
                used: true,
            });
        }
        Ok(prompts)
    }

    /// Drops the data that was not used since the last call.
    pub fn forget_unused(&self) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.retain_mut(|kept| std::mem::take(&mut kept.used));
    }
}

/// Stamps the files; none if one can't be accessed, which reading it will report.
fn identified(files: Vec<PathBuf>) -> Option<Vec<(PathBuf, FileStamp)>> {
    let stamped = |path: PathBuf| {
        let stamp = FileStamp::from_metadata(&fs::metadata(&path).ok()?);
        Some((path, stamp))
    };
    files.into_iter().map(stamped).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use mopd_plan::{DataSource, PromptFormat};

    use super::*;
    use crate::data::{Dataset, DatasetRequest};

    #[test]
    fn unchanged_data_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let line = |prompt: &str| format!("{{\"prompt\": \"{prompt}\"}}\n");
        fs::write(&path, line("one")).unwrap();
        let (cache, reads) = (DataCache::default(), Cell::new(0));
        let first = |request: &str| {
            let read = || {
                reads.set(reads.get() + 1);
                let (source, format) = (DataSource::file("a.jsonl"), PromptFormat::Text);
                let request = DatasetRequest {
                    source: &source,
                    format: &format,
                    fields: &[],
                    whole: false,
                    routes: &[],
                    numbers: &[],
                    notes: None,
                };
                Ok(Prompts::new(Dataset::read(Path::new(folder.path()), request)?))
            };
            cache.prompts(request, || vec![path.clone()], read).unwrap().dataset.prompt(0).to_owned()
        };
        assert_eq!([first("a"), first("a")], ["one", "one"]);
        assert_eq!(reads.get(), 1);
        assert_eq!((first("b"), reads.get()), ("one".to_owned(), 2), "other fields of it, for example");
        // Replaced by renaming, as editors save.
        fs::write(folder.path().join("new"), line("two")).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((first("a"), reads.get()), ("two".to_owned(), 3));
        cache.forget_unused();
        first("a");
        cache.forget_unused();
        assert_eq!(reads.get(), 3);
        first("b");
        assert_eq!(reads.get(), 4, "nobody asked for it between two runs");
    }
}
