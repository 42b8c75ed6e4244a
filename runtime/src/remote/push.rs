//! Pushes weights to the server of rollouts, and verifies that it uses them: the server scores a short text,
//! the canary, which the trainer has scored, too.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mopd_plan::events::FailureKind;
use mopd_plan::{Engine, Served};
use serde_json::{Value, json};

use super::address::Address;
use super::ask::ReplyProblem;
use super::identity::{self, ServerIdentity, parse};
use super::ledger::gap::mean_difference;
use super::{ScoredSequence, request_listed, vllm};
use crate::failure::{Error, Result};
use crate::quote::quote;
use crate::tokenizer::Tokenizer;

/// The settings that vLLM needs to take weights, and to report the weights that it samples with.
const DEVELOPMENT: &str =
    "start vLLM with `VLLM_SERVER_DEV_MODE=1` in its environment and with `--enable-scale-out`";
/// The name of the server's weights while new ones are loaded.
const NONE: &str = "none";

const CANARY: &str = "The canary sings what it was taught: 0123456789.";

/// Weights in a folder that the server can read, with the trainer's log-probabilities of the canary.
#[derive(Clone, Debug)]
pub struct PushedWeights {
    pub folder: PathBuf,
    /// Content hash of the weights.
    pub content: String,
    /// `step 12 of \`student\``
    pub of: String,
    pub canary: Vec<f32>,
}

/// Requests a server's identity. SGLang names its model by the folder of the newest weights, so the model is
/// not requested by name.
pub(super) fn identify(address: &Address, served: &Served) -> Result<ServerIdentity, ReplyProblem> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match served.engine {
        Engine::Mopd => return identity::identify(address, served),
        Engine::Vllm => {
            let known = identity::identify(address, served)?;
            let info = address.get(vllm::WEIGHT_INFO).map_err(|problem| with_help(problem, DEVELOPMENT))?;
            return Ok(ServerIdentity { weights: text(&parse(&info)?["weight_version"]), ..known });
        }
        Engine::Sglang => {}
    }
    let (info, listed) = (parse(&address.get("/model_info")?)?, parse(&address.get("/v1/models")?)?);
    let context = listed["data"][0]["max_model_len"].as_u64().map(|context| context as usize);
    let (root, weights) = (text(&info["model_path"]), text(&info["weight_version"]));
    Ok(ServerIdentity { model: served.model.clone(), root, weights, context, ..ServerIdentity::default() })
}

/// A text whose scores distinguish weights; the first token is the prompt.
pub fn canary(tokenizer: &Tokenizer) -> Result<ScoredSequence> {
    let mut ids = tokenizer.encode(CANARY)?;
    // Short enough for any context.
    ids.truncate(16);
    if ids.len() < 2 {
        let message = "the student's tokenizer does not split a test sentence into two tokens or more";
        return Err(Error::new(FailureKind::Model, message));
    }
    let completion = ids.split_off(1);
    Ok(ScoredSequence { prompt: ids, completion, scored: None })
}

/// A push of weights to a server, with the data for its verification.
pub(super) struct Push {
    pub served: Served,
    pub address: Address,
    pub pushed: PushedWeights,
    pub canary: ScoredSequence,
    pub entries: usize,
    /// Locked by the request that pushes; other requests that find old weights wait for it.
    pub one: Mutex<()>,
    /// Set once the canary was compared.
    pub compared: Arc<AtomicBool>,
    /// Largest mean difference between log-probabilities of the canary.
    pub tolerance: f64,
    /// The trainer's canaries of weights that were pushed before.
    pub earlier: Vec<(String, Vec<f32>)>,
}

impl Push {
    pub fn run(&self) -> Result<(), ReplyProblem> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let PushedWeights { content, of, .. } = &self.pushed;
        let has = || Ok::<_, ReplyProblem>(identify(&self.address, &self.served)?.weights);
        if has()?.as_ref() != Some(content) {
            self.give()?;
            if has()?.as_ref() != Some(content) {
                return Err(ReplyProblem::lasting(
                    format!("does not have the weights of {of} after they were sent"),
                    "no other run may send weights to this server",
                ));
            }
        }
        self.compare()?;
        self.compared.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn give(&self) -> Result<(), ReplyProblem> {
        let PushedWeights { folder, content, .. } = &self.pushed;
        let post = |path: &str, body: &Value| self.address.post(path, body.to_string().as_bytes());
        if self.served.engine == Engine::Vllm {
            let named = |version: &str| {
                let said = post("/update_weight_version", &json!({ "new_version": version }));
                said.map(drop).map_err(|problem| with_help(problem, DEVELOPMENT))
            };
            // vLLM takes any name for its weights. If the update is interrupted, this name remains, which no
            // request uses.
            named(NONE)?;
            let update = json!({ "method": "reload_weights", "kwargs": { "weights_path": folder } });
            post("/collective_rpc", &update).map_err(|problem| not_taken(problem, self.served.engine))?;
            // The cache of prompts is from the previous weights.
            let said = parse(&post("/reset_prefix_cache", &Value::Null)?)?;
            if said["success"] != json!(true) {
                return Err(ReplyProblem::Gone("still answers earlier requests".to_owned()));
            }
            return named(content);
        }
        // `mopd serve` resolves the name in its own folder.
        let path = match self.served.engine {
            Engine::Mopd => folder.file_name().map(Path::new).unwrap_or(folder),
            Engine::Vllm | Engine::Sglang => folder,
        };
        let update = json!({ "model_path": path.to_string_lossy(), "weight_version": content });
        let given = post("/update_weights_from_disk", &update);
        given.map(drop).map_err(|problem| not_taken(problem, self.served.engine))
    }

    /// Compares the server's log-probabilities of the canary with the trainer's.
    fn compare(&self) -> Result<(), ReplyProblem> {
        let said = request_listed(&self.served, &self.canary, self.entries).once(&self.address)?;
        let there: Vec<f32> = said.tokens.iter().map(|entries| entries[0].1).collect();
        let difference = mean_difference(&there, &self.pushed.canary);
        if difference <= self.tolerance {
            return Ok(());
        }
        let near =
            self.earlier.iter().rev().find(|(_, canary)| mean_difference(&there, canary) <= self.tolerance);
        let seems = match near {
            Some((of, _)) => format!("they are those of {of}"),
            None => "no weights that this run sent give these".to_owned(),
        };
        let what = format!(
            "reports the weights of {}, but its log-probabilities of {} differ from the trainer's by \
            {difference:.4} on average, more than {}: {seems}",
            self.pushed.of,
            quote(CANARY),
            self.tolerance
        );
        Err(ReplyProblem::lasting(what, "restart the server: nothing was sampled with these weights"))
    }
}

fn with_help(problem: ReplyProblem, help: &str) -> ReplyProblem {
    match problem {
        ReplyProblem::Lasting { what, .. } => ReplyProblem::lasting(what, help),
        other => other,
    }
}

fn not_taken(problem: ReplyProblem, engine: Engine) -> ReplyProblem {
    let readable =
        "the server must be able to read the folder `push` under the same path; its log has details";
    match (engine, problem) {
        // vLLM reports an unreadable folder as an internal error.
        (Engine::Vllm | Engine::Sglang, ReplyProblem::Faulty(what)) => ReplyProblem::lasting(what, readable),
        (Engine::Vllm, problem) => with_help(problem, DEVELOPMENT),
        (Engine::Sglang, problem) => with_help(problem, readable),
        (Engine::Mopd, problem) => {
            with_help(problem, "let the server read the folder `push`: `mopd serve --allow-updates FOLDER`")
        }
    }
}
