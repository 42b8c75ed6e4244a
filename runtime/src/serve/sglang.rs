//! SGLang's `/generate`, as far as runs need it: input ids, their log-probabilities from a position on, those
//! of chosen tokens, and completions.

use serde_json::{Map, Value, json};

use super::engine::{EngineRequest, Generated, ReadRequest, RequestRefusal, ScoreRequest, Scored};
use super::http::{Shared, ids};
use super::settings::{count, only, sampling, seed, without_special_tokens};
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

pub async fn generate(shared: &Shared, asked: &Value) -> Result<Value, RequestRefusal> {
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
            Some(shared.ask(|reply| EngineRequest::Read(ReadRequest::Score(score, reply))).await?)
        }
        _ => None,
    };
    let (version, written): (String, Vec<Option<Completion>>) = if max_tokens == 0 {
        (shared.about().version, prompts.iter().map(|_| None).collect())
    } else {
        let seed = seed(settings, "sampling_seed")?;
        let sampling = sampling(settings, 1, max_tokens)?;
        let prompts = prompts.clone();
        let asked_for =
            |reply| EngineRequest::Write(WriteRequest::Completions { prompts, sampling, seed, reply });
        let Generated { version, completions } = shared.ask(asked_for).await?;
        (version, completions.into_iter().map(Some).collect())
    };
    let mut answers = Vec::new();
    for (place, (prompt, completion)) in prompts.iter().zip(written).enumerate() {
        let (tokens, logps, truncated) = match completion {
            Some(of) => (of.tokens, of.logps, of.truncated),
            None => (Vec::new(), Vec::new(), true),
        };
        let reason = if truncated { "length" } else { "stop" };
        let mut meta = json!({
            "id": place.to_string(),
            "finish_reason": { "type": reason, "length": tokens.len() },
            "prompt_tokens": prompt.len(),
            "completion_tokens": tokens.len(),
            "weight_version": version,
        });
        if let Some(scored) = &scored {
            of_input(&mut meta, prompt, &scored[place], start as usize, top, &chosen);
        }
        if logprobs {
            let drawn = logps.iter().zip(&tokens).map(|(logp, id)| json!([logp, id, null]));
            meta["output_token_logprobs"] = drawn.collect();
        }
        let text = shared.tokenizer.decode(&tokens).unwrap_or_default();
        answers.push(json!({ "text": text, "output_ids": tokens, "meta_info": meta }));
    }
    Ok(if several { Value::Array(answers) } else { answers.swap_remove(0) })
}

/// Adds the log-probabilities of an input to `meta`. The token at `start` has none.
fn of_input(meta: &mut Value, prompt: &[Token], scored: &Scored, start: usize, top: u32, chosen: &[Token]) {
    let first = json!([null, prompt[start], null]);
    let own = scored.positions.iter().map(|of| json!([of.logp, of.token, null]));
    meta["input_token_logprobs"] = std::iter::once(first).chain(own).collect();
    if top > 0 {
        let listed = scored.positions.iter().map(|of| -> Value {
            of.top.iter().take(top as usize).map(|(id, logp)| json!([logp, id, null])).collect()
        });
        meta["input_top_logprobs"] = std::iter::once(Value::Null).chain(listed).collect();
    }
    if !chosen.is_empty() {
        let listed = scored.positions.iter().map(|of| -> Value {
            of.chosen.iter().zip(chosen).map(|(logp, id)| json!([logp, id, null])).collect()
        });
        meta["input_token_ids_logprobs"] = std::iter::once(Value::Null).chain(listed).collect();
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
        (_, Some(Value::String(text))) => (vec![of_text(text)?], false),
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
