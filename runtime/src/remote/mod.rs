//! Models on servers. A teacher's server gets token ids and returns log-probabilities or hidden states; a
//! server of rollouts returns completions of the student ([`sampling`]).
//!
//! Every response is checked before it is used: it echoes the ids that were sent, every token has a number,
//! numbers are finite and are log-probabilities, and only the first position may lack one. Transient failures
//! are retried, and an unreachable server is waited for. A server whose responses stay invalid, or whose
//! weights differ from those at the start of the run, ends the run.

mod address;
mod ask;
mod context;
mod hedge;
mod identity;
pub mod ledger;
mod listed;
pub mod own;
pub mod probe;
pub mod push;
pub mod sampling;
mod sglang;
mod vllm;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mopd_plan::events::FailureKind;
use mopd_plan::producers::SampledBy;
use mopd_plan::{Answers, Engine, Plan, RolloutServer, Served, Train};
use serde_json::{Value, json};
use tch::Tensor;

use self::address::Address;
pub use self::ask::CancelToken;
use self::ask::{ReplyProblem, ServerRequest};
use self::hedge::HedgeLog;
pub use self::identity::{ServerIdentity, StudentIdentity};
use self::ledger::teacher::TeacherLedger;
pub use self::listed::ListedTokens;
use self::own::SentTensor;
use self::sampling::SamplingServer;
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::tokenizer::{Token, Tokenizer};

/// Time limit of one request; a large batch of long sequences may take minutes.
const TIME_LIMIT: Duration = Duration::from_secs(600);

const TEACHER: &str = "the teacher's server";
/// Most requests of a batch in flight.
const AT_ONCE: usize = 16;

/// A server of one of the run's teachers.
pub struct Server {
    served: Served,
    address: Address,
    identity: ServerIdentity,
    /// The LM head of a server that returns last hidden states; fetched once.
    lm_head: Mutex<Option<SentTensor>>,
    /// The latencies of its responses. `None` for `mopd serve`, which scores requests one after the other: a
    /// second request would queue behind the slow one and delay others.
    hedges: Option<Arc<Mutex<HedgeLog>>>,
    ledger: TeacherLedger,
}

/// A sequence to be scored by a teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredSequence {
    pub prompt: Vec<Token>,
    /// At least one token.
    pub completion: Vec<Token>,
    /// Which tokens of the completion are scored; all where absent.
    pub scored: Option<Vec<bool>>,
}

impl ScoredSequence {
    fn ids(&self) -> Vec<Token> {
        [self.prompt.as_slice(), &self.completion].concat()
    }

    /// Indices of the scored tokens in the whole sequence.
    fn places(&self) -> impl Iterator<Item = usize> {
        let first = self.prompt.len();
        let scored = |place: &usize| self.scored.as_ref().is_none_or(|scored| scored[*place]);
        (0..self.completion.len()).filter(scored).map(move |place| first + place)
    }
}

/// The scores that a server returns for sequences.
pub enum ServedScores {
    /// For each sequence, one entry per scored token.
    Listed(Vec<ListedTokens>),
    /// Last hidden states `[tokens, width]` of each batch, in its order, with the LM head and its softcap.
    Hidden { batches: Vec<Tensor>, lm_head: Tensor, softcap: Option<f64> },
}

impl Server {
    /// Reads the address and the key, and requests the server's identity.
    ///
    /// # Errors
    /// If it can't be reached, or serves no model of that name.
    pub fn open(served: &Served, control: &Control) -> Result<Server> {
        Server::with_time_limit(served, TIME_LIMIT, control)
    }

    pub fn with_time_limit(served: &Served, limit: Duration, control: &Control) -> Result<Server> {
        let address = Address::new(&served.url, served.key.as_deref(), limit)?;
        let identity = ask::a_few_times(TEACHER, &address, control, || identity::identify(&address, served))?;
        let served = served.clone();
        let hedges = (served.engine != Engine::Mopd).then(Arc::default);
        // SGLang repeats in every answer the version that it reports about itself.
        let version = identity.weights.clone().filter(|_| served.engine == Engine::Sglang);
        let ledger = TeacherLedger::new(version);
        Ok(Server { served, address, identity, lm_head: Mutex::default(), hedges, ledger })
    }

    pub fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    /// The longest sequence that it scores, in tokens; `None` where the server does not report it.
    pub fn context(&self) -> Option<usize> {
        context::longest_scored(&self.served, &self.identity)
    }

    /// Whether whole distributions are requested.
    pub fn answers_all(&self) -> bool {
        self.served.answers == Answers::Distribution
    }

    /// The address for messages, without its secret parts.
    pub fn place(&self) -> String {
        self.address.shown()
    }

    /// Compares the texts of the server's ids with the student's tokenizer.
    ///
    /// # Errors
    /// If an id of the student's has another text on the server.
    pub fn compare_tokenizer(&self, student: &Tokenizer, control: &Control) -> Result<()> {
        let compare = || identity::compare(&self.address, &self.served, &self.identity, student);
        ask::a_few_times(TEACHER, &self.address, control, compare)
    }

    /// Scores one token as a stage will, to find unsupported settings before the first step.
    ///
    /// # Errors
    /// If the server does not support the request.
    pub fn try_out(&self, student: &Tokenizer, control: &Control) -> Result<()> {
        let Some(reading) = short_sequence(student)? else { return Ok(()) };
        let entries = student.vocabulary();
        let lists = || are_probabilities(&self.served, &self.address, &reading, entries);
        ask::a_few_times(TEACHER, &self.address, control, lists)?;
        let cancel = CancelToken::new(control);
        self.score(&[vec![reading]], entries, cancel).map(drop)?;
        self.record_canary(student, cancel)
    }

    /// Requests scores of sequences. `mopd serve` computes the sequences of a batch together. `entries` is
    /// the size of the student's vocabulary.
    fn request_scores(
        &self,
        batches: &[Vec<ScoredSequence>],
        entries: usize,
        cancel: CancelToken,
    ) -> Result<ServedScores> {
        if self.served.engine == Engine::Mopd {
            let requests = batches.iter().map(|batch| own::request(batch, &self.identity)).collect();
            let batches = self.ask(requests, cancel)?;
            let (lm_head, softcap) = self.lm_head(entries, cancel)?;
            let batches: Vec<Tensor> = batches.iter().map(SentTensor::tensor).collect();
            if batches.iter().any(|hidden| hidden.size()[1] != lm_head.size()[1]) {
                let message =
                    format!("the teacher's server {} returned rows of the wrong width", self.place());
                return Err(Error::new(FailureKind::Model, message));
            }
            return Ok(ServedScores::Hidden { batches, lm_head, softcap });
        }
        let readings = batches.iter().flatten();
        if let Some(longest) = readings.clone().map(|reading| reading.ids().len()).max() {
            context::check_sequence(&self.served, &self.address, &self.identity, longest)?;
        }
        let requests = readings.map(|reading| request_listed(&self.served, reading, entries));
        Ok(ServedScores::Listed(self.ask(requests.collect(), cancel)?))
    }

    /// Ids without a token have probability 0 in every model; in a list, one would displace a token.
    ///
    /// # Errors
    /// If one of the `absent` ids is listed.
    pub fn check_listed(&self, scores: &ServedScores, absent: &[Token]) -> Result<()> {
        let ServedScores::Listed(listed) = scores else { return Ok(()) };
        let mut ids = listed.iter().flat_map(|of| of.tokens.iter().flatten()).map(|(id, _)| id);
        let found = ids.find(|id| !self.answers_all() && absent.binary_search(id).is_ok());
        found.map_or(Ok(()), |id| {
            let message = format!(
                "the teacher's server {} returned the token {id}, which the tokenizer does not have",
                self.place()
            );
            Err(Error::new(FailureKind::Model, message).help(
                "request whole distributions: `answers: \
                dist`",
            ))
        })
    }

    fn ask<T: Send + 'static>(&self, requests: Vec<ServerRequest<T>>, cancel: CancelToken) -> Result<Vec<T>> {
        let (address, served, known) = (self.address.clone(), self.served.clone(), self.identity.clone());
        let look = move || match identity::identify(&address, &served)? {
            identity if identity == known => Ok(()),
            other => Err(known.changed(&other)),
        };
        let (address, look) = (self.address.clone(), Box::new(look));
        let hedges = self.hedges.clone();
        let server = ask::Recipient { address, called: TEACHER, at_once: AT_ONCE, look, hedges };
        ask::all(&Arc::new(server), requests, cancel)
    }

    /// A message about hedged requests, where there were some since the last one.
    pub fn take_hedged(&self) -> Option<String> {
        let told = self.hedges.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).take_message()?;
        Some(format!("{TEACHER} {}: {told}", self.place()))
    }

    fn lm_head(&self, entries: usize, cancel: CancelToken) -> Result<(Tensor, Option<f64>)> {
        let mut known = self.lm_head.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let head = self.ask(vec![own::request_lm_head(&self.identity)], cancel)?;
            *known = head.into_iter().next();
        }
        let head = known.as_ref().expect("it was just fetched");
        let lm_head = head.tensor();
        if lm_head.size()[0] < entries as i64 {
            let message = format!(
                "the teacher's server {} has logits for {} tokens, the student for {entries}",
                self.place(),
                lm_head.size()[0]
            );
            return Err(Error::new(FailureKind::Model, message));
        }
        Ok((lm_head, self.identity.softcap))
    }
}

/// The request for a sequence's scores, for an engine that lists tokens.
fn request_listed(served: &Served, reading: &ScoredSequence, entries: usize) -> ServerRequest<ListedTokens> {
    let (served, reading) = (served.clone(), reading.clone());
    let (path, body) = match served.engine {
        Engine::Vllm => (vllm::PATH, vllm::body(&served, &reading)),
        _ => (sglang::PATH, sglang::body(&served, &reading)),
    };
    ServerRequest {
        body: Some(body.to_string().into_bytes()),
        path,
        read: Box::new(move |said| match served.engine {
            Engine::Vllm => vllm::read(&served, &reading, entries, said),
            _ => sglang::read(&served, &reading, entries, said),
        }),
    }
}

/// Checks that an engine returns log-probabilities. Some can be configured to return logits, which for a
/// single token may look like a log-probability; that of the most probable token reveals it.
fn are_probabilities(
    served: &Served,
    address: &Address,
    reading: &ScoredSequence,
    entries: usize,
) -> Result<(), ReplyProblem> {
    if served.answers != Answers::Sampled {
        return Ok(());
    }
    let listing = Served { answers: Answers::TopK(1), ..served.clone() };
    match request_listed(&listing, reading, entries).once(address) {
        Err(ReplyProblem::Faulty(what)) => Err(ReplyProblem::Faulty(what)),
        // The server may not support lists at all.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Adds to settings of vLLM or SGLang all that is needed to sample from the whole distribution at temperature
/// 1, because settings that are not given are taken from the model's own.
fn whole_distribution(mut settings: Value) -> Value {
    let neutral = [
        ("temperature", json!(1.0)),
        ("top_p", json!(1.0)),
        ("top_k", json!(-1)),
        ("min_p", json!(0.0)),
        ("frequency_penalty", json!(0.0)),
        ("presence_penalty", json!(0.0)),
        ("repetition_penalty", json!(1.0)),
    ];
    for (name, value) in neutral {
        settings[name] = value;
    }
    settings
}

/// A sequence to try out servers with; `None` where the tokenizer has no tokens for letters.
fn short_sequence(student: &Tokenizer) -> Result<Option<ScoredSequence>> {
    let (prompt, completion) = (student.prompt("a")?, student.encode("b")?);
    let tokens = !prompt.is_empty() && !completion.is_empty();
    Ok(tokens.then_some(ScoredSequence { prompt, completion, scored: None }))
}

/// The servers of a run, without duplicates.
#[derive(Default)]
pub struct Servers {
    teachers: Vec<(Served, Server)>,
    /// Servers of rollouts.
    sampling: Vec<(RolloutServer, SamplingServer)>,
}

/// For runs without servers.
pub static NO_SERVERS: Servers = Servers { teachers: Vec::new(), sampling: Vec::new() };

impl Servers {
    /// Opens the servers of a plan, one after the other; `base` is the folder that paths are relative to.
    /// Servers of rollouts are not contacted yet, because no key depends on them.
    pub fn open(plan: &Plan, base: &Path, control: &Control) -> Result<Servers> {
        let mut servers = Servers::default();
        for model in &plan.experiment.models {
            for train in model.stage.trains() {
                for served in train.served() {
                    if servers.find(served).is_none() {
                        let server = Server::open(served, control).map_err(|error| error.at(model.origin))?;
                        servers.teachers.push((served.clone(), server));
                    }
                }
                for SampledBy { server: asked, .. } in train.sampled_by() {
                    if servers.sampling.iter().all(|(known, _)| known != asked) {
                        let server =
                            SamplingServer::new(asked, base).map_err(|error| error.at(model.origin))?;
                        servers.sampling.push((asked.clone(), server));
                    }
                }
            }
        }
        Ok(servers)
    }

    fn find(&self, served: &Served) -> Option<&Server> {
        self.teachers.iter().find(|(known, _)| known == served).map(|(_, server)| server)
    }

    /// # Panics
    /// If the server is not one of the plan's, which are opened before its stages begin.
    pub fn get(&self, served: &Served) -> &Server {
        self.find(served).expect("the servers of a plan are opened before its stages begin")
    }

    /// # Panics
    /// As for [`Servers::get`].
    pub fn sampling(&self, server: &RolloutServer) -> &SamplingServer {
        let found = self.sampling.iter().find(|(known, _)| known == server);
        &found.expect("the servers of a plan are opened before its stages begin").1
    }

    /// Checks that a stage's servers of rollouts respond, and can take its student's weights.
    pub fn check_sampling<O>(
        &self,
        train: &Train<O>,
        student: StudentIdentity,
        control: &Control,
    ) -> Result<()> {
        train.sampled_by().try_for_each(|asked| self.sampling(&asked.server).check_student(student, control))
    }

    /// Warns about a stage's servers to which requests were sent a second time.
    pub fn warn_hedged<O>(&self, train: &Train<O>, control: &Control) {
        let servers = train.served().map(|served| self.get(served));
        servers.filter_map(Server::take_hedged).for_each(|told| control.warn(told));
    }

    /// The identities of a stage's servers, for its key, in the order of its teachers.
    pub fn identities<O>(&self, train: &Train<O>) -> Vec<String> {
        train.served().map(|served| self.get(served).identity.hash()).collect()
    }

    /// Compares the tokenizers of a stage's served teachers with its student's, and tries them out, each once
    /// for the run.
    pub fn compare_tokenizers<O>(
        &self,
        train: &Train<O>,
        student: StudentIdentity,
        compared: &mut BTreeSet<(usize, String)>,
        control: &Control,
    ) -> Result<()> {
        for (place, (served, server)) in self.teachers.iter().enumerate() {
            if !train.served().any(|asked| asked == served) {
                continue;
            }
            context::check_longest(served, &server.address, &server.identity, student.longest)?;
            let StudentIdentity { tokenizer, .. } = student;
            if compared.insert((place, tokenizer.hash())) {
                server.compare_tokenizer(tokenizer, control)?;
                server.try_out(tokenizer, control)?;
            }
        }
        Ok(())
    }
}

/// Number of entries that are requested per token, its own excluded; `None` for the whole distribution.
fn wanted(served: &Served) -> Option<u32> {
    match served.answers {
        Answers::Sampled => Some(0),
        Answers::TopK(k) => Some(k),
        Answers::Distribution => None,
    }
}

/// The requests, for tests against the engines' own declarations.
#[cfg(test)]
pub mod conformance {

    use serde_json::Value;

    use super::*;

    pub fn body(served: &Served, reading: &ScoredSequence) -> Value {
        match served.engine {
            Engine::Vllm => vllm::body(served, reading),
            _ => sglang::body(served, reading),
        }
    }

    pub fn rollout(engine: Engine, prompt: &[Token], ends: &[Token]) -> Value {
        match engine {
            Engine::Vllm => vllm::rollout_body("teacher", "weights", prompt, ends, 8, 1),
            Engine::Mopd | Engine::Sglang => sglang::rollout_body(prompt, 8, 1, ends),
        }
    }

    pub fn detokenize(served: &Served, ids: &[Token]) -> Value {
        identity::detokenize(served, ids)
    }
}
