//! Fetches files from the hub over HTTP. Nothing in a response becomes a path, the token is sent to the hub
//! alone, and the bytes read of a response are limited.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use mopd_store::named::RepositoryKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{Response, StatusCode, Uri, header, uri};
use ureq::{Agent, Body};

use super::{Endpoint, Repository};

/// Most bytes of a repository's listing.
const LONGEST_LIST: u64 = 32 << 20;
/// Most bytes of a file other than weights and data: the largest tokenizers have some 40 MiB.
pub(super) const LARGEST_COMPANION: u64 = 1 << 30;
/// The limit for weights and data.
pub(super) const UNLIMITED: u64 = u64::MAX;
const REDIRECTS: u32 = 10;
/// Retries after a broken connection; the bytes received so far are kept.
const RETRIES: u32 = 3;
const CONNECT: Duration = Duration::from_secs(30);
/// The longest wait for the next byte.
const SILENCE: Duration = Duration::from_secs(60);

/// The files of a repository at a revision.
#[derive(Deserialize)]
pub(super) struct RepositoryListing {
    /// The commit.
    pub sha: String,
    #[serde(default)]
    pub siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
pub(super) struct Sibling {
    pub rfilename: String,
}

#[derive(Debug)]
pub(super) enum FetchProblem {
    Status(StatusCode),
    /// No connection, or it broke.
    Connection(String),
    /// A response that can't be right.
    InvalidReply(String),
    /// A local file could not be read or written.
    Disk(io::Error),
}

enum Range {
    All,
    /// From this byte on, uncompressed.
    From(u64),
}

pub(super) struct HubClient<'h> {
    agent: Agent,
    endpoint: &'h Endpoint,
    /// The value of the authorization header.
    authorization: Option<String>,
}

impl<'h> HubClient<'h> {
    pub fn new(endpoint: &'h Endpoint, token: Option<&'h str>) -> HubClient<'h> {
        let config = Agent::config_builder()
            // Redirects are followed in `get`, because the token depends on the target.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("mopd/", env!("CARGO_PKG_VERSION")));
        let authorization = token.map(|token| format!("Bearer {token}")).or_else(|| endpoint.basic.clone());
        HubClient { agent: config.build().into(), endpoint, authorization }
    }

    /// The commit and the files of a repository at `revision` now.
    pub fn listing(&self, repository: Repository, revision: &str) -> Result<RepositoryListing, FetchProblem> {
        let Repository { kind, name } = repository;
        let path = format!("api/{}/{name}/revision/{}", kind.plural(), encoded(revision));
        let mut response = self.get(&path, Range::All)?;
        if !response.status().is_success() {
            return Err(FetchProblem::Status(response.status()));
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST_LIST)
            .read_to_vec()
            .map_err(|error| lost(&error))?;
        serde_json::from_slice(&text).map_err(|error| {
            FetchProblem::InvalidReply(format!(
                "cannot read its description of the \
                repository: {error}"
            ))
        })
    }

    /// Downloads one file of a commit to `destination`, whole or not at all. Resumes a partial download.
    pub fn file(
        &self,
        repository: Repository,
        commit: &str,
        file: &str,
        limit: u64,
        destination: &Path,
    ) -> Result<(), FetchProblem> {
        let folder = destination.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(FetchProblem::Disk)?;
        let last = file.rsplit('/').next().unwrap_or(file);
        let part_path = folder.join(format!(".{last}.incomplete"));
        let mut options = OpenOptions::new();
        let mut part = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part_path)
            .map_err(FetchProblem::Disk)?;
        // If two processes fetch the same file, the second finds it complete here.
        part.lock().map_err(FetchProblem::Disk)?;
        if destination.exists() {
            return match fs::remove_file(&part_path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchProblem::Disk(error)),
                _ => Ok(()),
            };
        }
        let within: Vec<String> = file.split('/').map(|part| encoded(part).to_string()).collect();
        let Repository { kind, name } = repository;
        let before = match kind {
            RepositoryKind::Model => "",
            RepositoryKind::Dataset => "datasets/",
        };
        let path = format!("{before}{name}/resolve/{commit}/{}", within.join("/"));
        let mut attempt = 0;
        while let Err(trouble) = self.rest_of(&path, &mut part, limit) {
            let passes = match &trouble {
                FetchProblem::Connection(_) => true,
                FetchProblem::Status(status) => {
                    status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
                }
                FetchProblem::InvalidReply(_) | FetchProblem::Disk(_) => false,
            };
            if !passes || attempt == RETRIES {
                return Err(trouble);
            }
            std::thread::sleep(Duration::from_millis(300 << attempt));
            attempt += 1;
        }
        part.sync_all().and_then(|()| fs::rename(&part_path, destination)).map_err(FetchProblem::Disk)
    }

    /// Requests the bytes that `part` lacks and appends them.
    fn rest_of(&self, path: &str, part: &mut File, limit: u64) -> Result<(), FetchProblem> {
        let have = part.seek(SeekFrom::End(0)).map_err(FetchProblem::Disk)?;
        let mut response = self.get(path, Range::From(have))?;
        let (start, total) = match response.status() {
            StatusCode::OK => (0, response.body().content_length()),
            StatusCode::PARTIAL_CONTENT => match sent(&response) {
                Some((start, total)) if start == have => (start, Some(total)),
                _ => {
                    return Err(FetchProblem::InvalidReply(
                        "it sent another part of the file than requested".to_owned(),
                    ));
                }
            },
            // There are no further bytes: `part` is complete, or is of another file.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                part.set_len(0).map_err(FetchProblem::Disk)?;
                return Err(FetchProblem::Connection(
                    "the part that was kept from an earlier attempt does not fit".to_owned(),
                ));
            }
            status => return Err(FetchProblem::Status(status)),
        };
        let named = |name, value| response.headers().get(name).is_some_and(|found| found == value);
        if response.headers().contains_key(header::CONTENT_ENCODING)
            && !named(header::CONTENT_ENCODING, "identity")
        {
            return Err(FetchProblem::InvalidReply(
                "it sent the file compressed, although no compression was requested".to_owned(),
            ));
        }
        // Without a length or chunks, a truncated file looks like a whole one.
        if total.is_none() && (limit == UNLIMITED || !named(header::TRANSFER_ENCODING, "chunked")) {
            return Err(FetchProblem::InvalidReply("it does not report the length of the file".to_owned()));
        }
        let most = total.unwrap_or(limit);
        if most > limit {
            return Err(FetchProblem::InvalidReply(format!(
                "the file has {} MiB, too large for a file of its kind",
                most >> 20
            )));
        }
        part.set_len(start).and_then(|()| part.seek(SeekFrom::Start(start))).map_err(FetchProblem::Disk)?;
        // One byte more than allowed, so that an excess is noticed.
        let mut body = response.body_mut().as_reader().take(most.saturating_sub(start).saturating_add(1));
        let mut buffer = vec![0; 1 << 18];
        let mut length = start;
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FetchProblem::Connection(error.to_string())),
            };
            if count == 0 {
                break;
            }
            part.write_all(&buffer[..count]).map_err(FetchProblem::Disk)?;
            length += count as u64;
        }
        if length > most {
            part.set_len(0).map_err(FetchProblem::Disk)?;
            return Err(FetchProblem::InvalidReply(
                "it sent more bytes than such a file can have, or more than it announced".to_owned(),
            ));
        }
        match total {
            Some(total) if length < total => {
                Err(FetchProblem::Connection(format!("it ended after {length} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// The response to a request, after redirects.
    fn get(&self, path: &str, range: Range) -> Result<Response<Body>, FetchProblem> {
        let mut place = address(&format!("{}/{path}", self.endpoint))?;
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&place);
            // Another origin is another server: a redirect must not pass the token on to it.
            if let Some(proof) =
                self.authorization.as_ref().filter(|_| origin(&place) == origin(&self.endpoint.uri))
            {
                request = request.header(header::AUTHORIZATION, proof);
            }
            if let Range::From(from) = range {
                // A compressed response would have another length.
                request = request.header(header::ACCEPT_ENCODING, "identity");
                if from > 0 {
                    request = request.header(header::RANGE, format!("bytes={from}-"));
                }
            }
            let response = request.call().map_err(|error| lost(&error))?;
            let Some(location) =
                response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection())
            else {
                return Ok(response);
            };
            let location = location.to_str().map_err(|_| {
                FetchProblem::InvalidReply("it redirects to something that is not an address".to_owned())
            })?;
            place = followed(&place, location)?;
        }
        Err(FetchProblem::InvalidReply(format!("it redirects more than {REDIRECTS} times")))
    }
}

/// Scheme, host and port of an address: the server, without user name and password.
fn origin(place: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let port = place.port_u16().or(match place.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (place.scheme_str(), place.host().map(str::to_ascii_lowercase), port)
}

pub(super) fn followed(from: &Uri, location: &str) -> Result<Uri, FetchProblem> {
    let nowhere =
        || FetchProblem::InvalidReply("it redirects to something that is not an address".to_owned());
    let next = if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(location.parse().map_err(|_| nowhere())?);
        Uri::from_parts(parts).map_err(|_| nowhere())?
    } else {
        address(location).map_err(|_| nowhere())?
    };
    if from.scheme() == Some(&uri::Scheme::HTTPS) && next.scheme() != Some(&uri::Scheme::HTTPS) {
        return Err(FetchProblem::InvalidReply(
            "it redirects from https to an unencrypted connection".to_owned(),
        ));
    }
    // A user name and password in the target would be sent as ours.
    let mut parts = next.into_parts();
    let bare = parts
        .authority
        .as_ref()
        .map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().parse());
    parts.authority = bare.transpose().map_err(|_| nowhere())?;
    Uri::from_parts(parts).map_err(|_| nowhere())
}

/// Parses the address of a server.
pub(super) fn address(text: &str) -> Result<Uri, FetchProblem> {
    let nowhere = || FetchProblem::InvalidReply("that is not an address".to_owned());
    let place: Uri = text.parse().map_err(|_| nowhere())?;
    let served = matches!(place.scheme_str(), Some("http" | "https"))
        && place.host().is_some_and(|host| !host.is_empty());
    if served { Ok(place) } else { Err(nowhere()) }
}

/// `first` and `total` of `Content-Range: bytes first-last/total`.
fn sent(response: &Response<Body>) -> Option<(u64, u64)> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((part.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// A name, percent-encoded as one segment of an address.
fn encoded(name: &str) -> impl Display {
    const OTHERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(name, OTHERS)
}

fn lost(error: &ureq::Error) -> FetchProblem {
    match error {
        // The error's text repeats the address, which may hold a password.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            FetchProblem::InvalidReply("that is not an address".to_owned())
        }
        ureq::Error::BodyExceedsLimit(limit) => {
            FetchProblem::InvalidReply(format!("its reply is larger than {} MiB", limit >> 20))
        }
        ureq::Error::Protocol(error) => FetchProblem::Connection(format!("it does not speak HTTP: {error}")),
        other => FetchProblem::Connection(other.to_string()),
    }
}
