//! Rollouts sampled by a server. The student's weights go there as files before each step. Every request
//! names its weights, and a server with other weights refuses it. `mopd serve` uses the run's own random
//! numbers, so that its completions are those that the run would have sampled. vLLM and SGLang get a seed for
//! each completion, and report the weights that sampled it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mopd_plan::events::FailureKind;
use mopd_plan::{Answers, Engine, RolloutServer, Sampling, Served};
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::ask::{self, CancelToken, Recipient, ReplyProblem, ServerRequest};
use super::identity::{self, ServerIdentity, StudentIdentity, parse};
use super::ledger::ending::{self, Ending};
use super::push::{self, Push, PushedWeights, canary};
use super::{context, own, sglang, vllm};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::random::{Key, Purpose};
use crate::rollout::{Completion, OwnedPrompt, Prompt, RolloutRequest};
use crate::tokenizer::{Token, Tokenizer};

pub(super) const CALLED: &str = "the server of rollouts";
/// Time limit of a request, which may be all completions of a step.
const TIME_LIMIT: Duration = Duration::from_secs(3600);
/// Requests to vLLM or SGLang in flight, which these batch.
const AT_ONCE: usize = 64;
/// Number of seeds that every kind of server accepts.
const SEEDS: usize = 1 << 29;
/// Panic message: `mopd serve` gets no separate request per completion.
const OWN_FORM: &str = "mopd serve is asked in a form of its own";
/// Number of earlier weights whose canaries are remembered.
const REMEMBERED: usize = 8;
/// Tolerance for rounding in single precision above a log-probability of 0.
const SLACK: f64 = 1e-5;

/// A request to `mopd serve`: prompts, and how to sample their completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutBatch {
    /// Content hash of the weights that are to sample.
    pub weights: String,
    pub prompts: Vec<OwnedPrompt>,
    pub sampling: Sampling,
    pub key: Key,
}

/// The completions of a [`RolloutBatch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentRollouts {
    weights: String,
    /// A hash of the request.
    asked: String,
    completions: Vec<SentCompletion>,
}

/// A completion by vLLM or SGLang, as they return it.
pub struct WrittenByEngine {
    /// The version of the weights that wrote it.
    pub weights: String,
    pub tokens: Vec<Token>,
    pub logps: Vec<f64>,
    pub ending: Ending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SentCompletion {
    tokens: Vec<Token>,
    /// Single-precision numbers, sent as f64 so that their digits in JSON are exact to the bit.
    logps: Vec<f64>,
    truncated: bool,
}

impl SentRollouts {
    pub fn new(written: Vec<Completion>, weights: String, asked: &[u8]) -> SentRollouts {
        let completion = |Completion { tokens, logps, truncated, .. }: Completion| SentCompletion {
            tokens,
            logps: logps.into_iter().map(f64::from).collect(),
            truncated,
        };
        let completions = written.into_iter().map(completion).collect();
        SentRollouts { weights, asked: own::hash(asked), completions }
    }

    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("completions are plain data")
    }

    /// Parses a response and checks all of it.
    fn read(
        said: &[u8],
        batch: &RolloutBatch,
        asked: &str,
        entries: usize,
        ends: &[Token],
    ) -> Result<Vec<Completion>, ReplyProblem> {
        let wrong = |what: String| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
        let SentRollouts { weights, asked: of, completions } =
            serde_json::from_slice(said).map_err(|error| wrong(error.to_string()))?;
        if of != asked {
            return Err(wrong("it belongs to another request".to_owned()));
        }
        if weights != batch.weights {
            return Err(ReplyProblem::Stale(format!("sampled with the weights {weights}")));
        }
        let n = batch.sampling.n as usize;
        if completions.len() != n * batch.prompts.len() {
            let wanted = n * batch.prompts.len();
            return Err(wrong(format!("{} completions instead of {wanted}", completions.len())));
        }
        let each = |(place, completion): (usize, SentCompletion)| {
            let most = batch.sampling.max_tokens(batch.prompts[place / n].limit);
            let ending = if completion.truncated { Ending::Length } else { Ending::Stop(None) };
            completion.checked(ending, most, entries, ends, !batch.sampling.stop.is_empty())
        };
        completions.into_iter().enumerate().map(each).collect()
    }
}

impl SentCompletion {
    /// Checks a completion of at most `most` tokens from a vocabulary of `entries` entries, which ended at a
    /// token of `ends` or, with `stops`, at a text.
    fn checked(
        self,
        ending: Ending,
        most: u32,
        entries: usize,
        ends: &[Token],
        stops: bool,
    ) -> Result<Completion, ReplyProblem> {
        let SentCompletion { tokens, logps, .. } = self;
        let wrong = |what: String| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
        let (most, known) = (most as usize, |id: &Token| (0..entries as Token).contains(id));
        if tokens.is_empty() || tokens.len() > most || !tokens.iter().all(known) {
            return Err(wrong(format!("a completion that is not a list of 1 to {most} tokens")));
        }
        let truncated = ending::truncated(ending, &tokens, most, ends, stops).map_err(wrong)?;
        let sound = |logp: &f64| logp.is_finite() && *logp <= SLACK;
        if logps.len() != tokens.len() || !logps.iter().all(sound) {
            return Err(wrong("a completion without log-probabilities of its tokens".to_owned()));
        }
        let logps = logps.into_iter().map(|logp| logp as f32).collect();
        Ok(Completion { tokens, logps, truncated, ..Completion::default() })
    }
}

/// The weights that were pushed to a server before.
#[derive(Default)]
struct PushHistory {
    folder: Option<PathBuf>,
    /// The newest last; the first one is always kept.
    canaries: Vec<(String, Vec<f32>)>,
    /// Content hash of the weights whose canary was compared last.
    compared: Option<String>,
}

/// A server that samples the student's rollouts.
pub struct SamplingServer {
    served: Served,
    address: Address,
    folder: PathBuf,
    /// Locked while a stage's weights are on the server, so that stages use it one at a time.
    given: Mutex<PushHistory>,
}

impl SamplingServer {
    /// Sends no request yet; `base` is the folder that paths are relative to.
    ///
    /// # Errors
    /// If an environment variable is not set, or holds no address.
    pub fn new(server: &RolloutServer, base: &Path) -> Result<SamplingServer> {
        SamplingServer::with_time_limit(server, base, TIME_LIMIT)
    }

    pub fn with_time_limit(server: &RolloutServer, base: &Path, limit: Duration) -> Result<SamplingServer> {
        let RolloutServer { engine, url, model, push, key } = server;
        let address = Address::new(url, key.as_deref(), limit)?;
        let (url, model, key) = (url.clone(), model.clone(), key.clone());
        let served = Served { engine: *engine, url, model, answers: Answers::Sampled, key };
        let folder = std::path::absolute(base.join(push)).map_err(|error| no_folder(push, &error))?;
        Ok(SamplingServer { served, address, folder, given: Mutex::default() })
    }

    /// The address for messages, without its secret parts.
    pub fn place(&self) -> String {
        self.address.shown()
    }

    /// The folder to which weights for the server are written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn identify(&self, control: &Control) -> Result<ServerIdentity> {
        ask::a_few_times(CALLED, &self.address, control, || self.look())
    }

    pub(super) fn look(&self) -> Result<ServerIdentity, ReplyProblem> {
        push::identify(&self.address, &self.served)
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Checks that the server responds, and can take the weights of a stage's student.
    pub fn check_student(&self, student: StudentIdentity, control: &Control) -> Result<()> {
        let there = self.identify(control)?;
        let compare = || self.compare_student(&there, student);
        ask::a_few_times(CALLED, &self.address, control, compare)?;
        fs::create_dir_all(&self.folder).map_err(|error| no_folder(&self.folder.display(), &error))
    }

    /// Checks that the server's identity fits a stage's student.
    pub(super) fn compare_student(
        &self,
        there: &ServerIdentity,
        student: StudentIdentity,
    ) -> Result<(), ReplyProblem> {
        let StudentIdentity { tokenizer, longest, dtype } = student;
        let other = |what: &str, help: &str| Err(ReplyProblem::lasting(what, help));
        let mopd = self.served.engine == Engine::Mopd;
        if !mopd {
            identity::compare(&self.address, &self.served, there, tokenizer)?;
        } else if there.tokenizer.as_deref() != Some(tokenizer.hash().as_str()) {
            return other(
                "has another tokenizer than the student",
                "start it with the student's initial model: its weights are replaced",
            );
        }
        let reserve = context::completion_reserve(self.served.engine);
        let needed = longest + reserve.map_or(0, |reserve| reserve.tokens);
        if let Some(own) = there.context.filter(|own| *own < needed) {
            let reason = reserve.map_or_else(String::new, |reserve| format!(", and {}", reserve.reason));
            return other(
                &format!(
                    "has a context of {own} tokens, but the longest sequence of the stage has {longest}{reason}"
                ),
                "start it with a longer context, or lower `max_tokens`",
            );
        }
        if mopd && there.dtype.as_deref() != Some(dtype.name()) {
            return other(
                &format!(
                    "computes in {}, the run in {}",
                    there.dtype.as_deref().unwrap_or_default(),
                    dtype.name()
                ),
                &format!("start it with `--dtype {}`", dtype.name()),
            );
        }
        Ok(())
    }

    /// Lets the server sample one token by its current weights, whatever they are.
    pub(super) fn try_out(&self, there: &ServerIdentity, tokenizer: &Tokenizer) -> Result<(), ReplyProblem> {
        let tokens = tokenizer.prompt("a").map_err(|error| {
            ReplyProblem::lasting(format!("cannot be tested: {error}"), "check the tokenizer")
        })?;
        let prompts = [Prompt { tokens: &tokens, id: 0, sample: 0, limit: None }];
        let key = Key::new(0, 0, Purpose::Sample, 0);
        let rollout = RolloutRequest::new(&prompts, &Sampling::new(1, 1.0, 1), key);
        let weights = there.weights.clone().unwrap_or_default();
        match self.served.engine {
            Engine::Mopd => request(weights, &rollout, tokenizer).once(&self.address).map(drop),
            Engine::Vllm | Engine::Sglang => {
                let requests = self.of_engine(&weights, &rollout, tokenizer);
                requests.iter().try_for_each(|request| request.once(&self.address).map(drop))
            }
        }
    }

    /// Samples completions, in the order of the prompts, by the weights that `written` puts into the folder.
    /// `tolerance` is that of the canary.
    pub fn sample(
        &self,
        written: impl FnOnce() -> Result<PushedWeights>,
        rollout: &RolloutRequest,
        tokenizer: &Tokenizer,
        tolerance: f64,
        control: &Control,
    ) -> Result<Vec<Completion>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // Only under the lock: the previous holder deletes the weights that were pushed before its own.
        let pushed = written()?;
        // Weights of the same name may come from another run whose canary differed.
        let compared = Arc::new(AtomicBool::new(given.compared.as_ref() == Some(&pushed.content)));
        let push = Push {
            served: self.served.clone(),
            address: self.address.clone(),
            canary: canary(tokenizer)?,
            entries: tokenizer.vocabulary(),
            tolerance,
            one: Mutex::default(),
            compared: compared.clone(),
            earlier: given.canaries.clone(),
            pushed: pushed.clone(),
        };
        let (address, look) = (self.address.clone(), Box::new(move || push.run()));
        let server = Arc::new(Recipient { address, called: CALLED, at_once: AT_ONCE, look, hedges: None });
        let (weights, cancel) = (pushed.content.clone(), CancelToken::new(control));
        // Checked first, so that nothing is sampled by other weights.
        ask::all(&server, vec![request_version(self.served.engine, &weights, compared)], cancel)?;
        let completions = match self.served.engine {
            Engine::Mopd => {
                let request = request(weights, rollout, tokenizer);
                ask::all(&server, vec![request], cancel)?.swap_remove(0)
            }
            Engine::Vllm | Engine::Sglang => {
                ask::all(&server, self.of_engine(&weights, rollout, tokenizer), cancel)?
            }
        };
        given.record(pushed);
        Ok(completions)
    }

    /// One request per completion, for vLLM or SGLang; `mopd serve` takes all in one request.
    fn of_engine(
        &self,
        weights: &str,
        rollout: &RolloutRequest,
        tokenizer: &Tokenizer,
    ) -> Vec<ServerRequest<Completion>> {
        let RolloutRequest { prompts, sampling, key } = rollout;
        let (entries, engine) = (tokenizer.vocabulary(), self.served.engine);
        let one = |prompt: &OwnedPrompt, sample: u32| {
            let most = sampling.max_tokens(prompt.limit);
            let seed = key.row(prompt.id, prompt.sample + sample).below(SEEDS) as u64;
            let ends = tokenizer.ends().to_vec();
            let (path, body) = match engine {
                Engine::Vllm => {
                    let model = &self.served.model;
                    let body = vllm::rollout_body(model, weights, &prompt.tokens, &ends, most, seed);
                    (vllm::GENERATE, body)
                }
                Engine::Sglang => (sglang::PATH, sglang::rollout_body(&prompt.tokens, most, seed, &ends)),
                Engine::Mopd => unreachable!("{OWN_FORM}"),
            };
            let (weights, prompt) = (weights.to_owned(), prompt.tokens.clone());
            let read = move |said: &[u8]| {
                let WrittenByEngine { weights: by, tokens, logps, ending } = match engine {
                    Engine::Vllm => vllm::read_rollout(&prompt, said)?,
                    Engine::Sglang => sglang::read_rollout(&prompt, said)?,
                    Engine::Mopd => unreachable!("{OWN_FORM}"),
                };
                if by != weights {
                    return Err(ReplyProblem::Stale(format!("sampled with the weights {by}")));
                }
                let completion = SentCompletion { tokens, logps, truncated: false };
                completion.checked(ending, most, entries, &ends, false)
            };
            ServerRequest { body: Some(body.to_string().into_bytes()), path, read: Box::new(read) }
        };
        prompts.iter().flat_map(|prompt| (0..sampling.n).map(move |sample| one(prompt, sample))).collect()
    }
}

/// The request for all completions, for `mopd serve`.
fn request(
    weights: String,
    rollout: &RolloutRequest,
    tokenizer: &Tokenizer,
) -> ServerRequest<Vec<Completion>> {
    let (entries, ends) = (tokenizer.vocabulary(), tokenizer.ends().to_vec());
    let RolloutRequest { prompts, sampling, key } = rollout.clone();
    let batch = RolloutBatch { weights, prompts, sampling, key };
    let body = serde_json::to_vec(&batch).expect("prompts are plain data");
    let asked = own::hash(&body);
    ServerRequest {
        body: Some(body),
        path: own::ROLLOUTS,
        read: Box::new(move |said| SentRollouts::read(said, &batch, &asked, entries, &ends)),
    }
}

/// A request that checks that a server reports these weights, and that their canary was compared.
fn request_version(engine: Engine, weights: &str, compared: Arc<AtomicBool>) -> ServerRequest<()> {
    let weights = weights.to_owned();
    let (path, field) = match engine {
        Engine::Mopd => (own::MODEL, "weights"),
        Engine::Vllm => (vllm::WEIGHT_INFO, "weight_version"),
        Engine::Sglang => ("/model_info", "weight_version"),
    };
    let read = move |said: &[u8]| match parse(said)?[field].as_str() {
        Some(there) if there == weights && compared.load(Ordering::Relaxed) => Ok(()),
        there => Err(ReplyProblem::Stale(format!("has the weights {}", there.unwrap_or("unknown")))),
    };
    ServerRequest { body: None, path, read: Box::new(read) }
}

impl PushHistory {
    /// Remembers the canary, and deletes the previous folder, which is not needed any more.
    fn record(&mut self, PushedWeights { folder, content, of, canary }: PushedWeights) {
        self.compared = Some(content);
        if let Some(before) = self.folder.replace(folder.clone()).filter(|before| *before != folder) {
            // If it can't be deleted, it stays.
            let _ = fs::remove_dir_all(before);
        }
        // Several batches of a step have the same weights.
        if self.canaries.last().is_none_or(|(last, _)| *last != of) {
            self.canaries.push((of, canary));
        }
        if self.canaries.len() > REMEMBERED {
            self.canaries.remove(1);
        }
    }
}

fn no_folder(folder: &dyn std::fmt::Display, error: &std::io::Error) -> Error {
    let message = format!("cannot write weights for the server of rollouts to {folder}: {error}");
    Error::new(FailureKind::Runtime, message).help(
        "`push` must be a folder that this machine and the \
        server can both access",
    )
}
