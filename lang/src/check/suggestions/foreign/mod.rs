//! Names of other software: PyTorch, Transformers, PEFT, TRL, verl and papers. Such a name is not a typo of a
//! name in mopd, so the nearest spelling would mislead; these tables give its counterpart in the language.

mod settings;
mod spellings;

use ForeignSetting::{Beside, Epochs, Is, Otherwise, Whole, Within};

use crate::diag::{nearest, same_letters};

use self::settings::{IN_OPTIMIZER, SETTINGS};

pub use self::spellings::{Spelling, is_library, name, part};

/// The counterpart of another tool's setting or argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignSetting {
    /// Another name for the same value.
    Is(&'static str),
    /// A number of epochs: `steps = 3 epochs`.
    Epochs,
    /// `true` is written as this text: `checkpointing = all`.
    Whole(&'static str),
    /// Part of another setting: `optimizer = adamw(weight_decay: 0.1)`.
    Within { key: &'static str, before: &'static str },
    /// Set elsewhere, for a block that may have `key`; the words say where.
    Beside { key: &'static str, words: &'static str },
    /// No direct counterpart; the words say what to do.
    Otherwise(&'static str),
}

/// The counterpart of another tool's setting or argument. `known` are the names that the block has, `free`
/// those that are not set yet.
pub fn setting(name: &str, known: &[&str], free: &[&str]) -> Option<ForeignSetting> {
    let rows = SETTINGS.iter().filter(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)));
    rows.flat_map(|(_, ours)| ours.iter().copied()).find(|ours| match ours {
        Is(key) | Whole(key) | Within { key, .. } => free.contains(key),
        Epochs => free.contains(&"steps"),
        Beside { key, .. } => known.contains(key),
        Otherwise(_) => true,
    })
}

impl ForeignSetting {
    /// The setting of the language that replaces this one.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Is(key) | Whole(key) | Within { key, .. } => Some(key),
            Epochs => Some("steps"),
            Beside { .. } | Otherwise(_) => None,
        }
    }

    /// The text `key = value` in the language. `None` where it depends on more than the value.
    pub fn written(self, value: &str) -> Option<String> {
        match self {
            Is(key) => Some(format!("{key} = {value}")),
            Epochs if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(format!("steps = {value} epoch{}", if value == "1" { "" } else { "s" }))
            }
            Whole(key) if matches!(value, "true" | "True") => Some(format!("{key} = all")),
            Within { key, before } => Some(format!("{key} = {before}{value})")),
            _ => None,
        }
    }

    /// The help text, which says what to write instead.
    pub fn help(self) -> String {
        match self {
            Is(key) => format!("here it is called `{key}`"),
            Epochs => "write `steps = 3 epochs`".to_owned(),
            Whole(key) => format!("write `{key} = all`, or a number of layers"),
            Within { before, .. } => format!("{IN_OPTIMIZER}{}...)`", before.trim_start_matches("adamw(")),
            Beside { words, .. } | Otherwise(words) => words.to_owned(),
        }
    }
}

/// The key or argument that a name was probably meant for, and whether that is certain. A name that contains
/// a key as a whole word, such as `total_prompts_count`, is an uncertain match.
pub fn key<'a>(name: &str, known: &[&'a str]) -> Option<(&'a str, bool)> {
    if let Some(near) = nearest(name, known.iter().copied()) {
        return Some((near, true));
    }
    let word = name
        .split('_')
        .filter(|word| word.len() > 2)
        .find_map(|word| known.iter().copied().find(|key| *key == word));
    word.map(|key| (key, false))
}

/// Words of a fixed list: kinds of numbers, devices, matrices, methods.
const WORDS: &[(&[&str], &[&str])] = &[
    (&["bf16", "bfloat", "torch.bfloat16"], &["bfloat16"]),
    (&["fp32", "float", "f32", "torch.float32", "float_32"], &["float32"]),
    (&["gpu", "nvidia", "cuda0", "cuda:0", "cuda:1", "auto"], &["cuda"]),
    (&["q_proj", "q", "wq"], &["query"]),
    (&["k_proj", "k", "wk"], &["key"]),
    (&["v_proj", "v", "wv"], &["value"]),
    (&["o_proj", "o", "wo", "out_proj"], &["output"]),
    (&["gate_proj", "w1"], &["gate"]),
    (&["up_proj", "w3"], &["up"]),
    (&["down_proj", "w2"], &["down"]),
    (&["in_proj_qkv"], &["delta_input"]),
    (&["in_proj_z"], &["delta_gate"]),
    (&["in_proj_b"], &["delta_strength"]),
    (&["in_proj_a"], &["delta_decay"]),
    (&["linear_attn", "linear_attention"], &["gated_delta"]),
    (&["in_proj"], &["conv_input"]),
    (&["conv", "short_convolution"], &["short_conv"]),
    (&["mlp", "ffn", "feedforward"], &["feed_forward"]),
    (&["attn", "self_attn", "self_attention"], &["attention"]),
    (&["embeddings", "embed_tokens", "lm_head"], &["embedding"]),
    (&["layernorm", "rmsnorm", "norms"], &["norm"]),
    (&["mean", "linear", "soup", "weight_average"], &["average"]),
    (&["unbiased", "std"], &["sample"]),
    (&["biased"], &["population"]),
    (&["renormalize", "normalized"], &["renormalized"]),
    (&["chatml", "conversation", "conversational", "messages"], &["chat"]),
    (&["plain", "raw", "completion"], &["text"]),
    (&["vocab", "vocabulary"], &["vocab"]),
    (&["token_level", "tokens"], &["token"]),
    (&["seq", "sequences", "sample"], &["sequence"]),
    (&["batches", "global"], &["batch"]),
];

/// The word of a fixed list that corresponds to another tool's word.
pub fn word<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (_, ours) = WORDS.iter().find(|(theirs, ours)| {
        theirs.iter().any(|theirs| same_letters(theirs, name)) && ours.iter().any(|ours| known.contains(ours))
    })?;
    known.iter().copied().find(|known| ours.contains(known))
}

/// The type that corresponds to another language's name of a type.
pub fn type_name(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "int" | "integer" | "usize" | "uint" | "i32" | "i64" | "u32" | "u64" | "long" => "count",
        "float" | "double" | "f32" | "f64" => "real",
        "str" | "string" => "text",
        "boolean" => "bool",
        "percent" | "probability" | "share" => "fraction",
        _ => return None,
    })
}
