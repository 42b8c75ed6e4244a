//! The identity of a server: its model, the version of the weights, and the texts of its ids.

use mopd_plan::keys;
use mopd_plan::{Dtype, Engine, Served};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::address::Address;
use super::ask::ReplyProblem;
use super::own;
use crate::quote::quote;
use crate::tokenizer::{Token, Tokenizer};

/// The student that a server is compared with.
#[derive(Clone, Copy)]
pub struct StudentIdentity<'a> {
    pub tokenizer: &'a Tokenizer,
    /// The longest sequence of its stage, in tokens.
    pub longest: usize,
    pub dtype: Dtype,
}

/// A server's report about itself. Fields may be unknown: an engine that reports no version of its weights is
/// identified by the name of the model and of the files that it was started with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerIdentity {
    /// The model's name in requests.
    pub model: String,
    /// The files that it was started with.
    #[serde(default)]
    pub root: Option<String>,
    /// The version that was given to the weights when they were updated; of `mopd serve`, a content hash.
    #[serde(default)]
    pub weights: Option<String>,
    /// Longest sequence, in tokens.
    #[serde(default)]
    pub context: Option<usize>,
    /// A hash of its tokenizer; only `mopd serve` reports it.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The softcap of its logits; only `mopd serve` reports it.
    #[serde(default)]
    pub softcap: Option<f64>,
    /// Its compute dtype; only `mopd serve` reports it.
    #[serde(default)]
    pub dtype: Option<String>,
}

impl ServerIdentity {
    /// The hash that is part of keys.
    pub fn hash(&self) -> String {
        let ServerIdentity { model, root, weights, context: _, tokenizer, softcap, dtype } = self;
        let key = (model, root, weights, tokenizer, softcap, dtype);
        keys::hash("mopd served", keys::VERSION, &key).to_hex().to_string()
    }

    /// The problem that the server's identity changed.
    pub fn changed(&self, now: &ServerIdentity) -> ReplyProblem {
        let of = |identity: &ServerIdentity| {
            let weights =
                identity.weights.as_deref().or(identity.root.as_deref()).unwrap_or("unknown weights");
            format!("{} ({})", identity.model, quote(weights))
        };
        let what = format!("serves {} now, but served {} when the run began", of(now), of(self));
        ReplyProblem::lasting(
            what,
            "run again: finished stages are kept, and the new weights count as another teacher",
        )
    }
}

pub(super) fn parse(said: &[u8]) -> Result<Value, ReplyProblem> {
    serde_json::from_slice(said).map_err(|_| {
        let said = String::from_utf8_lossy(&said[..said.len().min(200)]).into_owned();
        ReplyProblem::Faulty(format!("returned a response that is not JSON: {}", quote(&said)))
    })
}

/// Requests a server's identity.
pub fn identify(address: &Address, served: &Served) -> Result<ServerIdentity, ReplyProblem> {
    if served.engine == Engine::Mopd {
        let said = address.get(own::MODEL)?;
        let identity: ServerIdentity = serde_json::from_slice(&said).map_err(|error| {
            ReplyProblem::Faulty(format!(
                "does not report which model it serves: \
                {error}"
            ))
        })?;
        return if identity.model == served.model {
            Ok(identity)
        } else {
            Err(unknown(served, &[&identity.model]))
        };
    }
    let listed = parse(&address.get("/v1/models")?)?;
    let models = listed["data"].as_array().cloned().unwrap_or_default();
    let named = |model: &&Value| model["id"] == json!(served.model);
    let Some(model) = models.iter().find(named) else {
        let names: Vec<&str> = models.iter().filter_map(|model| model["id"].as_str()).collect();
        return Err(unknown(served, &names));
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let context = model["max_model_len"].as_u64().map(|context| context as usize);
    let (root, model) = (text(&model["root"]), served.model.clone());
    let known = ServerIdentity { model, root, context, ..ServerIdentity::default() };
    if served.engine != Engine::Sglang {
        return Ok(known);
    }
    let info = parse(&address.get("/model_info")?)?;
    Ok(ServerIdentity { root: text(&info["model_path"]), weights: text(&info["weight_version"]), ..known })
}

fn unknown(served: &Served, names: &[&str]) -> ReplyProblem {
    let names: Vec<String> = names.iter().map(|name| quote(name).to_string()).collect();
    ReplyProblem::lasting(
        format!("does not serve the model {}; it serves {}", quote(&served.model), names.join(", ")),
        "set `model: \"...\"` to the name that the server uses",
    )
}

/// Ids per request in the comparison of texts.
const AT_ONCE: usize = 512;

/// Compares the texts of the server's ids, each decoded alone, with the student's tokenizer.
pub fn compare(
    address: &Address,
    served: &Served,
    identity: &ServerIdentity,
    student: &Tokenizer,
) -> Result<(), ReplyProblem> {
    let other = |what: String| {
        let what = format!("has another tokenizer than the student: {what}");
        ReplyProblem::lasting(what, "serve a model of the student's family, with the same token ids")
    };
    if served.engine == Engine::Mopd {
        let same = identity.tokenizer.as_deref() == Some(student.hash().as_str());
        return if same { Ok(()) } else { Err(other("their files differ".to_owned())) };
    }
    let own = |ids: &[Token]| {
        let text = student.as_read(ids);
        text.map_err(|error| {
            ReplyProblem::lasting(format!("can't be compared: {error}"), "check the tokenizer")
        })
    };
    let absent = student.absent();
    let ids = (0..student.vocabulary() as Token).filter(|id| absent.binary_search(id).is_err());
    let ids: Vec<Token> = ids.collect();
    for chunk in ids.chunks(AT_ONCE) {
        if text_there(address, served, chunk)? == own(chunk)? {
            continue;
        }
        // Neighbours may change a token's text, so only a difference of the token alone counts.
        for id in chunk {
            let (there, here) = (text_there(address, served, &[*id])?, own(&[*id])?);
            if there != here {
                return Err(other(format!(
                    "the id {id} is {} on the server and {} \
                    here",
                    quote(&there),
                    quote(&here)
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn detokenize(served: &Served, ids: &[Token]) -> Value {
    let mut body = json!({ "model": served.model, "tokens": ids });
    if served.engine == Engine::Sglang {
        body["skip_special_tokens"] = json!(false);
    }
    body
}

fn text_there(address: &Address, served: &Served, ids: &[Token]) -> Result<String, ReplyProblem> {
    let body = detokenize(served, ids);
    let field = if served.engine == Engine::Sglang { "text" } else { "prompt" };
    let said = parse(&address.post("/detokenize", body.to_string().as_bytes())?)?;
    let text = said[field].as_str().map(str::to_owned);
    text.ok_or_else(|| ReplyProblem::Faulty(format!("answered /detokenize without `{field}`")))
}
