//! Writes a [`Config`] as a `config.json` that the transformers library loads.

use serde_json::{Map, Value, json};

use super::families::{NAMES, epsilon_key};
use super::rope::{ORIGINAL_CONTEXT, PARTIAL, long_rope_attention, rotary_factor_of};
use super::{GEMMA_WINDOW, GENERATES, SCORES, SECOND_HEAD, TEXT_PART, experts, gated_delta, lfm2, read};
use crate::model::{Activation, Config, LayerAttention, ModelFamily, Rope, RopeScaling};

/// The token ids in `config.json`, each as it stands there: a number, a list of numbers, or null.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenIds {
    pub begin: Value,
    pub end: Value,
    pub padding: Value,
}

impl TokenIds {
    /// Takes the ids from a `config.json`.
    pub fn read(json: &Value) -> TokenIds {
        let text = json.get(TEXT_PART).unwrap_or(json);
        let id = |key: &str| text.get(key).cloned().unwrap_or(Value::Null);
        TokenIds { begin: id("bos_token_id"), end: id("eos_token_id"), padding: id("pad_token_id") }
    }
}

/// Rotary embeddings are written with flat keys, which every version of the reference and related tools read;
/// `rope_parameters` is used only for what flat keys can't express.
pub fn write(config: &Config, ids: &TokenIds) -> Value {
    let Config { family, .. } = *config;
    let (name, class) = names(family);
    let gemma = matches!(family, ModelFamily::Gemma | ModelFamily::Gemma2 | ModelFamily::Gemma3);
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    if config.scalar_head {
        // One label: a score. The LM head is in the files too; the reference ignores it.
        put("architectures", json!([class.replace(GENERATES, SCORES)]));
        put("id2label", json!({ "0": "score" }));
        put("label2id", json!({ "score": 0 }));
    } else {
        put("architectures", json!([class]));
    }
    if config.second_head {
        put(SECOND_HEAD, json!(true));
    }
    put("model_type", json!(name));
    put("vocab_size", json!(config.vocabulary));
    put("hidden_size", json!(config.width));
    put("intermediate_size", json!(config.intermediate_size));
    put("num_hidden_layers", json!(config.layers));
    put("num_attention_heads", json!(config.heads));
    put("num_key_value_heads", json!(config.key_value_heads));
    put("head_dim", json!(config.head_dim));
    let context = match &config.rope.scaling {
        RopeScaling::LongRope { context, .. } => *context,
        _ => config.context,
    };
    put("max_position_embeddings", json!(context));
    put("tie_word_embeddings", json!(config.tied));
    put(epsilon_key(family), json!(config.norm.epsilon));
    put("initializer_range", json!(config.initial_deviation));
    put("attention_dropout", json!(0.0));
    put("bos_token_id", ids.begin.clone());
    put("eos_token_id", ids.end.clone());
    put("pad_token_id", ids.padding.clone());
    put("dtype", json!("float32"));
    // The older name of the same key.
    put("torch_dtype", json!("float32"));
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu_pytorch_tanh",
    };
    put("hidden_act", json!(activation));
    if gemma {
        put("hidden_activation", json!(activation));
    }
    if !matches!(family, ModelFamily::Mistral | ModelFamily::Qwen2 | ModelFamily::Lfm2 | ModelFamily::Phi3) {
        put("attention_bias", json!(config.biases.query_key_value));
    }
    if family == ModelFamily::Granite {
        // Our residual stream is the published one divided by its multiplier: see `multipliers` in `mod.rs`.
        put("embedding_multiplier", json!(config.embedding_scale.value(false)));
        put("residual_multiplier", json!(1.0));
        put("attention_multiplier", json!(config.attention_scale));
        let scaling = read_back_as(config.logit_scale, 1.0 / config.logit_scale, |scaling| 1.0 / scaling);
        put("logits_scaling", json!(scaling));
    }
    if matches!(family, ModelFamily::Llama | ModelFamily::Granite | ModelFamily::SmolLm3) {
        put("mlp_bias", json!(config.biases.feed_forward));
    }
    if matches!(family, ModelFamily::Gemma2 | ModelFamily::Gemma3) {
        put("query_pre_attn_scalar", scalar(config.attention_scale));
        put("attn_logit_softcapping", json!(config.attention_softcap));
        put("final_logit_softcapping", json!(config.logit_softcap));
    }
    for (key, value) in windows(config)
        .into_iter()
        .chain(gated_delta::write(config))
        .chain(lfm2::write(config))
        .chain(experts::write(config))
    {
        put(key, value);
    }
    for (key, value) in rotary(config) {
        put(key, value);
    }
    Value::Object(keys)
}

/// Describes a feature for which the family's `config.json` has no key; none if the model can be written.
pub fn unwritten(config: &Config) -> Option<String> {
    let again = match read(&write(config, &TokenIds::default())) {
        Ok(again) => again,
        Err(problem) => return Some(problem),
    };
    if again == *config {
        return None;
    }
    let differs = |part: fn(&LayerAttention) -> usize| {
        !again.attention.iter().map(part).eq(config.attention.iter().map(part))
    };
    let features = [
        ("biases", again.biases != config.biases),
        ("gate of attention", again.attention_gate != config.attention_gate),
        ("attention sinks", again.attention_sinks != config.attention_sinks),
        ("gated delta rule", again.gated_delta != config.gated_delta),
        ("short convolutions", again.short_conv != config.short_conv),
        ("normalisation of queries and keys", again.query_key_norm != config.query_key_norm),
        ("normalisation", again.norm != config.norm),
        ("activation", again.activation != config.activation),
        ("scale of embeddings", again.embedding_scale != config.embedding_scale),
        ("scale of attention scores", again.attention_scale != config.attention_scale),
        ("soft cap of attention scores", again.attention_softcap != config.attention_softcap),
        ("soft cap of logits", again.logit_softcap != config.logit_softcap),
        ("scale of logits", again.logit_scale != config.logit_scale),
        ("sliding windows", differs(|layer| layer.window.unwrap_or(0))),
        ("layers without positions", differs(|layer| usize::from(layer.rotary))),
        (
            "rotary positions",
            again.rope != config.rope
                || again.local_rope != config.local_rope
                || again.rotary_dim != config.rotary_dim,
        ),
        ("experts", again.experts != config.experts),
    ];
    let lost: Vec<&str> = features.into_iter().filter(|(_, lost)| *lost).map(|(name, _)| name).collect();
    let lost = if lost.is_empty() { "sizes".to_owned() } else { lost.join(", ") };
    Some(format!("`config.json` of `{}` has no setting for its {lost}", names(config.family).0))
}

/// Published scalars are whole numbers, and the reference's class requires an integer.
fn scalar(attention_scale: f64) -> Value {
    let scalar = attention_scale.powi(-2);
    let whole = scalar.round();
    if (scalar - whole).abs() < 1e-9 * whole {
        return json!(whole as u64);
    }
    json!(read_back_as(attention_scale, scalar, |scalar| 1.0 / scalar.sqrt()))
}

/// The number closest to `near` that `reading` maps to exactly `number`. Both the inverse and `reading`
/// round.
fn read_back_as(number: f64, near: f64, reading: impl Fn(f64) -> f64) -> f64 {
    let apart = |ulps: u64| [near.to_bits().wrapping_add(ulps), near.to_bits().wrapping_sub(ulps)];
    (0..8).flat_map(apart).map(f64::from_bits).find(|near| reading(*near) == number).unwrap_or(near)
}

/// The family's `model_type`, and the reference's class.
fn names(family: ModelFamily) -> (&'static str, &'static str) {
    let (_, name, class) =
        NAMES[NAMES.iter().position(|(known, ..)| *known == family).expect("every family has a name")];
    (name, class)
}

fn windows(config: &Config) -> Vec<(&'static str, Value)> {
    let window = config.attention.iter().find_map(|layer| layer.window);
    let kind = |windowed: bool| if windowed { "sliding_attention" } else { "full_attention" };
    let types: Vec<&str> = config.attention.iter().map(|layer| kind(layer.window.is_some())).collect();
    let mut keys = Vec::new();
    match config.family {
        ModelFamily::Llama
        | ModelFamily::Granite
        | ModelFamily::Gemma
        | ModelFamily::Lfm2
        | ModelFamily::Qwen35 => {}
        ModelFamily::Phi3 => keys.push(("sliding_window", json!(window))),
        ModelFamily::Mistral => {
            keys.push(("sliding_window", json!(window)));
            // Only if layers differ: with this key the reference reads another model type.
            if config.attention.iter().any(|layer| layer.window != window) {
                keys.push(("layer_types", json!(types)));
            }
        }
        ModelFamily::Qwen3Moe => {
            keys.extend([("use_sliding_window", json!(window.is_some())), ("sliding_window", json!(window))]);
        }
        ModelFamily::Qwen2 | ModelFamily::Qwen3 | ModelFamily::SmolLm3 => {
            keys.extend([
                ("use_sliding_window", json!(window.is_some())),
                ("sliding_window", json!(window)),
                ("layer_types", json!(types)),
            ]);
            if config.family == ModelFamily::SmolLm3 {
                let rotary: Vec<u8> = config.attention.iter().map(|layer| u8::from(layer.rotary)).collect();
                keys.push(("no_rope_layers", json!(rotary)));
            } else {
                // For tools that don't know `layer_types`. Exact if the layers with a window are the last
                // ones, as in published models.
                let first = config.attention.iter().position(|layer| layer.window.is_some());
                keys.push(("max_window_layers", json!(first.unwrap_or(config.layers))));
            }
        }
        ModelFamily::GptOss => {
            keys.extend([("sliding_window", json!(window)), ("layer_types", json!(types))]);
        }
        ModelFamily::Gemma2 | ModelFamily::Gemma3 => {
            // The reference computes with the number even where `layer_types` names no such layer.
            let window = window.unwrap_or(GEMMA_WINDOW);
            keys.extend([("sliding_window", json!(window)), ("layer_types", json!(types))]);
        }
    }
    keys
}

fn rotary(config: &Config) -> Vec<(&'static str, Value)> {
    // Not known to versions that read flat keys.
    if config.family == ModelFamily::Qwen35 {
        let mut parameters = nested(&config.rope);
        parameters.insert(PARTIAL.to_owned(), json!(rotary_factor_of(config)));
        return vec![("rope_parameters", Value::Object(parameters))];
    }
    if config.family == ModelFamily::Phi3 {
        let mut keys = vec![
            ("rope_theta", json!(config.rope.theta)),
            ("rope_scaling", scaling(&config.rope.scaling)),
            (PARTIAL, json!(rotary_factor_of(config))),
        ];
        if let RopeScaling::LongRope { original_context, .. } = config.rope.scaling {
            keys.push((ORIGINAL_CONTEXT, json!(original_context)));
        }
        return keys;
    }
    if config.family == ModelFamily::GptOss && config.rope.scaling == RopeScaling::None {
        // Without parameters, the reference scales.
        return vec![("rope_parameters", Value::Object(nested(&config.rope)))];
    }
    if let Some(local) = &config.local_rope {
        if local.scaling != RopeScaling::None {
            let full = json!({ "full_attention": nested(&config.rope), "sliding_attention": nested(local) });
            return vec![("rope_parameters", full)];
        }
        return vec![
            ("rope_theta", json!(config.rope.theta)),
            ("rope_local_base_freq", json!(local.theta)),
            ("rope_scaling", scaling(&config.rope.scaling)),
        ];
    }
    vec![("rope_theta", json!(config.rope.theta)), ("rope_scaling", scaling(&config.rope.scaling))]
}

fn nested(rope: &Rope) -> Map<String, Value> {
    let mut parameters = match scaling(&rope.scaling) {
        Value::Object(parameters) => parameters,
        _ => Map::from_iter([("rope_type".to_owned(), json!("default"))]),
    };
    parameters.insert("rope_theta".to_owned(), json!(rope.theta));
    parameters
}

fn scaling(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_frequency,
            "high_freq_factor": high_frequency,
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Yarn { factor, attention, beta_fast, beta_slow, original_context, truncate } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "attention_factor": attention,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "original_max_position_embeddings": original_context,
            "truncate": truncate,
        }),
        // Version 4 of the reference allows no other keys in it.
        RopeScaling::LongRope { attention, short, long, original_context, context } => {
            let mut scaling = json!({ "type": "longrope", "short_factor": short, "long_factor": long });
            if *attention
                != long_rope_attention(*context as f64 / *original_context as f64, *original_context)
            {
                scaling["attention_factor"] = json!(attention);
            }
            scaling
        }
    }
}
