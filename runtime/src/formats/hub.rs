//! Where a model that is named `org/name` lies: in the cache that the tools around the Hugging Face hub share, and if it is
//! not there, on the hub. Whichever it is, it is pinned: one commit, one folder.

use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use mopd_compiler::plan::events::FailureKind;

use super::safetensors;
use crate::failure::{Error, Result};

/// What the environment says about the hub, as `huggingface_hub` reads it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Folder with one folder per repository.
    pub cache: PathBuf,
    pub offline: bool,
    pub endpoint: String,
    token: Option<String>,
}

/// A folder with a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub folder: PathBuf,
    /// Of a repository; a folder of the author's own has none.
    pub commit: Option<String>,
}

const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
const CONFIG: &str = "config.json";

impl Hub {
    pub fn from_environment() -> Hub {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cache/huggingface"));
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .filter_map(|name| set(name))
            .any(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = set("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Hub { cache, offline, endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// `name` is a folder, relative to `base`, or a repository.
    pub fn find(&self, name: &str, revision: Option<&str>, base: &Path) -> Result<Found> {
        let folder = base.join(name);
        if folder.is_dir() {
            if let Some(revision) = revision {
                let message = format!("`{name}` is a folder, which has no revision `{revision}`");
                return Err(Error::new(FailureKind::Model, message).help("leave `revision` out"));
            }
            return Ok(Found { folder, commit: None });
        }
        if !is_repository(name) {
            let message = format!("there is no folder {}, and `{name}` names no repository", folder.display());
            return Err(Error::new(FailureKind::Model, message).help(
                "a repository of the Hugging Face hub is named `organisation/model`; a folder is relative to the source file",
            ));
        }
        let revision = revision.unwrap_or("main");
        let plain = |part: Component| matches!(part, Component::Normal(_));
        if revision.is_empty() || !Path::new(revision).components().all(plain) || revision.chars().any(char::is_whitespace) {
            let message = format!("`{revision}` is not a revision: a branch, a tag or a commit of {name}");
            return Err(Error::new(FailureKind::Model, message));
        }
        let commit = self.cached_commit(name, revision);
        if let Some(commit) = &commit {
            let folder = self.snapshot(name, commit);
            if is_complete(&folder) {
                return Ok(Found { folder, commit: Some(commit.clone()) });
            }
        }
        if self.offline {
            let state = if commit.is_some() { "only in part in" } else { "not in" };
            let message = format!("{name} (revision {revision}) is {state} the cache {}", self.cache.display());
            return Err(Error::new(FailureKind::Model, message)
                .help(format!("unset HF_HUB_OFFLINE, or fetch it on a machine with a network: `hf download {name}`")));
        }
        self.download(name, revision)
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.cache.join(format!("models--{}", name.replace('/', "--")))
    }

    fn snapshot(&self, name: &str, commit: &str) -> PathBuf {
        self.repository(name).join("snapshots").join(commit)
    }

    /// What the cache says a revision is.
    fn cached_commit(&self, name: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.repository(name).join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    fn download(&self, name: &str, revision: &str) -> Result<Found> {
        let failed = |error: ApiError| self.failed(name, revision, &error);
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone())).with_endpoint(self.endpoint.clone());
        let api = builder.with_token(self.token.clone()).with_progress(false).with_retries(3).build().map_err(failed)?;
        let repository = |revision: &str| Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        // First what the revision is now: all files are then of that commit, whatever is pushed meanwhile.
        let info = api.repo(repository(revision)).info().map_err(failed)?;
        if !is_commit(&info.sha) {
            let message = format!("{} answers that {name} is at {:?}, which is no commit", self.endpoint, info.sha);
            return Err(Error::new(FailureKind::Model, message));
        }
        let files: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let pinned = api.repo(repository(&info.sha));
        let fetch = |file: &str| self.fetch(&pinned, name, &info.sha, file).map_err(failed);
        if !files.contains(&CONFIG) {
            let message = format!("the repository {name} has no {CONFIG}: it holds no model that can be loaded");
            return Err(Error::new(FailureKind::Model, message));
        }
        fetch(CONFIG)?;
        for file in COMPANIONS.iter().filter(|file| files.contains(*file)) {
            fetch(file)?;
        }
        if files.contains(&safetensors::MODEL) {
            fetch(safetensors::MODEL)?;
        } else if files.contains(&safetensors::INDEX) {
            let index = fetch(safetensors::INDEX)?;
            for shard in safetensors::shards_of(&index)? {
                fetch(&shard)?;
            }
        } else {
            let message = format!("the repository {name} has no safetensors files");
            return Err(Error::new(FailureKind::Model, message)
                .help("fetch it, load it with transformers and save it with `save_pretrained`, then name that folder"));
        }
        if !is_commit(revision) {
            let cache = Cache::new(self.cache.clone()).repo(repository(revision));
            cache.create_ref(&info.sha).map_err(|error| Error::storage(&self.repository(name), error))?;
        }
        Ok(Found { folder: self.snapshot(name, &info.sha), commit: Some(info.sha) })
    }

    /// One file of a commit, unless the cache has it.
    fn fetch(&self, repository: &ApiRepo, name: &str, commit: &str, file: &str) -> Result<PathBuf, ApiError> {
        let path = self.snapshot(name, commit).join(file);
        if path.exists() { Ok(path) } else { repository.download_with_progress(file, ()) }
    }

    fn failed(&self, name: &str, revision: &str, error: &ApiError) -> Error {
        let text = error.to_string();
        let message = format!("{name} (revision {revision}) cannot be fetched from {}: {text}", self.endpoint);
        let help = if ["401", "403"].iter().any(|status| text.contains(status)) {
            "the repository does not exist, or one must ask for access: accept its terms on its page and set HF_TOKEN".to_owned()
        } else if text.contains("404") {
            "check the spelling of the name and of the revision".to_owned()
        } else {
            format!(
                "without a network, fetch it elsewhere (`hf download {name}`), copy the folder and name it: `hf(\"path/to/folder\")`; \
                 a mirror is set with HF_ENDPOINT, the cache with HF_HOME"
            )
        };
        Error::new(FailureKind::Model, message).help(help)
    }
}

/// `organisation/model`, or `model` alone, which some old repositories are named.
fn is_repository(name: &str) -> bool {
    let mut parts = name.split('/');
    let plain = |part: &str| {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        !part.is_empty() && part.chars().all(allowed) && !part.starts_with(['.', '-']) && !part.contains("..") && part.len() <= 96
    };
    parts.by_ref().take(2).all(plain) && parts.next().is_none()
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a snapshot has all that loading it needs.
fn is_complete(folder: &Path) -> bool {
    let present = |name: &str| folder.join(name).exists();
    let weights = || {
        present(safetensors::MODEL)
            || present(safetensors::INDEX)
                && safetensors::shards_of(&folder.join(safetensors::INDEX))
                    .is_ok_and(|shards| shards.iter().all(|shard| present(shard)))
    };
    present(CONFIG) && weights()
}

#[cfg(test)]
mod tests;
