//! The sampling settings of requests.

use mopd_plan::Sampling;
use serde_json::{Map, Value};

use super::transport::RequestRefusal;
use crate::remote::sampling::RolloutBatch;
use crate::rollout::OwnedPrompt;
use crate::tokenizer::Token;

/// Refuses a batch that can't be sampled, before the model reads any of it.
pub fn check(
    RolloutBatch { prompts, sampling, .. }: &RolloutBatch,
    entries: usize,
) -> Result<(), RequestRefusal> {
    let of_prompts = |prompt: &OwnedPrompt| {
        !prompt.tokens.is_empty() && prompt.tokens.iter().all(|id| (0..entries as Token).contains(id))
    };
    if !prompts.iter().all(of_prompts) {
        return Err(RequestRefusal::bad(format!(
            "a prompt needs at least one token id, and each id \
            must be below {entries}"
        )));
    }
    let sound = (1..=1024).contains(&sampling.n)
        && sampling.max_tokens > 0
        && sampling.temperature.constant().is_some_and(|value| value.is_finite() && value >= 0.0)
        && sampling.top_p.is_none_or(|p| p > 0.0 && p <= 1.0)
        && sampling.top_k.is_none_or(|k| k > 0)
        && sampling.repetition_penalty.is_none_or(|penalty| penalty > 0.0 && penalty.is_finite());
    if !sound || sampling.accept.is_some() {
        return Err(RequestRefusal::bad("these sampling settings are not supported together"));
    }
    Ok(())
}

/// Names of numeric settings, with the value at which each has no effect.
const NEUTRAL: &[(&str, f64)] = &[
    ("repetition_penalty", 1.0),
    ("length_penalty", 1.0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("min_p", 0.0),
    ("min_tokens", 0.0),
    ("min_new_tokens", 0.0),
    ("n", 1.0),
    ("priority", 0.0),
];

/// Whether a setting has no effect.
fn is_neutral(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => {
            NEUTRAL.iter().any(|(of, usual)| *of == name && number.as_f64() == Some(*usual))
        }
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Refuses settings other than the `known` ones, unless they have no effect: none is silently ignored.
pub fn only(asked: &Map<String, Value>, known: &[&str]) -> Result<(), RequestRefusal> {
    for (name, value) in asked {
        if !known.contains(&name.as_str()) && !is_neutral(name, value) {
            return Err(RequestRefusal::bad(format!("`{name}` is not supported by `mopd serve`")));
        }
    }
    Ok(())
}

/// A Boolean setting; `None` where it is not given.
pub fn flag(asked: &Map<String, Value>, name: &str) -> Result<Option<bool>, RequestRefusal> {
    match asked.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(set)) => Ok(Some(*set)),
        Some(value) => Err(RequestRefusal::bad(format!("`{name}` must be true or false, not {value}"))),
    }
}

/// Refuses `skip_special_tokens: false`: texts of completions have no special tokens.
pub fn without_special_tokens(asked: &Map<String, Value>) -> Result<(), RequestRefusal> {
    match flag(asked, "skip_special_tokens")? {
        None | Some(true) => Ok(()),
        Some(false) => Err(RequestRefusal::bad(
            "`skip_special_tokens` must be true: special tokens of a completion are only in its \
            token ids",
        )),
    }
}

/// A numeric setting; `None` where it is not given.
pub fn number(asked: &Map<String, Value>, name: &str) -> Result<Option<f64>, RequestRefusal> {
    match asked.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.map(Some).ok_or_else(|| {
                RequestRefusal::bad(format!(
                    "`{name}` must be a number, \
                not {value}"
                ))
            })
        }
    }
}

pub fn count(asked: &Map<String, Value>, name: &str) -> Result<Option<i64>, RequestRefusal> {
    match number(asked, name)? {
        None => Ok(None),
        Some(number) if number.fract() == 0.0 && number.abs() < 1e9 => Ok(Some(number as i64)),
        Some(number) => Err(RequestRefusal::bad(format!(
            "`{name}` must be a whole number between -1000000000 and 1000000000, not {number}"
        ))),
    }
}

/// The seed of a request; `None` where it is not given. Engines accept 64 bits, more than a float holds.
pub fn seed(asked: &Map<String, Value>, name: &str) -> Result<Option<u64>, RequestRefusal> {
    // Some clients write `7.0` for 7. From 2^53 on, a float may stand for several integers.
    let whole = |number: f64| (0.0..9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0;
    let of_float = |value: &Value| value.as_f64().filter(|number| whole(*number)).map(|number| number as u64);
    match asked.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().or_else(|| of_float(value)).map(Some).ok_or_else(|| {
            RequestRefusal::bad(format!(
                "`{name}` must be a whole number from 0 to {}, not {value}: leave it out for a \
                random seed",
                u64::MAX
            ))
        }),
    }
}

/// The sampling settings of a request, by the names that both engines share.
pub fn sampling(asked: &Map<String, Value>, n: u32, max_tokens: u32) -> Result<Sampling, RequestRefusal> {
    let temperature = number(asked, "temperature")?.unwrap_or(1.0);
    if temperature < 0.0 {
        return Err(RequestRefusal::bad("`temperature` must be 0 or more"));
    }
    let top_p = number(asked, "top_p")?.filter(|p| *p < 1.0);
    if top_p.is_some_and(|p| p <= 0.0) {
        return Err(RequestRefusal::bad("`top_p` must be above 0"));
    }
    // 0 and -1 mean all tokens.
    let top_k = count(asked, "top_k")?.and_then(|k| u32::try_from(k).ok()).filter(|k| *k > 0);
    Ok(Sampling { top_p, top_k, ..Sampling::new(n, temperature, max_tokens) })
}
