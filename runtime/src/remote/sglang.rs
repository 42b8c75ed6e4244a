//! The protocol of SGLang: `/generate` with `return_logprob`, for sent tokens or generated ones. Numbers of
//! sent tokens begin at `logprob_start_len`, and the token there has none.

use mopd_plan::Served;
use serde_json::{Value, json};

use super::ask::ReplyProblem;
use super::identity::parse;
use super::ledger::ending::Ending;
use super::listed::{ListedTokens, checked, ranked};
use super::sampling::WrittenByEngine;
use super::{ScoredSequence, wanted, whole_distribution};
use crate::tokenizer::Token;

pub const PATH: &str = "/generate";

pub fn body(served: &Served, reading: &ScoredSequence) -> Value {
    json!({
        "input_ids": reading.ids(),
        "sampling_params": { "max_new_tokens": 0, "temperature": 0.0 },
        "return_logprob": true,
        "logprob_start_len": reading.prompt.len() - 1,
        "top_logprobs_num": wanted(served).unwrap_or(0),
        "return_text_in_logprobs": false,
    })
}

/// The request for a completion of at most `most` tokens from the whole distribution. It gives every setting
/// that the model's own would change.
pub fn rollout_body(prompt: &[Token], most: u32, seed: u64, ends: &[Token]) -> Value {
    let settings = json!({ "max_new_tokens": most, "sampling_seed": seed, "stop_token_ids": ends });
    json!({
        "input_ids": prompt,
        "sampling_params": whole_distribution(settings),
        "return_logprob": true,
        "logprob_start_len": -1,
        "return_text_in_logprobs": false,
    })
}

pub fn read_rollout(prompt: &[Token], said: &[u8]) -> Result<WrittenByEngine, ReplyProblem> {
    let said = parse(said)?;
    let wrong = |what: &str| ReplyProblem::Faulty(format!("returned an unusable response: {what}"));
    let meta = &said["meta_info"];
    if meta["prompt_tokens"].as_u64() != Some(prompt.len() as u64) {
        return Err(wrong("it read other tokens than the request has"));
    }
    let reason = &meta["finish_reason"];
    let ending = match reason["type"].as_str() {
        Some("stop") => Ending::Stop(reason["matched"].as_i64()),
        Some("length") => Ending::Length,
        _ => return Err(wrong("the completion is not finished")),
    };
    let last = meta["weight_version"].as_str().ok_or_else(|| wrong("no `weight_version`"))?;
    // Where weights were replaced meanwhile: those of each part of the completion.
    let parts = meta["weight_versions"].as_array().into_iter().flatten();
    let others = parts.map(|part| part["version"].as_str().unwrap_or("?")).filter(|version| *version != last);
    let weights = others.fold(last.to_owned(), |weights, other| format!("{weights}, {other}"));
    let written = meta["output_token_logprobs"].as_array().and_then(|list| list.iter().map(entry).collect());
    let written: Vec<(Option<f64>, Token)> = written.ok_or_else(|| wrong("no `output_token_logprobs`"))?;
    if meta["completion_tokens"].as_u64().is_some_and(|count| count != written.len() as u64) {
        return Err(wrong("not a number for every token"));
    }
    let tokens: Vec<Token> = written.iter().map(|(_, id)| *id).collect();
    if said["output_ids"].is_array() && said["output_ids"] != json!(tokens) {
        return Err(wrong("its log-probabilities belong to other tokens than the completion has"));
    }
    let logps: Option<Vec<f64>> = written.iter().map(|(logp, _)| *logp).collect();
    let logps = logps.ok_or_else(|| wrong("a token without its log-probability"))?;
    Ok(WrittenByEngine { weights, tokens, logps, ending })
}

/// A log-probability and its token; the text is ignored.
fn entry(entry: &Value) -> Option<(Option<f64>, Token)> {
    let [logp, id, ..] = entry.as_array()?.as_slice() else { return None };
    Some((logp.as_f64(), id.as_i64()?))
}

/// Whether an id of `input_token_logprobs` names the token that was sent. SGLang 0.5.23 writes 0 there for
/// the last id of a vocabulary (`logprob_result_processor.py` has `x if x < vocab_size - 1 else 0`); the
/// number beside it is the token's.
fn names(id: Token, sent: Token, entries: usize) -> bool {
    id == sent || (id == 0 && usize::try_from(sent) == Ok(entries - 1))
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
    let meta = &said["meta_info"];
    let ids = reading.ids();
    if meta["prompt_tokens"].as_u64().is_some_and(|tokens| tokens != ids.len() as u64) {
        return Err(wrong(format!("it read {} of {} tokens", meta["prompt_tokens"], ids.len())));
    }
    let start = reading.prompt.len() - 1;
    let of = |field: &str| {
        let list = meta[field].as_array().ok_or_else(|| wrong(format!("no `{field}`")))?;
        if list.len() != ids.len() - start {
            return Err(wrong(format!(
                "{} positions of {} tokens in `{field}`",
                list.len(),
                ids.len() - start
            )));
        }
        Ok(list)
    };
    let own: Option<Vec<_>> = of("input_token_logprobs")?.iter().map(entry).collect();
    let own = own.ok_or_else(|| wrong("an entry that is not a pair of a number and a token".to_owned()))?;
    if own.iter().zip(&ids[start..]).any(|((_, id), sent)| !names(*id, *sent, entries)) {
        return Err(wrong("it has other tokens than the request".to_owned()));
    }
    if let Some(place) = (0..own.len()).find(|place| own[*place].0.is_none() != (*place == 0)) {
        let what = format!("position {} has no entry, or has one where there can be none", start + place);
        return Err(wrong(what));
    }
    let k = wanted(served).unwrap_or(0);
    let top = if k == 0 { None } else { Some(of("input_top_logprobs")?) };
    let of_place = |place: usize| {
        let listed = match top {
            None => Vec::new(),
            Some(top) => {
                let listed: Option<Vec<(i64, f64)>> = top[place - start].as_array().and_then(|listed| {
                    listed.iter().map(|of| entry(of).and_then(|(logp, id)| Some((id, logp?)))).collect()
                });
                let listed = listed.ok_or_else(|| wrong(format!("no entries at position {place}")))?;
                // The most probable first.
                ranked(place, (1..).zip(listed.iter().map(|(_, logp)| *logp)).collect())?;
                listed
            }
        };
        checked(place, ids[place], own[place - start].0, &listed, Some(k), entries)
    };
    let version = meta["weight_version"].as_str().map(str::to_owned);
    Ok(ListedTokens { tokens: reading.places().map(of_place).collect::<Result<_, _>>()?, version })
}

#[cfg(test)]
mod tests {
    use mopd_plan::{Answers, Engine, Secret};

    use super::*;

    /// As a real SGLang 0.5.23 replies: the last id of a vocabulary of 259 tokens is written as 0.
    #[test]
    fn the_last_id_of_the_vocabulary_is_written_as_0() {
        let reading = ScoredSequence { prompt: vec![97], completion: vec![98, 258], scored: None };
        let said = |ids: [i64; 3]| {
            let entries = json!([[null, ids[0], null], [-0.5, ids[1], null], [-0.25, ids[2], null]]);
            let meta =
                json!({ "prompt_tokens": 3, "weight_version": "default", "input_token_logprobs": entries });
            let said = json!({ "meta_info": meta }).to_string();
            let (url, model) = (Secret::Text("http://x".to_owned()), "big".to_owned());
            let served = Served { engine: Engine::Sglang, url, model, answers: Answers::Sampled, key: None };
            read(&served, &reading, 259, said.as_bytes())
        };
        let read = |ids| said(ids).map(|listed| listed.tokens).ok();
        assert_eq!(read([97, 98, 0]), read([97, 98, 258]));
        assert!(read([97, 98, 258]).is_some());
        for other in [[97, 0, 258], [0, 98, 258], [97, 98, 257]] {
            assert!(said(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_completion_by_several_weights_names_them_all() {
        let said = |versions: Value| {
            let meta = json!({ "prompt_tokens": 1, "completion_tokens": 1, "weight_version": "two",
                "weight_versions": versions, "finish_reason": { "type": "length" },
                "output_token_logprobs": [[-0.5, 98, null]] });
            let said = json!({ "output_ids": [98], "meta_info": meta }).to_string();
            read_rollout(&[97], said.as_bytes()).map(|written| written.weights).ok()
        };
        assert_eq!(said(json!([{ "version": "two" }])), Some("two".to_owned()));
        assert_eq!(said(json!([{ "version": "one" }, { "version": "two" }])), Some("two, one".to_owned()));
    }
}
