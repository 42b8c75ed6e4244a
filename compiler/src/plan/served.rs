//! Models behind servers: token ids go there, numbers come back; or completions of the student.

use std::fmt;

use mopd_lang::experiment::Capability;
use serde::{Deserialize, Serialize};

use super::{Dtype, Secret};

/// A model that another program holds, on this machine or another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub engine: Engine,
    pub url: Secret,
    /// As the server calls it.
    pub model: String,
    pub answers: Answers,
    /// The environment variable that holds the token which the server asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A server that samples the student's rollouts. Before it does, it gets the weights that the student has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutServer {
    pub engine: Engine,
    pub url: Secret,
    /// As the server calls it.
    pub model: String,
    /// The folder that weights go there by, as this machine sees it.
    pub push: String,
    /// The environment variable that holds the token which the server asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What `mopd serve` asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServeJob {
    /// A model's folder, or its name on the hub.
    pub model: String,
    /// Folder that it is relative to.
    pub base: String,
    /// As requests call it.
    pub name: String,
    /// `127.0.0.1:8000`; port 0 is any that is free.
    pub address: String,
    /// The environment variable that holds the token which requests must have.
    #[serde(default)]
    pub key: Option<String>,
    /// Weights may be taken from folders inside this one.
    #[serde(default)]
    pub updates: Option<String>,
    pub dtype: Dtype,
    /// Tokens of a request at most, all its sequences together.
    pub tokens: u32,
    /// Entries of a token at most, beside its own; all where absent.
    pub entries: Option<u32>,
}

/// What a server speaks.
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

/// What is asked of each token, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// Its log-probability.
    Sampled,
    /// That, and the most probable tokens with theirs.
    TopK(u32),
    /// The whole distribution.
    Distribution,
}

impl Answers {
    /// What is asked of a server that the language says this of; nothing of one that only writes.
    pub(crate) fn of(capability: Capability) -> Option<Answers> {
        match capability {
            Capability::Text => None,
            Capability::Sampled => Some(Answers::Sampled),
            Capability::TopK(k) => Some(Answers::TopK(k)),
            Capability::Distribution => Some(Answers::Distribution),
        }
    }

    /// As the language has it.
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

/// A served teacher as it enters keys: not where the server is. Which weights it has, the server says when
/// the run starts.
#[derive(Serialize)]
pub(crate) struct ServedMeaning<'a> {
    engine: Engine,
    model: &'a str,
    answers: Answers,
}

impl Served {
    pub(crate) fn meaning(&self) -> ServedMeaning<'_> {
        let Served { engine, url: _, model, answers, key: _ } = self;
        ServedMeaning { engine: *engine, model, answers: *answers }
    }
}
