//! Checks of the tokens named in the files besides `tokenizer.json`. The reference library adds those that
//! are not among the added tokens, which changes the ids of texts; here they must exist.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::files::{ADDED, CONFIG, SAVE_AGAIN, SPECIAL, TokenizerFiles};

/// Keys with one token each.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys with a list of tokens, or with an object of names and tokens.
const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];
const DECODER: &str = "added_tokens_decoder";

/// The text of a token in a file: a string, or the `content` of an object.
fn text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())
}

/// Refuses files for which the reference library would give other ids.
pub fn check_added_tokens(
    tokenizer: &tokenizers::Tokenizer,
    files: &TokenizerFiles,
) -> Result<(), TokenizerError> {
    let (config, special) = (files.object(CONFIG)?, files.object(SPECIAL)?);
    if config.get("split_special_tokens") == Some(&Value::Bool(true)) {
        let problem = "`split_special_tokens` is true: special tokens within texts are always read as such";
        return Err(files.error(CONFIG, problem).help("set it to false"));
    }
    let by_id = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let added: HashMap<&str, (u32, &AddedToken)> =
        by_id.iter().map(|(id, token)| (token.content.as_str(), (*id, token))).collect();
    let refuse = |file: &str, key: &str, token: &str, problem: String| {
        let subject = if file == key { "it".to_owned() } else { format!("`{key}`") };
        let problem = format!("{subject} names the token {token:?}, {problem}");
        let help = format!("take it out of the file, or save the tokenizer again: {SAVE_AGAIN}");
        files.error(file, problem).help(help)
    };
    let find = |file: &str, key: &str, token: &str| match added.get(token) {
        Some(found) => Ok(*found),
        None => {
            let what = match tokenizer.token_to_id(token) {
                Some(_) => "which is not an added token of tokenizer.json: texts would be split inside it",
                None => "which tokenizer.json does not have",
            };
            Err(refuse(file, key, token, what.to_owned()))
        }
    };
    let decoder = config.get(DECODER).and_then(Value::as_object);
    for (id, token) in decoder.into_iter().flatten() {
        let Some(content) = text(token) else { continue };
        let (found, flags) = find(CONFIG, DECODER, content)?;
        if id.parse() != Ok(found) {
            let problem = format!("with the id {id}, but in tokenizer.json its id is {found}");
            return Err(refuse(CONFIG, DECODER, content, problem));
        }
        // The reference library takes these flags from this file.
        let normalises = tokenizer.get_normalizer().is_some();
        for (flag, own, counts) in [
            ("lstrip", flags.lstrip, true),
            ("rstrip", flags.rstrip, true),
            ("single_word", flags.single_word, true),
            ("normalized", flags.normalized, normalises),
        ] {
            if let Some(given) = token.get(flag).and_then(Value::as_bool)
                && counts
                && given != own
            {
                let problem = format!("with `{flag}` {given}, but in tokenizer.json it is {own}");
                return Err(refuse(CONFIG, DECODER, content, problem));
            }
        }
    }
    // Beside the list of all added tokens, older files only count for named tokens that it lacks.
    let listed = if decoder.is_some() {
        vec![(CONFIG, &config)]
    } else {
        for token in files.object(ADDED)?.keys().filter(|token| !token.is_empty()) {
            find(ADDED, ADDED, token)?;
        }
        vec![(CONFIG, &config), (SPECIAL, &special)]
    };
    for (file, keys) in listed {
        for key in LISTS {
            for token in members(keys, key) {
                find(file, key, token)?;
            }
        }
    }
    for key in NAMED {
        let named = [(CONFIG, &config), (SPECIAL, &special)];
        let named = named.into_iter().find_map(|(file, keys)| Some((file, text(keys.get(key)?)?)));
        if let Some((file, token)) = named {
            find(file, key, token)?;
        }
    }
    Ok(())
}

fn members<'a>(keys: &'a Map<String, Value>, key: &str) -> Vec<&'a str> {
    match keys.get(key) {
        Some(Value::Array(tokens)) => tokens.iter().filter_map(text).collect(),
        Some(Value::Object(tokens)) => tokens.values().filter_map(text).collect(),
        _ => Vec::new(),
    }
}
