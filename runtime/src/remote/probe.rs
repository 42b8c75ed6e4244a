//! The checks of servers by `mopd doctor FILE`: each request is sent once, and all problems are reported, not
//! only the first. It does not wait for servers as a run does.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mopd_plan::events::{LONGEST_LIST, ServerReport};
use mopd_plan::{Answers, Engine, RolloutServer, Served};

use super::address::Address;
use super::ask::{self, ReplyProblem};
use super::sampling::{self, SamplingServer};
use super::{
    ScoredSequence, ServerIdentity, StudentIdentity, TEACHER, are_probabilities, context, identity, own,
    request_listed, short_sequence,
};
use crate::failure::{Error, Result};

/// Time limit of one request.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The findings so far, which can be read before the probe has ended.
pub struct Findings(Mutex<ServerReport>);

impl Findings {
    pub fn new(report: ServerReport) -> Findings {
        Findings(Mutex::new(report))
    }

    pub fn report_so_far(&self) -> ServerReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut ServerReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn known<T>(&self, found: Result<T>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(Error::Failed(failure)) => {
                self.note(|report| report.problems.push(*failure));
                None
            }
            Err(Error::Interrupted) => None,
        }
    }

    fn identity(&self, address: &Address, there: &ServerIdentity) {
        let ServerIdentity { model: _, root, weights, context, tokenizer: _, softcap: _, dtype } = there;
        self.note(|report| {
            report.url = Some(address.shown());
            report.there = true;
            report.root.clone_from(root);
            report.weights.clone_from(weights);
            report.dtype.clone_from(dtype);
            report.context = context.map(|context| context as u64);
        });
    }
}

/// Probes a teacher's server. Without a student, only its identity is requested.
pub fn probe_teacher(
    served: &Served,
    student: Option<StudentIdentity>,
    limit: Duration,
    findings: &Findings,
) {
    let Some(address) = findings.known(Address::new(&served.url, served.key.as_deref(), limit)) else {
        return;
    };
    findings.note(|report| report.url = Some(address.shown()));
    let failed = |problem| ask::failed(TEACHER, &address, problem);
    let there = identity::identify(&address, served).map_err(failed);
    let Some(there) = findings.known(there) else { return };
    findings.identity(&address, &there);
    let Some(student) = student else { return };
    findings.known(context::check_longest(served, &address, &there, student.longest));
    let compared = identity::compare(&address, served, &there, student.tokenizer).map_err(failed);
    let agree = findings.known(compared).is_some();
    findings.note(|report| report.ids_agree = agree);
    let Some(Some(sequence)) = findings.known(short_sequence(student.tokenizer)) else { return };
    let entries = student.tokenizer.vocabulary();
    let ask = |answers: Answers| {
        let served = Served { answers, ..served.clone() };
        match served.engine {
            Engine::Mopd => own::request(std::slice::from_ref::<ScoredSequence>(&sequence), &there)
                .once(&address)
                .map(drop),
            Engine::Vllm | Engine::Sglang => {
                request_listed(&served, &sequence, entries).once(&address).map(drop)
            }
        }
    };
    let probabilities = late_once(|| are_probabilities(served, &address, &sequence, entries));
    findings.known(probabilities.map_err(failed));
    let asked = late_once(|| ask(served.answers));
    if let Err(Error::Failed(why)) = asked.clone().map_err(failed) {
        findings.note(|report| report.falls_short = Some(*why));
    }
    let known = asked.is_ok().then_some(served.answers);
    // A failed request for more than the run needs is not a problem of the run.
    let most = most_answered(served, known, entries, ask).unwrap_or_default();
    findings.note(|report| report.answers = most.or(known));
}

/// The result of a request, sent a second time if there was no response: an engine that compiles for its
/// first requests answers them late.
fn late_once<T>(request: impl Fn() -> Result<T, ReplyProblem>) -> Result<T, ReplyProblem> {
    match request() {
        Err(ReplyProblem::Gone(_) | ReplyProblem::Cut(_)) => request(),
        other => other,
    }
}

/// The most that a server supports: whole distributions, or the longest list, found by bisection. A server
/// that supports a list also supports shorter ones. `known` has been answered already.
fn most_answered(
    served: &Served,
    known: Option<Answers>,
    entries: usize,
    ask: impl Fn(Answers) -> Result<(), ReplyProblem>,
) -> Result<Option<Answers>, ReplyProblem> {
    let answered = |answers: Answers| match ask(answers) {
        Ok(()) => Ok(true),
        // Without a response, it is unknown whether the request was too large.
        Err(gone @ (ReplyProblem::Gone(_) | ReplyProblem::Cut(_))) => Err(gone),
        Err(_) => Ok(false),
    };
    let whole = known == Some(Answers::Distribution);
    if whole || served.engine == Engine::Mopd {
        return Ok(known.filter(|_| whole));
    }
    // For a large vocabulary, the response has some ten megabytes, which may take too long.
    let asked_whole = served.answers == Answers::Distribution;
    if served.engine == Engine::Vllm && !asked_whole && ask(Answers::Distribution).is_ok() {
        return Ok(Some(Answers::Distribution));
    }
    if known.is_none() && !answered(Answers::Sampled)? {
        return Ok(None);
    }
    let (wanted, most) = match served.answers {
        Answers::TopK(k) => (k, LONGEST_LIST.max(k)),
        Answers::Sampled | Answers::Distribution => (0, LONGEST_LIST),
    };
    let most = most.min(u32::try_from(entries).unwrap_or(u32::MAX));
    let mut low = if known.is_some() { wanted.min(most) } else { 0 };
    let mut high = if known.is_none() && wanted > 0 { wanted.min(most) } else { most + 1 };
    // The longest list first: a server without a limit is recognised by it.
    let mut next = high - 1;
    while low + 1 < high {
        if answered(Answers::TopK(next))? {
            low = next;
        } else {
            high = next;
        }
        next = low + (high - low) / 2;
    }
    Ok(Some(if low == 0 { Answers::Sampled } else { Answers::TopK(low) }))
}

/// Probes a server of rollouts. It pushes no weights, because the server may be sampling for a run.
pub fn probe_sampling(
    server: &RolloutServer,
    base: &Path,
    student: Option<StudentIdentity>,
    limit: Duration,
    findings: &Findings,
) {
    let Some(server) = findings.known(SamplingServer::with_time_limit(server, base, limit)) else { return };
    let address = server.address();
    findings.note(|report| report.url = Some(address.shown()));
    let failed = |problem| ask::failed(sampling::CALLED, address, problem);
    let Some(there) = findings.known(server.look().map_err(failed)) else { return };
    findings.identity(address, &there);
    let Some(student) = student else { return };
    let compared = server.compare_student(&there, student).map_err(failed);
    let agree = findings.known(compared).is_some();
    findings.note(|report| report.ids_agree = agree);
    let sampled = findings.known(server.try_out(&there, student.tokenizer).map_err(failed)).is_some();
    findings.note(|report| report.samples = sampled);
}
