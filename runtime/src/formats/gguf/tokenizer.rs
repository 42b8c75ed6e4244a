//! Converts the tokenizer inside a GGUF file to the files that published models have beside their weights:
//! the same reader reads both, and a student can be saved with them.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::parse::{GgufValue, Metadata};

/// How text is split before bytes are merged: programs that run GGUF files know it by the name in
/// `tokenizer.ggml.pre`.
enum PreTokenizer {
    Gpt2,
    /// Each digit alone, then as GPT-2.
    Digits,
    Pattern {
        pattern: &'static str,
        normalises: bool,
        keeps_whole_words: bool,
    },
}

/// Contractions, letters with one preceding sign, digits, signs, line ends, spaces.
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

/// Names of Llama 3's way to split text.
const LLAMA_3: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];

fn splitting(name: &str) -> Option<PreTokenizer> {
    Some(match name {
        "gpt-2" => PreTokenizer::Gpt2,
        "smollm" => PreTokenizer::Digits,
        name if LLAMA_3.contains(&name) => {
            PreTokenizer::Pattern { pattern: THREE_DIGITS, normalises: false, keeps_whole_words: true }
        }
        "qwen2" => PreTokenizer::Pattern { pattern: ONE_DIGIT, normalises: true, keeps_whole_words: false },
        _ => return None,
    })
}

const WAY_OUT: &str = "put the model's tokenizer.json next to the file";

/// Names and contents of `tokenizer.json` and the files around it.
pub fn files(metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>, String> {
    match text(metadata, "model") {
        Some("gpt2") => {}
        Some(other) => {
            return Err(format!("its tokenizer is of type `{other}`, only `gpt2` can be read: {WAY_OUT}"));
        }
        None => return Err(format!("it has no tokenizer: {WAY_OUT}")),
    }
    let pre = text(metadata, "pre").unwrap_or("default");
    let splitting = splitting(pre)
        .ok_or_else(|| format!("its tokenizer splits text as `{pre}`, which is not known: {WAY_OUT}"))?;
    let tokens = texts(metadata, "tokenizer.ggml.tokens")?;
    let file = |name: &str, content: Json| (name.to_owned(), content.to_string().into_bytes());
    let added = added(metadata, &tokens)?;
    Ok(vec![
        file("tokenizer.json", tokenizer(metadata, &tokens, &added, &splitting)?),
        file("tokenizer_config.json", config(metadata, &tokens, &added)?),
        file("generation_config.json", json!({ "eos_token_id": ends(metadata) })),
    ])
}

/// The value of `tokenizer.ggml.<key>`.
fn of_tokenizer<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a GgufValue> {
    metadata.get(&format!("tokenizer.ggml.{key}"))
}

fn text<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    match of_tokenizer(metadata, key) {
        Some(GgufValue::Text(text)) => Some(text.as_str()),
        _ => None,
    }
}

fn flag(metadata: &Metadata, key: &str) -> Option<bool> {
    match of_tokenizer(metadata, key) {
        Some(GgufValue::Flag(flag)) => Some(*flag),
        _ => None,
    }
}

/// Whether texts begin with the `bos` token. Where a file does not say, llama.cpp decides by how it splits
/// text.
fn begins(metadata: &Metadata) -> bool {
    let by_default = || text(metadata, "pre").is_some_and(|pre| LLAMA_3.contains(&pre));
    flag(metadata, "add_bos_token").unwrap_or_else(by_default)
}

/// The id of a special token such as `eos` or `bos`.
fn special(metadata: &Metadata, key: &str) -> Option<u64> {
    match of_tokenizer(metadata, &format!("{key}_token_id")) {
        Some(GgufValue::Unsigned(id)) => Some(*id),
        _ => None,
    }
}

fn token<'a>(tokens: &[&'a str], id: u64) -> Option<&'a str> {
    tokens.get(usize::try_from(id).ok()?).copied()
}

/// The content of `tokenizer.json`.
fn tokenizer(
    metadata: &Metadata,
    tokens: &[&str],
    added: &[Json],
    splitting: &PreTokenizer,
) -> Result<Json, String> {
    let vocabulary = vocabulary(tokens)?;
    let merges = merges(metadata, &vocabulary)?;
    let (normalises, keeps_whole_words) = match splitting {
        PreTokenizer::Gpt2 | PreTokenizer::Digits => (false, false),
        PreTokenizer::Pattern { normalises, keeps_whole_words, .. } => (*normalises, *keeps_whole_words),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": if normalises { json!({ "type": "NFC" }) } else { Json::Null },
        "pre_tokenizer": pre_tokenizer(splitting), "post_processor": post_processor(metadata, tokens),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": keeps_whole_words,
            "vocab": vocabulary, "merges": merges,
        },
    }))
}

fn vocabulary<'a>(tokens: &[&'a str]) -> Result<BTreeMap<&'a str, usize>, String> {
    let mut vocabulary = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = vocabulary.insert(*token, id) {
            return Err(format!("the tokens {other} and {id} are both {token:?}"));
        }
    }
    Ok(vocabulary)
}

/// The added tokens, which are found in a text before it is split.
fn added(metadata: &Metadata, tokens: &[&str]) -> Result<Vec<Json>, String> {
    let kinds = match of_tokenizer(metadata, "token_type") {
        Some(GgufValue::Numbers(kinds)) if kinds.len() == tokens.len() => Some(kinds),
        None => None,
        Some(_) => {
            return Err("`tokenizer.ggml.token_type` does not have one number for each token".to_owned());
        }
    };
    // End and beginning count as control tokens whatever kind the file gives them, because chat templates
    // write them as text. A beginning token that is never added may be any token.
    let marks = [special(metadata, "eos"), special(metadata, "bos").filter(|_| begins(metadata))];
    let kind = |id: usize| {
        let given = match kinds.and_then(|kinds| kinds.get(id)) {
            Some(GgufValue::Signed(kind)) => kind,
            Some(GgufValue::Unsigned(kind)) => kind as i64,
            _ => NORMAL,
        };
        if given != USER_DEFINED && marks.contains(&Some(id as u64)) { CONTROL } else { given }
    };
    let added = |(id, token): (usize, &&str)| {
        let kind = kind(id);
        matches!(kind, CONTROL | USER_DEFINED).then(|| {
            json!({
                "id": id, "content": token, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind == CONTROL,
            })
        })
    };
    Ok(tokens.iter().enumerate().filter_map(added).collect())
}

fn merges(metadata: &Metadata, vocabulary: &BTreeMap<&str, usize>) -> Result<Vec<Json>, String> {
    let pair = |merge: &str| {
        // A space within a token is written as another character, so the space here separates two tokens.
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| format!("the merge {merge:?} does not have two tokens"))?;
        let merged = format!("{left}{right}");
        match [left, right, &merged].into_iter().find(|token| !vocabulary.contains_key(token)) {
            Some(unknown) => Err(format!(
                "the merge {merge:?} needs the token {unknown:?}, which is not in the vocabulary"
            )),
            None => Ok(json!([left, right])),
        }
    };
    texts(metadata, "tokenizer.ggml.merges")?.into_iter().map(pair).collect()
}

fn byte_level(splits: bool) -> Json {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits,
    })
}

fn pre_tokenizer(splitting: &PreTokenizer) -> Json {
    let sequence =
        |first: Json, second: Json| json!({ "type": "Sequence", "pretokenizers": [first, second] });
    match splitting {
        PreTokenizer::Gpt2 => byte_level(true),
        PreTokenizer::Digits => {
            sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true))
        }
        PreTokenizer::Pattern { pattern, .. } => {
            let split = json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
            });
            sequence(split, byte_level(false))
        }
    }
}

/// Adds the beginning token in the tokenizer itself, since its readers ignore `add_bos_token` in the
/// configuration.
fn post_processor(metadata: &Metadata, tokens: &[&str]) -> Json {
    let begin = || {
        let id = special(metadata, "bos").filter(|_| begins(metadata))?;
        Some((id, token(tokens, id)?))
    };
    let Some((id, token)) = begin() else { return Json::Null };
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
}

/// The content of `tokenizer_config.json`.
fn config(metadata: &Metadata, tokens: &[&str], added: &[Json]) -> Result<Json, String> {
    let mut config = Map::new();
    for (key, name) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")]
    {
        let Some(id) = special(metadata, key) else { continue };
        let token =
            token(tokens, id).ok_or_else(|| format!("the id of the {key} token is not in the vocabulary"))?;
        if !added.iter().any(|token| token["id"] == id) {
            // A file without such a token may give the id of any other here.
            continue;
        }
        config.insert(name.to_owned(), json!(token));
    }
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(flag) = flag(metadata, name) {
            config.insert(name.to_owned(), json!(flag));
        }
    }
    if let Some(GgufValue::Text(template)) = metadata.get("tokenizer.chat_template") {
        config.insert("chat_template".to_owned(), json!(template));
    }
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    Ok(Json::Object(config))
}

/// The ids that end generation: chat models end a turn with another token than a text.
fn ends(metadata: &Metadata) -> Vec<u64> {
    let mut ends = Vec::new();
    for id in ["eos", "eot", "eom"].into_iter().filter_map(|key| special(metadata, key)) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}

/// Kinds of tokens in GGUF.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

fn texts<'a>(metadata: &'a Metadata, key: &str) -> Result<Vec<&'a str>, String> {
    let Some(GgufValue::List(list)) = metadata.get(key) else {
        return Err(format!("`{key}` is missing or not a list: {WAY_OUT}"));
    };
    let text = |value: &'a GgufValue| match value {
        GgufValue::Text(text) => Ok(text.as_str()),
        other => Err(format!("`{key}` has {other:?}, which is not a string")),
    };
    list.iter().map(text).collect()
}
