//! The protocol of vLLM. Scores come from `/v1/completions` with `prompt_logprobs`; vLLM always generates at
//! least one token, which is ignored. Completions come from `/inference/v1/generate`, which takes and returns
//! token ids, and reports the weights that sampled each completion.

use mopd_plan::Served;
use serde_json::{Value, json};

use super::ask::ReplyProblem;
use super::identity::parse;
use super::ledger::ending::Ending;
use super::listed::{ListedTokens, checked, ranked};
use super::sampling::WrittenByEngine;
use super::{ScoredSequence, wanted, whole_distribution};
use crate::tokenizer::Token;

pub const PATH: &str = "/v1/completions";
/// Path for completions, on a server that was started with `--enable-scale-out`.
pub const GENERATE: &str = "/inference/v1/generate";
/// Path for the version of the weights, on a server with `VLLM_SERVER_DEV_MODE=1`.
pub const WEIGHT_INFO: &str = "/weight_info";

pub fn body(served: &Served, reading: &ScoredSequence) -> Value {
    json!({
        "model": served.model,
        "prompt": reading.ids(),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": wanted(served).map_or(-1, i64::from),
        "return_token_ids": true,
        "add_special_tokens": false,
    })
}

/// The request for a completion of at most `most` tokens from the whole distribution. It gives every setting
/// that the model's own would change; vLLM reuses the cache of a prompt under the same weights only.
pub fn rollout_body(
    model: &str,
    weights: &str,
    prompt: &[Token],
    ends: &[Token],
    most: u32,
    seed: u64,
) -> Value {
    let settings = json!({
        "max_tokens": most,
        "seed": seed,
        "stop_token_ids": ends,
        // The server's end tokens may differ.
        "ignore_eos": true,
        "logprobs": 0,
        "detokenize": false,
    });
    json!({
        "model": model,
        "token_ids": prompt,
        "sampling_params": whole_distribution(settings),
        "return_token_ids": true,
        "cache_salt": weights,
    })
}

pub fn read_rollout(prompt: &[Token], said: &[u8]) -> Result<WrittenByEngine, ReplyProblem> {
    let said = parse(said)?;
    let wrong = |what: &str| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
    if said["prompt_token_ids"] != json!(prompt) {
        return Err(wrong("it read other tokens than the request has"));
    }
    let [choice] = said["choices"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(wrong("the number of choices is not one"));
    };
    let ending = match choice["finish_reason"].as_str() {
        Some("stop") => Ending::Stop(choice["stop_reason"].as_i64()),
        Some("length") => Ending::Length,
        _ => return Err(wrong("the completion is not finished")),
    };
    let weights = version(&choice["weight_versions"]).ok_or_else(|| wrong("no `weight_versions`"))?;
    let entry = |entry: &Value| Some((entry["token_id"].as_i64()?, entry["logprob"].as_f64()?));
    let written = choice["logprobs"]["content"].as_array().and_then(|list| list.iter().map(entry).collect());
    let written: Vec<(Token, f64)> = written.ok_or_else(|| wrong("a token without its log-probability"))?;
    let (tokens, logps): (Vec<Token>, Vec<f64>) = written.into_iter().unzip();
    if choice["token_ids"] != json!(tokens) {
        return Err(wrong("its log-probabilities belong to other tokens than the completion has"));
    }
    Ok(WrittenByEngine { weights, tokens, logps, ending })
}

/// The weights that sampled a completion. If several did, all names are joined, which matches none.
fn version(spans: &Value) -> Option<String> {
    let names = spans.as_array()?.iter().map(|span| span["version"].as_str());
    let mut names = names.collect::<Option<Vec<&str>>>()?;
    names.dedup();
    (!names.is_empty()).then(|| names.join(", then "))
}

/// Reads the scored tokens' log-probabilities from a response.
pub fn read(
    served: &Served,
    reading: &ScoredSequence,
    entries: usize,
    said: &[u8],
) -> Result<ListedTokens, ReplyProblem> {
    let said = parse(said)?;
    let wrong = |what: String| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
    if said["model"] != json!(served.model) {
        return Err(wrong(format!("it comes from the model {}", said["model"])));
    }
    let [choice] = said["choices"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(wrong("the number of choices is not one".to_owned()));
    };
    let ids = reading.ids();
    if choice["prompt_token_ids"] != json!(ids) {
        return Err(wrong("it has other tokens than the request".to_owned()));
    }
    let Some(positions) = choice["prompt_logprobs"].as_array() else {
        return Err(wrong("no `prompt_logprobs`".to_owned()));
    };
    if positions.len() != ids.len() {
        return Err(wrong(format!("{} positions of {} tokens", positions.len(), ids.len())));
    }
    if let Some(place) = (0..positions.len()).find(|place| positions[*place].is_null() != (*place == 0)) {
        return Err(wrong(format!("position {place} has no entry, or has one where there can be none")));
    }
    let of_place = |place: usize| {
        let listed =
            positions[place].as_object().ok_or_else(|| wrong(format!("no entries at position {place}")))?;
        let entry = |(id, entry): (&String, &Value)| Some((id.parse().ok()?, entry["logprob"].as_f64()?));
        let listed: Option<Vec<(i64, f64)>> = listed.iter().map(entry).collect();
        let listed = listed.ok_or_else(|| wrong(format!("an entry without a number at position {place}")))?;
        let token = ids[place];
        let own = listed.iter().find(|(id, _)| *id == token).map(|(_, logp)| *logp);
        if wanted(served) == Some(0) && listed.len() != 1 {
            return Err(wrong(format!(
                "{} entries at position {place}, but none were requested",
                listed.len()
            )));
        }
        let checked = checked(place, token, own, &listed, wanted(served), entries)?;
        let ranks = positions[place].as_object().into_iter().flat_map(|entries| entries.values());
        let rank = |entry: &Value| Some((entry["rank"].as_u64()?, entry["logprob"].as_f64()?));
        ranked(place, ranks.filter_map(rank).collect())?;
        Ok(checked)
    };
    let version = said["system_fingerprint"].as_str().map(str::to_owned);
    Ok(ListedTokens { tokens: reading.places().map(of_place).collect::<Result<_, _>>()?, version })
}
