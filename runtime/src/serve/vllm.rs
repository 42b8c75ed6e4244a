//! vLLM's `/v1/completions` and `/inference/v1/generate`, as far as runs need them: prompts as token ids,
//! their log-probabilities, and completions.

use axum::body::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::answer_size::counted;
use super::engine::{EngineRequest, Generated, ScoreRequest, TokenScores};
use super::http::{Shared, ids};
use super::settings::{self, count, flag, only, sampling, without_special_tokens};
use super::transport::RequestRefusal;
use super::write::WriteRequest;
use crate::rollout::Completion;
use crate::tokenizer::Token;

const KNOWN: &[&str] = &[
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "seed",
    "prompt_logprobs",
    "return_token_ids",
    "add_special_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logprobs",
    "user",
    "request_id",
];
const GENERATE: &[&str] = &[
    "model",
    "token_ids",
    "sampling_params",
    "return_token_ids",
    "request_id",
    // Has no effect: no prompt is cached.
    "cache_salt",
];
const SAMPLING: &[&str] = &[
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop_token_ids",
    "ignore_eos",
    "logprobs",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
];

/// The seed of a request. As vLLM's sampling parameters have it, -1 is none.
fn seed(asked: &Map<String, Value>) -> Result<Option<u64>, RequestRefusal> {
    let is_none = asked.get("seed").and_then(Value::as_f64) == Some(-1.0);
    if is_none { Ok(None) } else { settings::seed(asked, "seed") }
}

pub async fn completions(shared: &Shared, asked: &Value) -> Result<Bytes, RequestRefusal> {
    let asked = asked.as_object().ok_or_else(|| RequestRefusal::bad("the body must be an object"))?;
    only(asked, KNOWN)?;
    is_served(shared, asked)?;
    without_special_tokens(asked)?;
    let special = flag(asked, "add_special_tokens")?.unwrap_or(true);
    let prompts = prompts(shared, asked.get("prompt").unwrap_or(&Value::Null), special)?;
    let logprobs = tells_logprobs(asked)?;
    let top = match count(asked, "prompt_logprobs")? {
        None => None,
        Some(-1) => Some(None),
        Some(k) => Some(Some(u32::try_from(k).map_err(|_| {
            RequestRefusal::bad(
                "`prompt_logprobs` must be \
                -1 or more",
            )
        })?)),
    };
    let max_tokens = count(asked, "max_tokens")?.unwrap_or(16);
    let max_tokens = u32::try_from(max_tokens).ok().filter(|tokens| *tokens > 0);
    let max_tokens = max_tokens.ok_or_else(|| RequestRefusal::bad("`max_tokens` must be at least 1"))?;
    let n = count(asked, "n")?.unwrap_or(1);
    let n = u32::try_from(n).ok().filter(|n| (1..=1024).contains(n));
    let n = n.ok_or_else(|| RequestRefusal::bad("`n` must be from 1 to 1024"))?;
    let sampling = sampling(asked, n, max_tokens)?;
    let scored = match top {
        None => None,
        Some(top) => {
            let score = ScoreRequest { sequences: prompts.clone(), start: 0, top, chosen: Vec::new() };
            Some(shared.score(score).await?)
        }
    };
    // The pass over the prompt gives one greedy token. Greedy choice is certain: its log-probability is 0.
    let written: Vec<(Vec<Token>, Vec<f32>, bool)> = match &scored {
        Some(scored) if max_tokens == 1 && sampling.is_greedy() && n == 1 => {
            let next = scored.0.sequences.iter().map(|of| of.next);
            next.map(|next| (vec![next], vec![0.0], !shared.tokenizer.is_end(next))).collect()
        }
        _ => {
            let seed = seed(asked)?;
            let prompts = prompts.clone();
            let asked_for =
                |reply| EngineRequest::Write(WriteRequest::Completions { prompts, sampling, seed, reply });
            let Generated { version, completions } = shared.ask(asked_for).await?;
            if scored.as_ref().is_some_and(|(scored, _)| scored.version != version) {
                return Err(RequestRefusal::new(503, "the weights were replaced meanwhile: ask again"));
            }
            completions.into_iter().map(|of| (of.tokens, of.logps, of.truncated)).collect()
        }
    };
    let tokens = asked.get("return_token_ids") == Some(&json!(true));
    let total: usize = prompts.iter().map(Vec::len).sum();
    let drawn: usize = written.iter().map(|(tokens, ..)| tokens.len()).sum();
    let mut choices = Vec::with_capacity(written.len());
    for (index, (completion, logps, truncated)) in written.into_iter().enumerate() {
        let prompt = index / n as usize;
        let mut choice = Map::new();
        choice.insert("index".to_owned(), json!(index));
        let text = shared.tokenizer.decode(&completion).unwrap_or_default();
        choice.insert("text".to_owned(), json!(text));
        choice.insert("finish_reason".to_owned(), json!(if truncated { "length" } else { "stop" }));
        choice.insert("stop_reason".to_owned(), Value::Null);
        let names: Vec<String> = completion.iter().map(|id| format!("token_id:{id}")).collect();
        let of_tokens = json!({ "token_logprobs": logps, "tokens": names });
        choice.insert("logprobs".to_owned(), if logprobs { of_tokens } else { Value::Null });
        let prompt_logprobs = scored.as_ref().zip(top).map(|((scored, _), top)| EntryLists {
            positions: &scored.sequences[prompt].positions,
            top: top.map_or(usize::MAX, |top| top as usize),
        });
        if tokens {
            choice.insert("prompt_token_ids".to_owned(), json!(prompts[prompt]));
            choice.insert("token_ids".to_owned(), json!(completion));
        }
        choices.push(Choice { fields: choice, prompt_logprobs });
    }
    let usage = json!({ "prompt_tokens": total, "completion_tokens": drawn, "total_tokens": total + drawn });
    let answer = Answer {
        id: "cmpl-mopd",
        object: "text_completion",
        created: 0,
        model: &shared.name,
        choices,
        usage,
    };
    let text = serde_json::to_string(&answer).map_err(|error| RequestRefusal::internal(error.to_string()))?;
    drop(answer);
    Ok(counted(text, scored.map(|(_, share)| share)))
}

/// An answer. Lists are written entry by entry, since as a tree of values they would take many times their
/// size.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'static str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Value,
}

#[derive(Serialize)]
struct Choice<'a> {
    #[serde(flatten)]
    fields: Map<String, Value>,
    prompt_logprobs: Option<EntryLists<'a>>,
}

/// The entries of each position; the first has none.
struct EntryLists<'a> {
    positions: &'a [TokenScores],
    top: usize,
}

/// Entries by token id, as text: the `top` most probable ones, and the token's own.
struct PositionEntries<'a> {
    position: &'a TokenScores,
    top: usize,
}

#[derive(Serialize)]
struct Entry {
    logprob: f64,
    rank: u32,
    decoded_token: Option<&'static str>,
}

impl Serialize for EntryLists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lists = self.positions.iter().map(|position| Some(PositionEntries { position, top: self.top }));
        serializer.collect_seq(std::iter::once(None).chain(lists))
    }
}

impl Serialize for PositionEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PositionEntries { position, top } = self;
        let entry = |logp: f32, rank: u32| Entry { logprob: f64::from(logp), rank, decoded_token: None };
        let own = (position.token, entry(position.logp, position.rank));
        let others = position.top.iter().take(*top).zip(1..).filter(|((id, _), _)| *id != position.token);
        let others = others.map(|((id, logp), rank)| (*id, entry(*logp, rank)));
        serializer.collect_map(std::iter::once(own).chain(others))
    }
}

/// One completion as token ids, with the version name of the weights that wrote it.
pub async fn generate(shared: &Shared, asked: &Value) -> Result<Value, RequestRefusal> {
    let asked = asked.as_object().ok_or_else(|| RequestRefusal::bad("the body must be an object"))?;
    only(asked, GENERATE)?;
    is_served(shared, asked)?;
    let none = Map::new();
    let settings = asked.get("sampling_params").and_then(Value::as_object).unwrap_or(&none);
    only(settings, SAMPLING)?;
    let listed = tells_logprobs(settings)?;
    let stops = match settings.get("stop_token_ids") {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => ids(shared, list)?,
    };
    let ends = shared.tokenizer.ends();
    let ignored = settings.get("ignore_eos") == Some(&json!(true));
    if !stops.iter().all(|id| ends.contains(id)) || (ignored && !ends.iter().all(|id| stops.contains(id))) {
        return Err(RequestRefusal::bad("`stop_token_ids` may only be the model's own end tokens"));
    }
    let prompt = ids(shared, asked.get("token_ids").unwrap_or(&Value::Null))?;
    if prompt.is_empty() {
        return Err(RequestRefusal::bad("a prompt needs at least one token"));
    }
    let max_tokens =
        u32::try_from(count(settings, "max_tokens")?.unwrap_or(16)).ok().filter(|most| *most > 0);
    let max_tokens = max_tokens.ok_or_else(|| RequestRefusal::bad("`max_tokens` must be at least 1"))?;
    let seed = seed(settings)?;
    let sampling = sampling(settings, 1, max_tokens)?;
    let prompts = vec![prompt.clone()];
    let asked_for =
        |reply| EngineRequest::Write(WriteRequest::Completions { prompts, sampling, seed, reply });
    let Generated { version, mut completions } = shared.ask(asked_for).await?;
    let Completion { tokens, logps, truncated, .. } = completions.swap_remove(0);
    let of_token = |(id, logp): (&Token, &f32)| json!({ "token_id": id, "logprob": logp, "rank": null });
    let content: Vec<Value> = tokens.iter().zip(&logps).map(of_token).collect();
    let returned = asked.get("return_token_ids") == Some(&json!(true));
    let all = prompt.len() + tokens.len();
    Ok(json!({
        "request_id": "generate-mopd",
        "model": shared.name,
        "created": 0,
        "usage": { "prompt_tokens": prompt.len(), "completion_tokens": tokens.len(), "total_tokens": all },
        "prompt_token_ids": if returned { json!(prompt) } else { Value::Null },
        "output_mode": "tokens",
        "choices": [{
            "index": 0,
            "finish_reason": if truncated { "length" } else { "stop" },
            "stop_reason": null,
            "token_ids": tokens,
            "weight_versions": [{ "version": version, "start": 0, "end": tokens.len() }],
            "logprobs": if listed { json!({ "content": content }) } else { Value::Null },
        }],
    }))
}

fn is_served(shared: &Shared, asked: &Map<String, Value>) -> Result<(), RequestRefusal> {
    match asked.get("model").filter(|model| !model.is_null() && **model != json!(shared.name)) {
        None => Ok(()),
        Some(model) => {
            let message = format!("there is no model {model}; this server has \"{}\"", shared.name);
            Err(RequestRefusal::new(404, message))
        }
    }
}

/// Whether to return the log-probabilities of a completion's tokens; those of other tokens are not
/// supported.
fn tells_logprobs(asked: &Map<String, Value>) -> Result<bool, RequestRefusal> {
    match count(asked, "logprobs")? {
        None => Ok(false),
        Some(0 | 1) => Ok(true),
        Some(_) => Err(RequestRefusal::bad(
            "`logprobs` must be 0 or 1: only the sampled tokens of a completion have \
            log-probabilities",
        )),
    }
}

/// Prompts: token ids, a text, or a list of these. With `special`, the tokens that begin a prompt are added
/// to a text.
fn prompts(shared: &Shared, prompt: &Value, special: bool) -> Result<Vec<Vec<Token>>, RequestRefusal> {
    let of_text = |text: &str| {
        let tokens = if special { shared.tokenizer.prompt(text) } else { shared.tokenizer.encode(text) };
        tokens.map_err(|error| RequestRefusal::bad(error.to_string()))
    };
    let one = |value: &Value| match value {
        Value::String(text) => of_text(text),
        other => ids(shared, other),
    };
    let texts = std::iter::once(prompt).chain(prompt.as_array().into_iter().flatten());
    shared.texts_fit(texts.filter_map(Value::as_str))?;
    let prompts = match prompt {
        Value::String(text) => vec![of_text(text)?],
        Value::Array(list) if list.iter().all(Value::is_number) => vec![ids(shared, prompt)?],
        Value::Array(list) => list.iter().map(one).collect::<Result<_, _>>()?,
        _ => {
            return Err(RequestRefusal::bad(
                "`prompt` must be a list of token ids, a string, or a \
            list of these",
            ));
        }
    };
    if prompts.iter().any(Vec::is_empty) {
        return Err(RequestRefusal::bad("a prompt needs at least one token"));
    }
    Ok(prompts)
}
