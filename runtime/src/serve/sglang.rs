//! SGLang's `/generate`, as far as runs need it: input ids, their log-probabilities from a position on, those
//! of chosen tokens, and completions.

use axum::body::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::answer_size::counted;
use super::engine::{EngineRequest, Generated, ScoreRequest, TokenScores};
use super::http::{Shared, ids};
use super::settings::{count, only, sampling, seed, without_special_tokens};
use super::transport::RequestRefusal;
use super::write::WriteRequest;
use crate::rollout::Completion;
use crate::tokenizer::Token;

const KNOWN: &[&str] = &[
    "input_ids",
    "text",
    "sampling_params",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "token_ids_logprob",
    "rid",
];
const SAMPLING: &[&str] = &[
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "sampling_seed",
    "stop_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
];

pub async fn generate(shared: &Shared, asked: &Value) -> Result<Bytes, RequestRefusal> {
    let asked = asked.as_object().ok_or_else(|| RequestRefusal::bad("the body must be an object"))?;
    only(asked, KNOWN)?;
    let none = Map::new();
    let settings = asked.get("sampling_params").and_then(Value::as_object).unwrap_or(&none);
    only(settings, SAMPLING)?;
    without_special_tokens(settings)?;
    let ends = |list: &&Value| !list.is_null();
    if let Some(list) = settings.get("stop_token_ids").filter(ends)
        && !ids(shared, list)?.iter().all(|id| shared.tokenizer.is_end(*id))
    {
        return Err(RequestRefusal::bad("`stop_token_ids` may only be the model's own end tokens"));
    }
    let (prompts, several) = inputs(shared, asked)?;
    let n = u32::try_from(count(settings, "n")?.unwrap_or(1)).ok().filter(|n| *n == 1);
    n.ok_or_else(|| RequestRefusal::bad("`n` must be 1: send the input once for each completion"))?;
    let max_tokens = u32::try_from(count(settings, "max_new_tokens")?.unwrap_or(128));
    let max_tokens = max_tokens.map_err(|_| RequestRefusal::bad("`max_new_tokens` must be 0 or more"))?;
    let logprobs = asked.get("return_logprob") == Some(&json!(true));
    let start = count(asked, "logprob_start_len")?.unwrap_or(-1);
    let top = count(asked, "top_logprobs_num")?.unwrap_or(0);
    let top = u32::try_from(top).map_err(|_| {
        RequestRefusal::bad(
            "`top_logprobs_num` must be 0 or \
        more",
        )
    })?;
    let chosen = match asked.get("token_ids_logprob") {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => ids(shared, list)?,
    };
    if logprobs && max_tokens > 0 && (top > 0 || !chosen.is_empty()) {
        return Err(RequestRefusal::bad(
            "`top_logprobs_num` and `token_ids_logprob` are supported for input tokens only: set \
            `max_new_tokens` to 0",
        ));
    }
    let scored = match usize::try_from(start) {
        Ok(start) if logprobs => {
            let score =
                ScoreRequest { sequences: prompts.clone(), start, top: Some(top), chosen: chosen.clone() };
            Some(shared.score(score).await?)
        }
        _ => None,
    };
    let scored_by = scored.as_ref().map(|(scored, _)| scored.version.clone());
    let (version, written): (String, Vec<Option<Completion>>) = if max_tokens == 0 {
        (scored_by.unwrap_or_else(|| shared.about().version), prompts.iter().map(|_| None).collect())
    } else {
        let seed = seed(settings, "sampling_seed")?;
        let sampling = sampling(settings, 1, max_tokens)?;
        let prompts = prompts.clone();
        let asked_for =
            |reply| EngineRequest::Write(WriteRequest::Completions { prompts, sampling, seed, reply });
        let Generated { version, completions } = shared.ask(asked_for).await?;
        if scored_by.is_some_and(|scored_by| scored_by != version) {
            return Err(RequestRefusal::new(503, "the weights were replaced meanwhile: ask again"));
        }
        (version, completions.into_iter().map(Some).collect())
    };
    let mut answers = Vec::new();
    for (place, (prompt, completion)) in prompts.iter().zip(written).enumerate() {
        let (tokens, logps, truncated) = match completion {
            Some(of) => (of.tokens, of.logps, of.truncated),
            None => (Vec::new(), Vec::new(), true),
        };
        let reason = if truncated { "length" } else { "stop" };
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("id", json!(place.to_string()));
        put("finish_reason", json!({ "type": reason, "length": tokens.len() }));
        put("prompt_tokens", json!(prompt.len()));
        put("completion_tokens", json!(tokens.len()));
        put("weight_version", json!(version));
        let (mut top_lists, mut chosen_lists) = (None, None);
        if let Some((scored, _)) = &scored {
            let positions = scored.sequences[place].positions.as_slice();
            // The token at `start` has no number.
            let first = json!([null, prompt[start as usize], null]);
            let own = positions.iter().map(|of| json!([of.logp, of.token, null]));
            put("input_token_logprobs", std::iter::once(first).chain(own).collect());
            top_lists = (top > 0).then_some(EntryLists { positions, of: ListedEntries::Top(top as usize) });
            let of = ListedEntries::Chosen(&chosen);
            chosen_lists = (!chosen.is_empty()).then_some(EntryLists { positions, of });
        }
        if logprobs {
            let drawn = logps.iter().zip(&tokens).map(|(logp, id)| json!([logp, id, null]));
            put("output_token_logprobs", drawn.collect());
        }
        let text = shared.tokenizer.decode(&tokens).unwrap_or_default();
        let meta_info =
            Meta { fields, input_top_logprobs: top_lists, input_token_ids_logprobs: chosen_lists };
        answers.push(Answer { text, output_ids: tokens, meta_info });
    }
    let text = if several { serde_json::to_string(&answers) } else { serde_json::to_string(&answers[0]) };
    let text = text.map_err(|error| RequestRefusal::internal(error.to_string()))?;
    drop(answers);
    Ok(counted(text, scored.map(|(_, share)| share)))
}

/// The answer about one input. Lists are written entry by entry, since as a tree of values they would take
/// many times their size.
#[derive(Serialize)]
struct Answer<'a> {
    text: String,
    output_ids: Vec<Token>,
    meta_info: Meta<'a>,
}

#[derive(Serialize)]
struct Meta<'a> {
    #[serde(flatten)]
    fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_top_logprobs: Option<EntryLists<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_token_ids_logprobs: Option<EntryLists<'a>>,
}

/// A list of entries for each position; the first has none.
struct EntryLists<'a> {
    positions: &'a [TokenScores],
    of: ListedEntries<'a>,
}

#[derive(Clone, Copy)]
enum ListedEntries<'a> {
    /// So many of the most probable ones.
    Top(usize),
    /// Those of these ids.
    Chosen(&'a [Token]),
}

/// The entries of one position.
struct PositionEntries<'a>(&'a TokenScores, ListedEntries<'a>);

impl Serialize for EntryLists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lists = self.positions.iter().map(|of| Some(PositionEntries(of, self.of)));
        serializer.collect_seq(std::iter::once(None).chain(lists))
    }
}

impl Serialize for PositionEntries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PositionEntries(scores, of) = self;
        let entry = |logp: f32, id: Token| (f64::from(logp), id, None::<&str>);
        match of {
            ListedEntries::Top(top) => {
                serializer.collect_seq(scores.top.iter().take(*top).map(|(id, logp)| entry(*logp, *id)))
            }
            ListedEntries::Chosen(ids) => {
                serializer.collect_seq(scores.chosen.iter().zip(*ids).map(|(logp, id)| entry(*logp, *id)))
            }
        }
    }
}

/// The inputs of a request, and whether they came as a list.
fn inputs(shared: &Shared, asked: &Map<String, Value>) -> Result<(Vec<Vec<Token>>, bool), RequestRefusal> {
    let of_text =
        |text: &str| shared.tokenizer.prompt(text).map_err(|error| RequestRefusal::bad(error.to_string()));
    let (prompts, several) = match (asked.get("input_ids"), asked.get("text")) {
        (Some(Value::Array(list)), _) if list.iter().any(Value::is_array) => {
            (list.iter().map(|of| ids(shared, of)).collect::<Result<Vec<_>, _>>()?, true)
        }
        (Some(list @ Value::Array(_)), _) => (vec![ids(shared, list)?], false),
        (_, Some(Value::String(text))) => {
            shared.texts_fit(std::iter::once(text.as_str()))?;
            (vec![of_text(text)?], false)
        }
        _ => {
            return Err(RequestRefusal::bad(
                "`input_ids` must be a list of token ids, or a list of \
            such lists",
            ));
        }
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(RequestRefusal::bad("an input needs at least one token"));
    }
    Ok((prompts, several))
}
