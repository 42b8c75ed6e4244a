//! Where the files of a source are: beside the experiment, or in the cache of the Hugging Face hub.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mopd_plan::DataSource;
use mopd_store::named::{self, RepositoryKind, is_repository};
use mopd_store::regular;

use crate::error::{DataError, DataProblem};
use crate::files::{self, DataFile, FileTree, path_as_written};

/// Most bytes of the list of a repository's files.
const LONGEST_LIST: u64 = 32 << 20;

/// The files of a source.
pub struct SourceFiles {
    /// As the author named it, relative to the command's working folder; a name on the hub as it is.
    pub name: PathBuf,
    pub files: Vec<DataFile>,
}

/// The files that a source names now.
pub fn files_of(base: &Path, source: &DataSource) -> Result<SourceFiles, DataError> {
    let split = source.split.as_deref();
    let Some(dataset) = HubDataset::of_source(base, source) else {
        let name = path_as_written(base, &source.path);
        let files = files::find(&name, split)?;
        return match &source.revision {
            Some(revision) => {
                Err(DataError::of_file(&name, DataProblem::NoRevision { revision: revision.clone() }))
            }
            None => Ok(SourceFiles { name, files }),
        };
    };
    let name = PathBuf::from(&source.path);
    let cached = named::hub_cache().ok_or_else(|| dataset.not_fetched());
    let paths = cached.and_then(|cache| dataset.cached(&cache, split));
    let paths = paths.map_err(|problem| DataError::of_file(&name, problem))?;
    Ok(SourceFiles { name, files: files::with_layouts(paths)? })
}

/// A data set on the hub: `openai/gsm8k`, or `openai/gsm8k/main`, one of its subsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubDataset<'a> {
    pub repository: &'a str,
    subset: Option<&'a str>,
    pub revision: &'a str,
}

impl<'a> HubDataset<'a> {
    /// `None` where the source is something beside the experiment. Data sets of the hub have splits, so a
    /// name without a split or a revision is a path, and so is one whose first folder exists.
    pub fn of_source(base: &Path, source: &'a DataSource) -> Option<HubDataset<'a>> {
        HubDataset::named(base, &source.path, source.split.as_deref(), source.revision.as_deref())
    }

    /// The same of the parts of a source.
    pub fn named(
        base: &Path,
        path: &'a str,
        split: Option<&str>,
        revision: Option<&'a str>,
    ) -> Option<HubDataset<'a>> {
        let first = path.split('/').next().unwrap_or_default();
        if split.is_none() && revision.is_none()
            || base.join(first).exists()
            || files::names_data(Path::new(path))
        {
            return None;
        }
        let (repository, subset) = match path.match_indices('/').nth(1) {
            Some((slash, _)) => (&path[..slash], Some(&path[slash + 1..])),
            None => (path, None),
        };
        let named = repository.contains('/') && is_repository(repository) && subset.is_none_or(is_plain);
        let revision = revision.unwrap_or("main");
        named.then_some(HubDataset { repository, subset, revision })
    }

    /// The files of a split in a cache.
    ///
    /// # Errors
    /// [`DataProblem::NotFetched`] where one of them is not there.
    pub fn cached(&self, cache: &Path, split: Option<&str>) -> Result<Vec<PathBuf>, DataProblem> {
        let kind = RepositoryKind::Dataset;
        let revision = Some(self.revision).filter(|revision| named::is_revision(revision));
        let commit = revision
            .and_then(|revision| named::cached_commit(cache, kind, self.repository, revision))
            .ok_or_else(|| self.not_fetched())?;
        let snapshot = named::snapshot(cache, kind, self.repository, &commit);
        let list = regular::read(&self.list(cache, &commit), LONGEST_LIST).ok();
        let names = list.and_then(|list| serde_json::from_slice::<Vec<String>>(&list).ok());
        match names {
            Some(names) => {
                let paths = self.chosen(&snapshot, &names, split)?;
                if paths.iter().all(|path| path.is_file()) { Ok(paths) } else { Err(self.not_fetched()) }
            }
            // Another program has fetched it, and perhaps only in part.
            None => {
                files::of_folder(FileTree::Disk, &self.root(&snapshot), split).map_err(|_| self.not_fetched())
            }
        }
    }

    /// The files of a split among all `names` of a repository's commit, as paths in the commit's folder.
    pub fn chosen(
        &self,
        snapshot: &Path,
        names: &[String],
        split: Option<&str>,
    ) -> Result<Vec<PathBuf>, DataProblem> {
        let files: BTreeSet<PathBuf> =
            names.iter().filter(|name| is_plain(name)).map(|name| snapshot.join(name)).collect();
        files::of_folder(FileTree::Listed(&files), &self.root(snapshot), split)
    }

    /// The file with the names of all files of a commit.
    pub fn list(&self, cache: &Path, commit: &str) -> PathBuf {
        let repository = named::repository(cache, RepositoryKind::Dataset, self.repository);
        repository.join("lists").join(format!("{commit}.json"))
    }

    fn root(&self, snapshot: &Path) -> PathBuf {
        self.subset.map_or_else(|| snapshot.to_owned(), |subset| snapshot.join(subset))
    }

    fn not_fetched(&self) -> DataProblem {
        DataProblem::NotFetched { revision: self.revision.to_owned() }
    }
}

/// Whether a name of the hub is a path within a repository.
fn is_plain(name: &str) -> bool {
    named::stays_inside(name) && !name.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "1111111111111111111111111111111111111111";

    fn source(path: &str, split: Option<&str>, revision: Option<&str>) -> DataSource {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        DataSource { split: owned(split), revision: owned(revision), ..DataSource::file(path) }
    }

    #[test]
    fn a_name_is_of_the_hub_where_nothing_beside_the_experiment_has_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let parts = |path: &str, split: Option<&str>, revision: Option<&str>| {
            let source = source(path, split, revision);
            HubDataset::of_source(folder.path(), &source).map(|dataset| {
                let HubDataset { repository, subset, revision } = dataset;
                [repository, subset.unwrap_or_default(), revision].map(str::to_owned)
            })
        };
        let plain = parts("openai/gsm8k", Some("train"), None);
        assert_eq!(plain.unwrap(), ["openai/gsm8k", "", "main"]);
        let whole = parts("openai/gsm8k/main", None, Some("v1"));
        assert_eq!(whole.unwrap(), ["openai/gsm8k", "main", "v1"]);
        for path in ["data/gsm8k", "gsm8k", "openai/train.jsonl", "../up/gsm8k", "/abs/gsm8k", "a/b/../c"] {
            assert_eq!(parts(path, Some("train"), None), None, "{path}");
        }
        assert_eq!(parts("openai/gsm8k", None, None), None);
    }

    #[test]
    fn a_cache_answers_for_what_it_has_as_a_whole() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("datasets--org--sums");
        let snapshot = repository.join("snapshots").join(COMMIT);
        let put = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let source = source("org/sums/main", Some("train"), None);
        let dataset = HubDataset::of_source(Path::new("/nowhere"), &source).unwrap();
        let cached = |split: &str| dataset.cached(cache.path(), Some(split));
        let absent = || Err(dataset.not_fetched());
        assert_eq!(cached("train"), absent());
        put(repository.join("refs/main"), COMMIT);
        let parts = [0, 1].map(|part| snapshot.join(format!("main/train-0000{part}-of-00002.jsonl")));
        put(parts[0].clone(), "{}");
        // As another program has it: one of two parts, then both.
        assert_eq!(cached("train"), absent());
        put(parts[1].clone(), "{}");
        assert_eq!(cached("train").unwrap(), parts);
        assert_eq!(cached("test"), absent());
        // As `mopd` has it: the list says what there is.
        let names = ["main/train-00000-of-00002.jsonl", "main/train-00001-of-00002.jsonl", "main/test.jsonl"];
        let names = [&names[..], &["../../../escaped.jsonl", "/main/train.jsonl"]].concat();
        put(dataset.list(cache.path(), COMMIT), &serde_json::to_string(&names).unwrap());
        assert_eq!(cached("train").unwrap(), parts);
        assert_eq!(cached("test"), absent());
        fs::remove_file(&parts[1]).unwrap();
        assert_eq!(cached("train"), absent());
        assert!(matches!(cached("validation"), Err(DataProblem::NoSuchSplit { .. })));
    }
}
