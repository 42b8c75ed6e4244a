//! `mopd rewards`: judges the completions of an exported folder with the verifiers of a run. Its clients are
//! programs of this machine that can read a file with its address and its secret.
//!
//! One thread judges. It takes all requests that wait at once: a program gets them in batches, and has one
//! process, whatever the number of clients.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::response::Response;
use mopd_plan::events::{Event, FailureKind, RewardsJob};
use mopd_plan::{ExportedRecord, ExportedRewards, RECORDS_FILE, REWARDS_FILE, Reward};
use mopd_store::{host, random_bytes, read_json, write_private};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::access::{RequestAccess, hosts};
use super::connections::ConnectionHandle;
use super::transport::{HttpServer, ReplySender, RequestRefusal, ResponseBody, read_body, response};
use super::{POLL_INTERVAL, listen};
use crate::control::Control;
use crate::data::{Builder, Lists};
use crate::failure::{Error, Result};
use crate::reward::{Judgement, RewardInput, Verifier};
use crate::zip::zip_equal;

/// Most bytes of a request: a whole step of long completions.
const LARGEST: usize = 256 << 20;
const ADDRESS: &str = "127.0.0.1:0";

/// Judges what is asked until the job is to stop, or a completion can't be judged.
pub fn rewards(job: &RewardsJob, control: &Control) -> Result<()> {
    let folder = Path::new(&job.folder);
    let judge = RecordJudge::open(folder)?;
    let secret = blake3::hash(&random_bytes::<32>()).to_hex().to_string();
    let (queue, waiting) = channel();
    let access = RequestAccess { key: Some(blake3::hash(secret.as_bytes())), hosts: Some(hosts(ADDRESS)) };
    let shared = Arc::new(RewardQueue { access, records: judge.records.len(), queue });
    let router = Router::new().fallback(reply).layer(DefaultBodyLimit::max(LARGEST)).with_state(shared);
    let server = HttpServer::start(listen(ADDRESS, true)?, router)?;
    // From here on, there is a file to delete.
    control.begin_work();
    let url = format!("http://{}", server.address);
    let _file = ServiceFile::write(folder, &ServiceAddress { url: url.clone(), secret })?;
    control.emit(&Event::ServingRewards { url });
    let ended = judge_all(&judge, &waiting, control);
    drop(waiting);
    server.end();
    ended
}

/// The records of an exported folder, and the verifier of each domain.
struct RecordJudge {
    /// As JSON.
    records: Lists<u8>,
    verifiers: BTreeMap<String, Verifier>,
}

impl RecordJudge {
    fn open(folder: &Path) -> Result<RecordJudge> {
        let exported: ExportedRewards = read_json(&folder.join(REWARDS_FILE)).map_err(|why| {
            unusable(format!(
                "{} is no folder of an export whose rewards can be served: {why}",
                folder.display()
            ))
        })?;
        let base = Path::new(&exported.base);
        let verifier =
            |(domain, reward): (&String, &Reward)| Ok((domain.clone(), Verifier::new(reward, base)?));
        let path = folder.join(RECORDS_FILE);
        let unread = |error: std::io::Error| unusable(format!("can't read {}: {error}", path.display()));
        let mut records = Builder::default();
        for line in BufReader::new(File::open(&path).map_err(unread)?).split(b'\n') {
            let line = line.map_err(unread)?;
            serde_json::from_slice::<ExportedRecord>(&line).map_err(|error| unread(error.into()))?;
            records.push(&line).map_err(unread)?;
        }
        let verifiers = exported.domains.iter().map(verifier).collect::<Result<_>>()?;
        Ok(RecordJudge { records: records.finish().map_err(unread)?, verifiers })
    }

    /// Judges completions of records, in order. Those of a domain are judged together.
    fn judge(&self, asked: &[(usize, String)], control: &Control) -> Result<Vec<Judgement>> {
        let record = |(row, _): &(usize, String)| {
            serde_json::from_slice(self.records.get(*row)).expect("it was checked when it was read")
        };
        let records: Vec<ExportedRecord> = asked.iter().map(record).collect();
        let mut judgements: Vec<Option<Judgement>> = vec![None; asked.len()];
        for (domain, verifier) in &self.verifiers {
            let of_domain: Vec<usize> =
                (0..asked.len()).filter(|at| records[*at].domain == *domain).collect();
            if of_domain.is_empty() {
                continue;
            }
            // The engine asks for a number all the same; the loss reads none.
            if verifier.is_none() {
                let nothing = Judgement { reward: 0.0, feedback: None, parts: Vec::new() };
                of_domain.into_iter().for_each(|at| judgements[at] = Some(nothing.clone()));
                continue;
            }
            let input = |at: &usize| RewardInput {
                prompt: &records[*at].prompt,
                completion: &asked[*at].1,
                record: &records[*at].record,
            };
            let verdicts = verifier.judge(&of_domain.iter().map(input).collect::<Vec<_>>(), control)?;
            for warning in verifier.take_warnings() {
                control.warn(warning);
            }
            for (at, verdict) in zip_equal(of_domain, verdicts) {
                judgements[at] = Some(verdict);
            }
        }
        let judged: Option<Vec<Judgement>> = judgements.into_iter().collect();
        judged.ok_or_else(|| unusable(format!("a domain of {RECORDS_FILE} has no reward in {REWARDS_FILE}")))
    }
}

fn unusable(message: String) -> Error {
    Error::new(FailureKind::Reward, message)
        .help("`mopd export --engine` writes such a folder: export the stage again")
}

/// Where the service is, and what requests must know.
#[derive(Serialize, Deserialize)]
pub(super) struct ServiceAddress {
    pub(super) url: String,
    pub(super) secret: String,
}

/// The file with the address, which only its owner can read. It is deleted in the end. A folder that
/// several machines share has one for each of them.
struct ServiceFile {
    path: PathBuf,
    text: Vec<u8>,
}

impl ServiceFile {
    fn write(folder: &Path, address: &ServiceAddress) -> Result<ServiceFile> {
        let path = folder.join(format!("rewards-service.{}.json", host::name()));
        let text = serde_json::to_vec(address).expect("it is plain data");
        write_private(&path, &text)?;
        Ok(ServiceFile { path, text })
    }
}

impl Drop for ServiceFile {
    fn drop(&mut self) {
        // Another service of the folder may have written another.
        if fs::read(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Completions to judge, each with the number of its record.
struct RewardRequest {
    asked: Vec<(usize, String)>,
    reply: ReplySender<Vec<Judgement>>,
}

/// Judges what waits, all of it together, again and again. A completion that can't be judged ends it, as it
/// ends a run.
fn judge_all(judge: &RecordJudge, waiting: &Receiver<RewardRequest>, control: &Control) -> Result<()> {
    loop {
        control.check()?;
        let first = match waiting.recv_timeout(POLL_INTERVAL) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let requests = std::iter::once(first).chain(waiting.try_iter());
        let (lists, replies): (Vec<_>, Vec<_>) =
            requests.map(|RewardRequest { asked, reply }| (asked, reply)).unzip();
        let counts: Vec<usize> = lists.iter().map(Vec::len).collect();
        let judged = judge.judge(&lists.concat(), control);
        // A client that has gone is no reason to stop.
        match judged {
            Ok(judgements) => {
                let mut judgements = judgements.into_iter();
                for (reply, count) in zip_equal(replies, counts) {
                    let _ = reply.send(Ok(judgements.by_ref().take(count).collect()));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(RequestRefusal::internal(error.to_string())));
                }
                return Err(error);
            }
        }
    }
}

/// What the threads that read requests share.
struct RewardQueue {
    access: RequestAccess,
    /// The number of records.
    records: usize,
    queue: Sender<RewardRequest>,
}

/// The body of a request.
#[derive(Deserialize)]
struct RewardBody {
    /// Their numbers, one for each completion.
    records: Vec<usize>,
    completions: Vec<String>,
}

async fn reply(
    State(shared): State<Arc<RewardQueue>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    request: Request,
) -> Response {
    response(of_request(&shared, &connection, request).await).1
}

async fn of_request(
    shared: &RewardQueue,
    connection: &ConnectionHandle,
    request: Request,
) -> Result<ResponseBody, RequestRefusal> {
    shared.access.is_no_web_page(&request)?;
    if !shared.access.may(&request) {
        return Err(RequestRefusal::new(403, "requests need the secret of this service"));
    }
    if request.uri().path() != "/rewards" {
        return Err(RequestRefusal::new(404, "unknown path"));
    }
    if request.method() != Method::POST {
        return Err(RequestRefusal::new(405, "this path supports only POST"));
    }
    let body = read_body(LARGEST, "", request).await?;
    let _running = connection.run();
    let RewardBody { records, completions } = serde_json::from_slice(&body)
        .map_err(|error| RequestRefusal::bad(format!("the body has no records and completions: {error}")))?;
    if records.len() != completions.len() {
        let message = format!("{} records for {} completions", records.len(), completions.len());
        return Err(RequestRefusal::bad(message));
    }
    if let Some(record) = records.iter().find(|record| **record >= shared.records) {
        let message = format!("there is no record {record}: there are {}", shared.records);
        return Err(RequestRefusal::bad(message));
    }
    let (reply, told) = oneshot::channel();
    let asked = records.into_iter().zip(completions).collect();
    shared.queue.send(RewardRequest { asked, reply }).map_err(|_| RequestRefusal::shutting_down())?;
    let judgements = told.await.unwrap_or_else(|_| Err(RequestRefusal::shutting_down()))?;
    let verdict = |Judgement { reward, parts, feedback: _ }: Judgement| {
        let parts: BTreeMap<String, f64> = parts.into_iter().collect();
        json!({ "reward": reward, "parts": parts })
    };
    Ok(ResponseBody::Json(judgements.into_iter().map(verdict).collect()))
}
