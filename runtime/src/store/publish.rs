//! The models in a folder of results: links to the store's files, or copies on another file system. Files
//! that are there and equal are left alone, and others are replaced whole: finished results stay finished,
//! however a later run in the folder ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mopd_plan::events::FailureKind;
use mopd_store::files::folder_of_model;
use mopd_store::links::{link_or_copy, seems_equal};
use mopd_store::write_whole;

use super::{ADAPTER_BESIDE, Store, checkpoint, is_of_model};
use crate::failure::{Error, Result};
use crate::formats::{huggingface, peft, safetensors};
use crate::tokenizer::Tokenizer;

/// What the files of a published model say besides its weights, as it is in the run that publishes it.
pub struct CurrentFiles<'a> {
    pub tokenizer: &'a Tokenizer,
    /// The place of the model that an adapter changes: a name on the hub, or a folder.
    pub adapter_base: Option<String>,
}

#[cfg(test)]
impl CurrentFiles<'_> {
    pub fn of(weights: &crate::model::Weights) -> CurrentFiles<'_> {
        CurrentFiles { tokenizer: &weights.tokenizer, adapter_base: None }
    }
}

impl Store {
    /// Whether all files of a model are in the folder of [`Store::publish`].
    pub fn is_published(&self, key: &str, out: &Path, model: &str, seed: u64) -> bool {
        let folder = out.join("models").join(folder_of_model(model, seed));
        let entry = self.path(key);
        let is_there = |name: &String| {
            let path = folder.join(name);
            // The content of the configuration is that of the run.
            if name == peft::CONFIG { path.exists() } else { seems_equal(&entry.join(name), &path) }
        };
        let sums = self.folder.checksums(key);
        sums.is_ok_and(|sums| sums.files.keys().filter(|name| is_fixed(name)).all(is_there))
    }

    /// Adds a finished model as `models/<name>-seed<seed>` to the folder of results. `current` has the
    /// content of files that the key does not cover.
    pub fn publish(
        &self,
        key: &str,
        out: &Path,
        model: &str,
        seed: u64,
        current: &CurrentFiles,
    ) -> Result<PathBuf> {
        let folder = out.join("models").join(folder_of_model(model, seed));
        let fill = || self.fill(&folder, key, current);
        // The user may delete the folder while it is filled, so this is tried twice.
        fill().or_else(|_| fill())?;
        Ok(folder)
    }

    fn fill(&self, folder: &Path, key: &str, current: &CurrentFiles) -> Result<()> {
        let entry = self.path(key);
        let sums = self.folder.checksums(key).map_err(|problem| {
            if let Some(deleted) = self.deleted(key) {
                return deleted;
            }
            Error::new(FailureKind::Storage, format!("cannot read {}: {problem}", entry.display()))
                .help("run again: damaged results are computed again")
        })?;
        let stored = || sums.files.keys().map(String::as_str);
        let written = written(&entry, current);
        let is_written = |name: &str| written.iter().any(|(known, _)| known == name);
        // Files of an earlier run would take precedence when the folder is loaded.
        let of_weights =
            [safetensors::MODEL, safetensors::INDEX, huggingface::CONFIG, peft::CONFIG, peft::MODEL];
        for name in of_weights {
            if !stored().any(|stored| stored == name) {
                remove(&folder.join(name))?;
            }
        }
        // Files of the tokenizer that were there when the model was made.
        for name in stored().filter(|name| checkpoint::is_of_tokenizer(name) && !is_written(name)) {
            remove(&folder.join(name))?;
        }
        // The adapter of another model, where earlier versions put it.
        let stale = folder.join(ADAPTER_BESIDE);
        if stale.exists() && !stored().any(|name| Path::new(name).starts_with(ADAPTER_BESIDE)) {
            fs::remove_dir_all(&stale).map_err(|error| Error::storage(&stale, error))?;
        }
        for (name, hash) in sums.files.iter().filter(|(name, _)| is_fixed(name) && !is_written(name)) {
            link_or_copy(&entry.join(name), &folder.join(name), hash)?;
        }
        for (name, content) in &written {
            let path = folder.join(name);
            if !fs::read(&path).is_ok_and(|known| known == *content) {
                // A new file: the old one may be a link to the store's.
                write_whole(&path, content)?;
            }
        }
        Ok(())
    }
}

/// Whether a file of an entry is one of a model that the key covers.
fn is_fixed(name: &str) -> bool {
    is_of_model(name) && !checkpoint::is_of_tokenizer(name)
}

/// The files whose content is that of the run.
fn written(entry: &Path, current: &CurrentFiles) -> Vec<(String, Vec<u8>)> {
    let mut files = checkpoint::tokenizer_files(current.tokenizer);
    let config =
        current.adapter_base.as_ref().and_then(|base| peft::with_base(&entry.join(peft::CONFIG), base));
    files.extend(config.map(|content| (peft::CONFIG.to_owned(), content)));
    files
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::storage(path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::model::tests::{random_model, tiny};
    use crate::report::Record;
    use crate::store::CheckpointProvenance;

    /// A copy, as on another file system, is not written again, and one that was cut off is.
    #[test]
    fn a_published_model_that_is_equal_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let weights = random_model(&tiny(), 1);
        let provenance = CheckpointProvenance::new(&weights, "m", 3, "key", Vec::new());
        store.insert("key", &provenance, &weights, &Record::default(), None).unwrap();
        let out = folder.path().join("out");
        let publish = || store.publish("key", &out, "m", 3, &CurrentFiles::of(&weights)).unwrap();
        let path = publish().join(safetensors::MODEL);
        let whole = fs::read(&path).unwrap();
        let inode = || fs::metadata(&path).unwrap().ino();
        let replace = |bytes: &[u8]| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        };
        replace(&whole);
        let copy = inode();
        publish();
        assert!(inode() == copy && store.is_published("key", &out, "m", 3));
        replace(&whole[..whole.len() / 2]);
        assert!(!store.is_published("key", &out, "m", 3));
        publish();
        assert!(store.is_published("key", &out, "m", 3) && fs::read(&path).unwrap() == whole);
    }
}
