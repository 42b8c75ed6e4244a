//! Finds a model or a data set named `org/name`: in the cache that Hugging Face tools share, else on the hub.
//! Either way it is pinned to one commit and one folder.
//!
//! Fetched files are stored in `models--org--name/snapshots/<commit>`, as files rather than links to `blobs`:
//! Hugging Face tools read both, and the server would choose a blob's name.

mod datasets;
mod fetch;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use mopd_plan::events::FailureKind;
use mopd_plan::nearest_file;
use mopd_store::named::{self, NamedModel, RepositoryKind, is_commit};
use mopd_store::{regular, write_atomically};
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use self::fetch::{FetchProblem, HubClient, LARGEST_COMPANION, UNLIMITED};
use super::huggingface::{self, CONFIG};
use super::{peft, safetensors};
use crate::failure::{Error, Result};
use crate::quote::quote;
use crate::tokenizer::TokenizerFiles;

/// Settings of the hub from environment variables, read as `huggingface_hub` reads them.
pub struct Hub {
    /// The cache: a folder with one folder per repository.
    pub cache: PathBuf,
    pub offline: bool,
    /// Unparsed; it is checked only when something must be fetched.
    endpoint: String,
    token: Option<String>,
}

/// The hub's address, with any user name and password taken out of it.
struct Endpoint {
    uri: Uri,
    /// User name and password as a `Basic` authorization header.
    basic: Option<String>,
}

impl Endpoint {
    fn new(url: &str) -> Result<Endpoint> {
        let nowhere = || {
            // The address is not quoted: a password in it may be why it can't be parsed.
            Error::new(FailureKind::Model, "HF_ENDPOINT is not the address of a server").help(
                "it looks like https://huggingface.co; characters like `@`, `/` and `#` of a password are \
                 written %40, %2F and %23",
            )
        };
        // An unescaped `/` in a password ends the host, and the rest of the password becomes the path.
        let whole = |uri: &Uri| uri.query().is_none() && !uri.path().contains('@');
        let given = fetch::address(url).ok().filter(whole).ok_or_else(nowhere)?;
        let authority = given.authority().ok_or_else(nowhere)?.as_str();
        let (basic, host) = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let colon: &[u8] = if user.contains(':') { b"" } else { b":" };
                let user: Vec<u8> = percent_decode_str(user).chain(colon.iter().copied()).collect();
                (Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))), host)
            }
            None => (None, authority),
        };
        let path = given.path().trim_end_matches('/');
        let uri = fetch::address(&format!("{}://{host}{path}", given.scheme_str().unwrap_or_default()))
            .map_err(|_| nowhere())?;
        Ok(Endpoint { uri, basic })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.to_string().trim_end_matches('/'))
    }
}

/// A repository of the hub.
#[derive(Clone, Copy)]
struct Repository<'a> {
    kind: RepositoryKind,
    name: &'a str,
}

impl<'a> Repository<'a> {
    fn model(name: &'a str) -> Repository<'a> {
        Repository { kind: RepositoryKind::Model, name }
    }

    /// The folder of a commit.
    fn snapshot(self, cache: &Path, commit: &str) -> PathBuf {
        named::snapshot(cache, self.kind, self.name, commit)
    }

    /// What it is that can't be had without it.
    fn failure(self) -> FailureKind {
        match self.kind {
            RepositoryKind::Model => FailureKind::Model,
            RepositoryKind::Dataset => FailureKind::Data,
        }
    }

    /// The command that fetches it by the hub's own tool.
    fn command(self) -> String {
        let kind = match self.kind {
            RepositoryKind::Model => "",
            RepositoryKind::Dataset => "--repo-type dataset ",
        };
        format!("hf download {kind}{}", self.name)
    }

    /// The commit of a revision, according to a cache.
    fn cached_commit(self, cache: &Path, revision: &str) -> Option<String> {
        named::cached_commit(cache, self.kind, self.name, revision)
    }
}

/// A folder with a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFolder {
    pub folder: PathBuf,
    /// The commit of a repository; none for a folder of the user's own.
    pub commit: Option<String>,
}

/// Most bytes to read of a token's file.
const SMALL: u64 = 1 << 16;

impl Hub {
    pub fn from_environment() -> Hub {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = named::hub_home().unwrap_or_else(|| PathBuf::from(".cache/huggingface"));
        let cache = named::hub_cache().unwrap_or_else(|| home.join("hub"));
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .filter_map(|name| set(name))
            .any(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        let token_file = set("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
        let token =
            set("HF_TOKEN").or_else(|| String::from_utf8(regular::read(&token_file, SMALL).ok()?).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Hub { cache, offline, endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// Finds or fetches a model. `name` is a folder, relative to `base`, or a repository.
    pub fn find(&self, name: &str, revision: Option<&str>, base: &Path) -> Result<ModelFolder> {
        if let Some(folder) = own_folder(name, revision, base)? {
            return Ok(ModelFolder { folder, commit: None });
        }
        let revision = revision.unwrap_or("main");
        checked_revision(Repository::model(name), revision)?;
        // The name may be meant as a folder, above all one without a slash.
        let no_folder = format!("there is no folder {}, and ", base.join(name).display());
        self.of_repository(name, revision).map_err(|error| error.with_prefix(&no_folder))
    }

    /// The folder of a repository in the cache, if it is there as a whole.
    pub fn cached(&self, name: &str, revision: Option<&str>) -> Option<PathBuf> {
        let repository = Repository::model(name);
        let commit = repository.cached_commit(&self.cache, revision.unwrap_or("main"))?;
        Some(repository.snapshot(&self.cache, &commit)).filter(|folder| is_complete(folder))
    }

    fn of_repository(&self, name: &str, revision: &str) -> Result<ModelFolder> {
        let repository = Repository::model(name);
        let commit = repository.cached_commit(&self.cache, revision);
        if let Some(commit) = &commit {
            let folder = repository.snapshot(&self.cache, commit);
            if is_complete(&folder) {
                return Ok(ModelFolder { folder, commit: Some(commit.clone()) });
            }
        }
        if self.offline {
            return Err(self.not_here(repository, revision, commit.is_some()));
        }
        self.download(name, revision)
    }

    fn download(&self, name: &str, revision: &str) -> Result<ModelFolder> {
        let repository = Repository::model(name);
        let endpoint = Endpoint::new(&self.endpoint)?;
        let client = HubClient::new(&endpoint, self.token.as_deref());
        let (commit, files) = self.resolve(repository, revision, &client, &endpoint)?;
        let present = |file: &str| files.iter().any(|name| name == file);
        let folder = repository.snapshot(&self.cache, &commit);
        let fetch = |file: &str, limit: u64| {
            let path = folder.join(file);
            // It may be a link to a blob that another tool fetched.
            if path.exists() {
                return Ok(());
            }
            let fetched = client.file(repository, &commit, file, limit, &path);
            fetched.map_err(|trouble| failed(repository, revision, &endpoint, trouble))
        };
        // Whatever a folder's reader looks at is fetched: the same model is the same from a folder.
        let companions = files.iter().map(String::as_str);
        for file in companions.filter(|file| huggingface::reads(file) || TokenizerFiles::reads(file)) {
            fetch(file, LARGEST_COMPANION)?;
        }
        let whole = present(safetensors::MODEL) || present(safetensors::INDEX);
        if present(peft::CONFIG) && whole {
            return Err(peft::beside_model(&folder));
        }
        if present(peft::CONFIG) {
            fetch(peft::MODEL, UNLIMITED)?;
        } else if !present(CONFIG) {
            let message =
                format!("the repository {name} has no {CONFIG}, so it has no model that can be loaded");
            return Err(Error::new(FailureKind::Model, message));
        } else if present(safetensors::MODEL) {
            fetch(safetensors::MODEL, UNLIMITED)?;
        } else if present(safetensors::INDEX) {
            fetch(safetensors::INDEX, LARGEST_COMPANION)?;
            for shard in safetensors::shards_of(&folder.join(safetensors::INDEX))? {
                fetch(&shard, UNLIMITED)?;
            }
        } else {
            let message = format!("the repository {name} has no safetensors files");
            return Err(Error::new(FailureKind::Model, message).help(
                "fetch it, load it with transformers and save it with `save_pretrained`, then name that \
                 folder",
            ));
        }
        self.set_revision(repository, revision, &commit)?;
        Ok(ModelFolder { folder, commit: Some(commit) })
    }

    /// The commit of a revision and the names of its files, as the hub has them now. All files are then
    /// fetched of that commit, whatever is pushed meanwhile.
    fn resolve(
        &self,
        repository: Repository,
        revision: &str,
        client: &HubClient,
        endpoint: &Endpoint,
    ) -> Result<(String, Vec<String>)> {
        let listing = client.listing(repository, revision);
        let listing = listing.map_err(|trouble| failed(repository, revision, endpoint, trouble))?;
        let commit = listing.sha;
        if !is_commit(&commit) || is_commit(revision) && !commit.eq_ignore_ascii_case(revision) {
            let message = format!(
                "{endpoint} replied that {} is at {}, which is not a commit of {revision}",
                repository.name,
                quote(&commit)
            );
            return Err(Error::new(repository.failure(), message));
        }
        Ok((commit, listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
    }

    /// That a repository is not in the cache, or only in part, and nothing may be fetched.
    fn not_here(&self, repository: Repository, revision: &str, in_part: bool) -> Error {
        let state = if in_part { "only in part in" } else { "not in" };
        let cache = self.cache.display();
        let message = format!("{} (revision {revision}) is {state} the cache {cache}", repository.name);
        Error::new(repository.failure(), message).help(format!(
            "unset HF_HUB_OFFLINE, or fetch it on a machine with a network: `{}`",
            repository.command()
        ))
    }

    /// Notes in the cache which commit a branch or tag is at.
    fn set_revision(&self, repository: Repository, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let folder = named::repository(&self.cache, repository.kind, repository.name);
        let path = folder.join("refs").join(revision);
        Ok(write_atomically(&path, |file| std::io::Write::write_all(file, commit.as_bytes()))?)
    }
}

/// # Errors
/// If it can't be a branch, a tag or a commit.
fn checked_revision(repository: Repository, revision: &str) -> Result<()> {
    if named::is_revision(revision) {
        return Ok(());
    }
    let name = repository.name;
    let message = format!("`{revision}` is not a revision: a branch, a tag or a commit of {name}");
    Err(Error::new(repository.failure(), message))
}

/// The folder that `name` refers to, relative to `base`, or `None` if it names a repository.
///
/// # Errors
/// If it is neither, or a folder with a `revision`.
pub fn own_folder(name: &str, revision: Option<&str>, base: &Path) -> Result<Option<PathBuf>> {
    let folder = match NamedModel::resolve(name, base) {
        NamedModel::Folder(folder) => folder,
        NamedModel::Repository => return Ok(None),
        NamedModel::Nowhere(folder) => {
            let message =
                format!("there is no folder {}, and `{name}` names no repository", folder.display());
            let beside = named::folders_beside(name, base);
            let help = match nearest_file(name, beside.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "a repository of the Hugging Face hub is named `organisation/model`; a folder is relative \
                         to the source file"
                    .to_owned(),
            };
            return Err(Error::new(FailureKind::Model, message).help(help));
        }
    };
    if let Some(revision) = revision {
        let message = format!("`{name}` is a folder, which has no revision `{revision}`");
        return Err(Error::new(FailureKind::Model, message).help("leave `revision` out"));
    }
    Ok(Some(folder))
}

fn failed(repository: Repository, revision: &str, endpoint: &Endpoint, trouble: FetchProblem) -> Error {
    let name = repository.name;
    let text = match &trouble {
        FetchProblem::Status(status) => format!("the server replied {status}"),
        FetchProblem::Connection(text) | FetchProblem::InvalidReply(text) => text.clone(),
        FetchProblem::Disk(error) => {
            format!("it cannot be stored in the cache: {}", mopd_store::files::reason(error))
        }
    };
    let message = format!("{name} (revision {revision}) cannot be fetched from {endpoint}: {text}");
    let help = match &trouble {
        FetchProblem::Status(status) if [401, 403].contains(&status.as_u16()) => {
            "the repository does not exist, or you need access to it: accept its terms on its page and \
            set HF_TOKEN"
                .to_owned()
        }
        FetchProblem::Status(status) if status.as_u16() == 404 => {
            "check the spelling of the name and of the revision".to_owned()
        }
        FetchProblem::Disk(_) => "the cache is `hub` in HF_HOME; HF_HUB_CACHE sets another folder".to_owned(),
        FetchProblem::Status(_) | FetchProblem::Connection(_) | FetchProblem::InvalidReply(_) => format!(
            "without a network, fetch it elsewhere (`{}`), copy the folder and name it: `{}`; a mirror is set \
             with HF_ENDPOINT, the cache with HF_HOME",
            repository.command(),
            match repository.kind {
                RepositoryKind::Model => "hf(\"path/to/folder\")",
                RepositoryKind::Dataset => "dataset(\"path/to/folder\")",
            }
        ),
    };
    Error::new(repository.failure(), message).help(help)
}

/// Whether a snapshot has its configuration and all of its weight files, or an adapter.
fn is_complete(folder: &Path) -> bool {
    let present = |name: &str| folder.join(name).exists();
    if present(peft::CONFIG) && present(peft::MODEL) {
        return true;
    }
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
