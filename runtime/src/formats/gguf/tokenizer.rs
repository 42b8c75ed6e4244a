//! The tokenizer inside a GGUF file, written as the files that published models have beside their weights:
//! what reads those reads this, and a student can be saved with them.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::parse::{GgufValue, Metadata};

/// How the programs that run GGUF files split text before they merge bytes, by the name in
/// `tokenizer.ggml.pre`.
enum Splitting {
    Gpt2,
    /// Digits alone, then as GPT-2.
    Digits,
    Pattern {
        pattern: &'static str,
        normalises: bool,
        keeps_whole_words: bool,
    },
}

/// Contractions, letters with one sign before them, up to three digits, signs, line ends, spaces.
macro_rules! words_and_digits {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
const THREE_DIGITS: &str = words_and_digits!(r"\p{N}{1,3}");
const ONE_DIGIT: &str = words_and_digits!(r"\p{N}");

fn splitting(name: &str) -> Option<Splitting> {
    Some(match name {
        "gpt-2" => Splitting::Gpt2,
        "smollm" => Splitting::Digits,
        "llama-bpe" | "llama3" | "llama-v3" => {
            Splitting::Pattern { pattern: THREE_DIGITS, normalises: false, keeps_whole_words: true }
        }
        "qwen2" => Splitting::Pattern { pattern: ONE_DIGIT, normalises: true, keeps_whole_words: false },
        _ => return None,
    })
}

const WAY_OUT: &str = "put the model's tokenizer.json beside the file";

/// Names and contents of `tokenizer.json` and the files around it.
pub fn files(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, String> {
    let text = |key: &str| match metadata.get(key) {
        Some(GgufValue::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    match text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some(other) => {
            return Err(format!("its tokenizer is of type `{other}`, only `gpt2` can be read: {WAY_OUT}"));
        }
        None => return Err(format!("it has no tokenizer: {WAY_OUT}")),
    }
    let pre = text("tokenizer.ggml.pre").unwrap_or("default");
    let splitting = splitting(pre)
        .ok_or_else(|| format!("its tokenizer splits text as `{pre}`, which is not known: {WAY_OUT}"))?;
    let tokens = texts(metadata, "tokenizer.ggml.tokens")?;
    let merges = texts(metadata, "tokenizer.ggml.merges")?;
    let kinds = match metadata.get("tokenizer.ggml.token_type") {
        Some(GgufValue::Numbers(kinds)) if kinds.len() == tokens.len() => Some(kinds),
        None => None,
        Some(_) => {
            return Err("`tokenizer.ggml.token_type` does not have one number for each token".to_owned());
        }
    };
    let mut vocabulary: BTreeMap<&str, usize> = BTreeMap::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = vocabulary.insert(token, id) {
            return Err(format!("the tokens {other} and {id} are both {token:?}"));
        }
        let kind = match kinds.and_then(|kinds| kinds.get(id)) {
            Some(GgufValue::Signed(kind)) => kind,
            Some(GgufValue::Unsigned(kind)) => kind as i64,
            _ => NORMAL,
        };
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind == CONTROL,
            }));
        }
    }
    let mut pairs = Vec::new();
    for merge in merges {
        // A space within a token is written as another character, so that the one here parts two tokens.
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| format!("the merge {merge:?} is not of two tokens"))?;
        let merged = format!("{left}{right}");
        if let Some(unknown) =
            [left, right, &merged].into_iter().find(|token| !vocabulary.contains_key(token))
        {
            return Err(format!(
                "the merge {merge:?} needs the token {unknown:?}, which is not in the vocabulary"
            ));
        }
        pairs.push(json!([left, right]));
    }
    let byte_level = |splits: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits,
        })
    };
    let sequence =
        |first: Json, second: Json| json!({ "type": "Sequence", "pretokenizers": [first, second] });
    let (pre_tokenizer, normalises, keeps_whole_words) = match splitting {
        Splitting::Gpt2 => (byte_level(true), false, false),
        Splitting::Digits => {
            (sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true)), false, false)
        }
        Splitting::Pattern { pattern, normalises, keeps_whole_words } => {
            let split = json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
            });
            (sequence(split, byte_level(false)), normalises, keeps_whole_words)
        }
    };
    // What a text begins with stands in the tokenizer itself: its readers ignore the configuration's word for
    // it.
    let begins = matches!(metadata.get("tokenizer.ggml.add_bos_token"), Some(GgufValue::Flag(true)));
    let begin = match metadata.get("tokenizer.ggml.bos_token_id") {
        Some(GgufValue::Unsigned(id)) if begins => {
            usize::try_from(*id).ok().and_then(|id| Some((id, *tokens.get(id)?)))
        }
        _ => None,
    };
    let post_processor = begin.map_or(Json::Null, |(id, token)| {
        let (special, first, second) = (
            json!({ "SpecialToken": { "id": token, "type_id": 0 } }),
            json!({ "Sequence": { "id": "A", "type_id": 0 } }),
            json!({ "Sequence": { "id": "B", "type_id": 1 } }),
        );
        let tokens = json!({ token: { "id": token, "ids": [id], "tokens": [token] } });
        let pair = json!([special.clone(), first.clone(), special.clone(), second]);
        json!({
            "type": "TemplateProcessing", "single": [special, first], "pair": pair, "special_tokens": tokens,
        })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": if normalises { json!({ "type": "NFC" }) } else { Json::Null },
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": keeps_whole_words,
            "vocab": vocabulary, "merges": pairs,
        },
    });
    let mut config = Map::new();
    for (key, name) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")]
    {
        let id = match metadata.get(&format!("tokenizer.ggml.{key}_token_id")) {
            Some(GgufValue::Unsigned(id)) => usize::try_from(*id).ok(),
            _ => continue,
        };
        let token = id
            .and_then(|id| tokens.get(id))
            .ok_or_else(|| format!("the id of the {key} token is not in the vocabulary"))?;
        config.insert(name.to_owned(), json!(token));
    }
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(GgufValue::Flag(flag)) = metadata.get(&format!("tokenizer.ggml.{name}")) {
            config.insert(name.to_owned(), json!(flag));
        }
    }
    if let Some(template) = text("tokenizer.chat_template") {
        config.insert("chat_template".to_owned(), json!(template));
    }
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    // Models that converse end a turn by another token than a text.
    let mut ends: Vec<u64> = Vec::new();
    for key in ["eos", "eot", "eom"] {
        if let Some(GgufValue::Unsigned(id)) = metadata.get(&format!("tokenizer.ggml.{key}_token_id"))
            && !ends.contains(id)
        {
            ends.push(*id);
        }
    }
    let file = |name: &str, content: Json| (name.to_owned(), content.to_string().into_bytes());
    Ok(vec![
        file("tokenizer.json", tokenizer),
        file("tokenizer_config.json", Json::Object(config)),
        file("generation_config.json", json!({ "eos_token_id": ends })),
    ])
}

/// Kinds of tokens in GGUF.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

fn texts<'a>(metadata: &'a Metadata, key: &str) -> Result<Vec<&'a str>, String> {
    let Some(GgufValue::List(list)) = metadata.get(key) else {
        return Err(format!("`{key}` is missing or no list: {WAY_OUT}"));
    };
    let text = |value: &'a GgufValue| match value {
        GgufValue::Text(text) => Ok(text.as_str()),
        other => Err(format!("`{key}` has {other:?}, which is no text")),
    };
    list.iter().map(text).collect()
}
