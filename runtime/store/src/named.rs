//! Resolves the name in `hf("...")`: a local folder, or a repository of the Hugging Face hub, and finds
//! repositories in the hub's cache. Checks and runs both use this module, so that they agree.

use std::env;
use std::path::{Component, Path, PathBuf};

use crate::files::names_beside;
use crate::regular;

/// Limit in bytes of a file that names a commit.
const SMALL: u64 = 1 << 16;

/// What a repository of the hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryKind {
    Model,
    Dataset,
}

impl RepositoryKind {
    /// The word in addresses of the hub, and before names in its cache.
    pub fn plural(self) -> &'static str {
        match self {
            RepositoryKind::Model => "models",
            RepositoryKind::Dataset => "datasets",
        }
    }
}

/// The meaning of a model's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedModel {
    Folder(PathBuf),
    /// There is no folder of that name, but it is a valid name of a repository: `organisation/model`.
    Repository,
    /// Neither: this folder does not exist, and names like `./a`, `../a`, `/a`, `~/a` and `a/b/c` are not
    /// names of repositories.
    Nowhere(PathBuf),
}

impl NamedModel {
    /// A folder is relative to `base`.
    pub fn resolve(name: &str, base: &Path) -> NamedModel {
        let folder = base.join(name);
        match (folder.is_dir(), is_repository(name)) {
            (true, _) => NamedModel::Folder(folder),
            (false, true) => NamedModel::Repository,
            (false, false) => NamedModel::Nowhere(folder),
        }
    }
}

/// The folders beside the named one, written in the same way, for suggestions.
pub fn folders_beside(name: &str, base: &Path) -> Vec<String> {
    let path = base.join(name);
    let names = names_beside(&path).unwrap_or_default().into_iter();
    let folders = names.filter(|beside| path.with_file_name(beside).is_dir());
    folders.map(|beside| Path::new(name).with_file_name(beside).display().to_string()).collect()
}

/// Whether it is `organisation/model`, or only `model`, as some old repositories are named.
pub fn is_repository(name: &str) -> bool {
    let mut parts = name.split('/');
    let plain = |part: &str| {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        !part.is_empty()
            && part.chars().all(allowed)
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.len() <= 96
    };
    parts.by_ref().take(2).all(plain) && parts.next().is_none()
}

/// The folder of the hub's tools, with the token; `None` without a home folder.
pub fn hub_home() -> Option<PathBuf> {
    set("HF_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface")))
}

/// The cache of the hub, with a folder per repository; `None` without a home folder.
pub fn hub_cache() -> Option<PathBuf> {
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| hub_home().map(|home| home.join("hub")))
}

/// The folder of a repository in a cache of the hub.
pub fn repository(cache: &Path, kind: RepositoryKind, name: &str) -> PathBuf {
    cache.join(format!("{}--{}", kind.plural(), name.replace('/', "--")))
}

/// The folder of a repository's commit.
pub fn snapshot(cache: &Path, kind: RepositoryKind, name: &str, commit: &str) -> PathBuf {
    repository(cache, kind, name).join("snapshots").join(commit)
}

/// The commit of a repository's revision, according to a cache.
pub fn cached_commit(cache: &Path, kind: RepositoryKind, name: &str, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_owned());
    }
    let commit = regular::read(&repository(cache, kind, name).join("refs").join(revision), SMALL).ok()?;
    let commit = String::from_utf8(commit).ok()?;
    let commit = commit.trim();
    is_commit(commit).then(|| commit.to_owned())
}

/// Whether it may be a branch, a tag or a commit.
pub fn is_revision(text: &str) -> bool {
    stays_inside(text) && !text.chars().any(|character| character.is_whitespace() || character.is_control())
}

/// Whether a path stays in the folder that it is joined to.
pub fn stays_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_a_folder_a_repository_or_nothing() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path();
        fs::create_dir_all(base.join("models/small")).unwrap();
        let of = |name: &str| NamedModel::resolve(name, base);
        assert_eq!(of("models/small"), NamedModel::Folder(base.join("models/small")));
        assert_eq!(of("./models/small"), NamedModel::Folder(base.join("./models/small")));
        for name in ["gpt2", "models/smal", "Qwen/Qwen3-0.6B"] {
            assert_eq!(of(name), NamedModel::Repository, "{name}");
        }
        for name in ["./small", "../models/smal", "/models/smal", "~/smal", "a/b/c", "a b", "a..b/c"] {
            assert_eq!(of(name), NamedModel::Nowhere(base.join(name)), "{name}");
        }
        fs::write(base.join("models/readme"), "").unwrap();
        assert_eq!(folders_beside("models/smal", base), ["models/small"]);
        assert_eq!(folders_beside("./smal", base), ["./models"]);
        assert!(folders_beside("none/smal", base).is_empty());
    }
}
