//! vLLM: `/v1/completions` with `prompt_logprobs`. One token is written, since vLLM writes at least one, and
//! nobody reads it.

use mopd_compiler::plan::Served;
use serde_json::{Value, json};

use super::ask::ReplyProblem;
use super::identity::parse;
use super::listed::{ListedTokens, checked};
use super::{ScoredSequence, wanted};

pub const PATH: &str = "/v1/completions";

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

/// What an answer says of the scored tokens.
pub fn read(
    served: &Served,
    reading: &ScoredSequence,
    entries: usize,
    said: &[u8],
) -> Result<ListedTokens, ReplyProblem> {
    let said = parse(said)?;
    let wrong = |what: String| ReplyProblem::Faulty(format!("gave an answer that can't be used: {what}"));
    if said["model"] != json!(served.model) {
        return Err(wrong(format!("it is of the model {}", said["model"])));
    }
    let [choice] = said["choices"].as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(wrong("not one choice".to_owned()));
    };
    let ids = reading.ids();
    if choice["prompt_token_ids"] != json!(ids) {
        return Err(wrong("it is of other tokens than those that were sent".to_owned()));
    }
    let Some(positions) = choice["prompt_logprobs"].as_array() else {
        return Err(wrong("no `prompt_logprobs`".to_owned()));
    };
    if positions.len() != ids.len() {
        return Err(wrong(format!("{} positions of {} tokens", positions.len(), ids.len())));
    }
    if let Some(place) = (0..positions.len()).find(|place| positions[*place].is_null() != (*place == 0)) {
        return Err(wrong(format!("nothing at place {place}, or something where nothing is known")));
    }
    let of_place = |place: usize| {
        let listed =
            positions[place].as_object().ok_or_else(|| wrong(format!("no entries at place {place}")))?;
        let entry = |(id, entry): (&String, &Value)| Some((id.parse().ok()?, entry["logprob"].as_f64()?));
        let listed: Option<Vec<(i64, f64)>> = listed.iter().map(entry).collect();
        let listed = listed.ok_or_else(|| wrong(format!("an entry without a number at place {place}")))?;
        let token = ids[place];
        let own = listed.iter().find(|(id, _)| *id == token).map(|(_, logp)| *logp);
        if wanted(served) == Some(0) && listed.len() != 1 {
            return Err(wrong(format!(
                "{} entries where none were asked for at place {place}",
                listed.len()
            )));
        }
        checked(place, token, own, &listed, (wanted(served), entries))
    };
    Ok(ListedTokens { tokens: reading.places().map(of_place).collect::<Result<_, _>>()? })
}
