//! Models on servers: they get token ids, and return numbers or the student's completions.

use std::fmt;

use mopd_experiment::{Capability, Dtype, PretrainedSource, Secret};
use serde::{Deserialize, Serialize};

/// A teacher that another program has loaded, on this machine or another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub engine: Engine,
    pub url: Secret,
    /// The model's name at the server.
    pub model: String,
    pub answers: Answers,
    /// The environment variable with the token that the server requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A server that samples the student's rollouts. It gets the student's current weights first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutServer {
    pub engine: Engine,
    pub url: Secret,
    /// The model's name at the server.
    pub model: String,
    /// The folder through which weights reach the server, as this machine sees it.
    pub push: String,
    /// The environment variable with the token that the server requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The job of `mopd serve`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServeJob {
    pub model: PretrainedSource,
    /// The folder that a relative path of the model is in.
    pub base: String,
    /// The model's name in requests.
    pub name: String,
    /// `127.0.0.1:8000`. Port 0 chooses a free port.
    pub address: String,
    /// The environment variable with the token that requests must have.
    #[serde(default)]
    pub key: Option<String>,
    /// The folder inside which weights for updates may be.
    #[serde(default)]
    pub updates: Option<String>,
    pub dtype: Dtype,
    /// The most tokens of a request, over all its sequences.
    pub tokens: u32,
    /// The most entries listed per token, besides the token's own; all where absent.
    pub entries: Option<u32>,
}

/// The job of `mopd rewards`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewardsJob {
    /// An exported folder, as an absolute path.
    pub folder: String,
}

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// `/v1/completions` with `prompt_logprobs`.
    Vllm,
    /// `/generate` with `return_logprob`.
    Sglang,
    /// `mopd serve`: last hidden states, and the LM head once.
    Mopd,
}

impl Engine {
    pub const ALL: [Engine; 3] = [Engine::Vllm, Engine::Sglang, Engine::Mopd];

    pub fn name(self) -> &'static str {
        match self {
            Engine::Vllm => "vllm",
            Engine::Sglang => "sglang",
            Engine::Mopd => "mopd",
        }
    }

    pub fn named(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

/// A server's output for each token, from least to most informative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// Its log-probability.
    Sampled,
    /// Its log-probability, and the most probable tokens with theirs.
    TopK(u32),
    /// The whole distribution.
    Distribution,
}

impl Answers {
    /// The output with this capability. `None` for one that only writes.
    pub fn from_capability(capability: Capability) -> Option<Answers> {
        match capability {
            Capability::Text => None,
            Capability::Sampled => Some(Answers::Sampled),
            Capability::TopK(k) => Some(Answers::TopK(k)),
            Capability::Distribution => Some(Answers::Distribution),
        }
    }

    /// The capability in the language.
    pub fn capability(self) -> Capability {
        match self {
            Answers::Sampled => Capability::Sampled,
            Answers::TopK(k) => Capability::TopK(k),
            Answers::Distribution => Capability::Distribution,
        }
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answers::Sampled => f.write_str("sampled"),
            Answers::TopK(k) => write!(f, "top_k({k})"),
            Answers::Distribution => f.write_str("dist"),
        }
    }
}

/// A served teacher in keys, without the server's address. The server reports its weights when the run
/// starts.
#[derive(Serialize)]
pub struct ServedMeaning<'a> {
    engine: Engine,
    model: &'a str,
    answers: Answers,
}

impl Served {
    pub fn meaning(&self) -> ServedMeaning<'_> {
        let Served { engine, url: _, model, answers, key: _ } = self;
        ServedMeaning { engine: *engine, model, answers: *answers }
    }
}
