//! `config.json`: the transformers library's description of a decoder's architecture.
//!
//! Each family has its own defaults for absent keys and its own spelling of switches; here they become the
//! features of [`Config`]. A feature that our decoder lacks is refused by name: a key that changes what a
//! model computes is never ignored. In comments here, the *reference* is the transformers library.

mod experts;
mod families;
mod gated_delta;
mod keys;
mod lfm2;
mod rope;
#[cfg(test)]
mod tests;
mod write;

use serde_json::Value;

use self::families::Defaults;
use self::keys::ConfigKeys;
use crate::model::{Activation, Biases, Config, EmbeddingScale, LayerAttention, ModelFamily, Norm};

pub use self::write::{TokenIds, unwritten, write};

/// Reads the object of a `config.json`. An error says what is wrong in one line, without the file's name.
pub fn read(json: &Value) -> Result<Config, String> {
    let (family, keys) = family(&ConfigKeys::new(json)?)?;
    refuse_what_changes_the_model(&keys, family)?;
    let defaults = Defaults::for_family(family);
    let size = |key: &str, default: usize| Ok::<usize, String>(keys.size(key)?.unwrap_or(default));
    let layers = size("num_hidden_layers", defaults.layers)?;
    // Checked before the rest, because lists of this length are allocated next.
    if layers == 0 || layers > Config::MOST_LAYERS {
        return Err(format!("`num_hidden_layers` is {layers}"));
    }
    let width = size("hidden_size", defaults.width)?;
    let heads = size("num_attention_heads", defaults.heads)?;
    let head_dim = match (keys.size("head_dim")?, defaults.head_dim) {
        (Some(given), _) => given,
        (None, Some(default)) if keys.absent("head_dim") => default,
        _ => width / heads.max(1),
    };
    let key_value_heads = match (keys.size("num_key_value_heads")?, defaults.key_value_heads) {
        (Some(given), _) => given,
        (None, Some(default)) if keys.absent("num_key_value_heads") => default,
        _ => heads,
    };
    let context = size("max_position_embeddings", defaults.context)?;
    let gemma = matches!(family, ModelFamily::Gemma | ModelFamily::Gemma2 | ModelFamily::Gemma3);
    let qwen35 = family == ModelFamily::Qwen35;
    let (rope, local_rope) = rope::read(&keys, family, defaults.theta, context)?;
    let context = rope.context(context);
    let multipliers = multipliers(&keys, family, head_dim)?;
    let config = Config {
        family,
        vocabulary: size("vocab_size", defaults.vocabulary)?,
        layers,
        width,
        heads,
        key_value_heads,
        head_dim,
        intermediate_size: match family {
            ModelFamily::Lfm2 => lfm2::intermediate_size(&keys, defaults.intermediate_size)?,
            _ => size("intermediate_size", defaults.intermediate_size)?,
        },
        context,
        tied: match family {
            // The older key counts before the other one.
            ModelFamily::Lfm2 if keys.present("tie_embedding").is_some() => keys.flag("tie_embedding")?,
            _ => keys.flag("tie_word_embeddings")?,
        }
        .unwrap_or(defaults.tied),
        scalar_head: scalar_head(&keys)?,
        second_head: keys.flag(SECOND_HEAD)?.unwrap_or(false),
        biases: biases(&keys, family)?,
        query_key_norm: qwen35
            || matches!(
                family,
                ModelFamily::Qwen3 | ModelFamily::Qwen3Moe | ModelFamily::Lfm2 | ModelFamily::Gemma3
            ),
        attention_gate: qwen35,
        attention_sinks: family == ModelFamily::GptOss,
        norm: Norm {
            epsilon: keys.number(families::epsilon_key(family))?.unwrap_or(defaults.epsilon)
                / multipliers.residual.powi(2),
            offset: if gemma || qwen35 { 1.0 } else { 0.0 },
            after: matches!(family, ModelFamily::Gemma2 | ModelFamily::Gemma3),
        },
        activation: activation(&keys, family)?,
        embedding_scale: match family {
            ModelFamily::Granite => EmbeddingScale::Exact(multipliers.embedding / multipliers.residual),
            _ => EmbeddingScale::new(gemma, width),
        },
        attention_scale: multipliers.attention,
        attention_softcap: softcap(&keys, family, "attn_logit_softcapping", 50.0)?,
        logit_softcap: softcap(&keys, family, "final_logit_softcapping", 30.0)?,
        logit_scale: multipliers.logit,
        attention: attention(&keys, family, layers)?,
        rope,
        local_rope,
        rotary_dim: rope::rotary_dim(&keys, family, head_dim)?,
        gated_delta: if qwen35 { Some(gated_delta::read(&keys, layers)?) } else { None },
        short_conv: if family == ModelFamily::Lfm2 { Some(lfm2::read(&keys, layers)?) } else { None },
        experts: experts::read(&keys, family, layers)?,
        initial_deviation: keys.number("initializer_range")?.unwrap_or(0.02),
    };
    if family == ModelFamily::Gemma3 && config.attention_softcap.is_some() {
        return Err(
            "`attn_logit_softcapping` of `gemma3_text` must be null: the reference implementation ignores \
            it"
            .to_owned(),
        );
    }
    if config.norm.epsilon <= 0.0 {
        let key = families::epsilon_key(family);
        return Err(format!("`{key}` is {}, it must be above 0", config.norm.epsilon));
    }
    config.check()?;
    Ok(config)
}

/// Suffixes of the reference's classes that generate text, and of those that map a text to a score.
const GENERATES: &str = "ForCausalLM";
const SCORES: &str = "ForSequenceClassification";

/// The window of Gemma 2 and 3 where the file has none.
const GEMMA_WINDOW: usize = 4096;

/// The key that describes the text part of a model that reads images too.
const TEXT_PART: &str = "text_config";

/// Our key for models with a second LM head. The reference ignores the key and the tensors: it reads only the
/// first head.
const SECOND_HEAD: &str = "mopd_second_head";

/// Whether the model scores texts (one label). A classifier with several classes is refused.
fn scalar_head(keys: &ConfigKeys) -> Result<bool, String> {
    let class = |value: &Value| value.as_str().is_some_and(|class| class.ends_with(SCORES));
    if !keys.array("architectures")?.unwrap_or_default().iter().any(class) {
        return Ok(false);
    }
    let labels = match (keys.present("id2label"), keys.size("num_labels")?) {
        (Some(_), _) => keys.nested("id2label")?.len(),
        (None, given) => given.unwrap_or(2),
    };
    match labels {
        1 => Ok(true),
        _ => Err(format!("it is a classifier with {labels} classes: a reward model has one")),
    }
}

/// The family, and the keys that describe its decoder.
fn family<'a>(keys: &ConfigKeys<'a>) -> Result<(ModelFamily, ConfigKeys<'a>), String> {
    let Some(name) = keys.text("model_type")? else {
        return Err(format!("`model_type` is missing; it is one of {}", families::names()));
    };
    if let Some(family) = families::named(name) {
        return Ok((family, *keys));
    }
    if let Some(family) = families::text_part(name) {
        return Ok((family, keys.nested(TEXT_PART)?));
    }
    let reason = match name {
        "gemma3" => "`gemma3` reads images; its text part alone is `gemma3_text`".to_owned(),
        _ => format!("the model type `{name}` is not supported"),
    };
    Err(format!("{reason}; supported are {}", families::names()))
}

/// Refuses settings of the reference that no family here has, unless they have the value that does nothing.
fn refuse_what_changes_the_model(keys: &ConfigKeys, family: ModelFamily) -> Result<(), String> {
    if keys.present("quantization_config").is_some() {
        let method = keys.nested("quantization_config")?.text("quant_method")?;
        if family != ModelFamily::GptOss || method != Some(MXFP4) {
            return Err(quantised(method));
        }
    }
    // Both let a token attend to later ones.
    for (key, bidirectional) in [("use_bidirectional_attention", true), ("is_causal", false)] {
        if keys.flag(key)? == Some(bidirectional) {
            return Err(format!("`{key}` is {bidirectional}: such a model does not predict the next token"));
        }
    }
    let dropouts: &[&str] = match family {
        ModelFamily::Phi3 => &["attention_dropout", "resid_pdrop", "embd_pdrop"],
        _ => &["attention_dropout"],
    };
    for key in dropouts {
        if let Some(dropout) = keys.number(key)?
            && dropout != 0.0
        {
            return Err(format!(
                "`{key}` is {dropout}, which is not supported: set it to 0 to train without"
            ));
        }
    }
    if families::rotated_part(family).is_none()
        && let Some(factor) = keys.number(rope::PARTIAL)?
        && factor != 1.0
    {
        return Err(rope::partial(factor));
    }
    Ok(())
}

/// The quantisation of published checkpoints of gpt-oss.
const MXFP4: &str = "mxfp4";

fn quantised(method: Option<&str>) -> String {
    let method = method.map_or(String::new(), |method| format!(" (`{method}`)"));
    format!(
        "the checkpoint is quantised{method}, which is not supported in this format: load the unquantised \
         weights, or a GGUF file"
    )
}

fn biases(keys: &ConfigKeys, family: ModelFamily) -> Result<Biases, String> {
    let flag = |key: &str| Ok::<bool, String>(keys.flag(key)?.unwrap_or(false));
    Ok(match family {
        // Qwen2 has no key for it: queries, keys and values have biases, the output projection has none.
        ModelFamily::Qwen2 => Biases { query_key_value: true, output: false, feed_forward: false },
        ModelFamily::Mistral | ModelFamily::Lfm2 | ModelFamily::Phi3 => Biases::default(),
        _ => {
            let attention = keys.flag("attention_bias")?.unwrap_or(family == ModelFamily::GptOss);
            let feed_forward =
                matches!(family, ModelFamily::Llama | ModelFamily::Granite | ModelFamily::SmolLm3)
                    && flag("mlp_bias")?;
            Biases { query_key_value: attention, output: attention, feed_forward }
        }
    })
}

fn activation(keys: &ConfigKeys, family: ModelFamily) -> Result<Activation, String> {
    match family {
        ModelFamily::Gemma => {
            // Published checkpoints say `gelu` here and mean the approximation.
            let activation = match keys.text("hidden_act")? {
                Some("gelu") => Activation::Gelu,
                _ => activation_of(keys, "hidden_act", "gelu_pytorch_tanh")?,
            };
            // Version 4 of the reference read this key if given; version 5 reads only the other.
            if keys.present("hidden_activation").is_some()
                && activation_of(keys, "hidden_activation", "gelu_pytorch_tanh")? != activation
            {
                return Err(
                    "`hidden_act` and `hidden_activation` name two activations: give the one that the model \
                     was trained with, in both"
                        .to_owned(),
                );
            }
            Ok(activation)
        }
        ModelFamily::Gemma2 | ModelFamily::Gemma3 => {
            activation_of(keys, "hidden_activation", "gelu_pytorch_tanh")
        }
        // They have no key for it.
        ModelFamily::GptOss | ModelFamily::Lfm2 => Ok(Activation::Silu),
        _ => activation_of(keys, "hidden_act", "silu"),
    }
}

fn activation_of(keys: &ConfigKeys, key: &str, default: &str) -> Result<Activation, String> {
    match keys.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::Gelu),
        other => Err(format!("`{key}` is `{other}`; supported are `silu` and `gelu_pytorch_tanh`")),
    }
}

/// The scalar multipliers of a published model.
struct Multipliers {
    embedding: f64,
    /// Factor of the outputs that attention and MLP add to the residual stream.
    residual: f64,
    /// Factor of the products of queries and keys.
    attention: f64,
    logit: f64,
}

/// Granite's file has them (arXiv:2408.13359, section 3).
///
/// Its residual multiplier m needs no code of its own: normalisation ignores the scale of its input, so the
/// residual stream divided by m is that of a decoder without the multiplier whose embedding multiplier is
/// embedding / m and whose epsilon is epsilon / m^2.
fn multipliers(keys: &ConfigKeys, family: ModelFamily, head_dim: usize) -> Result<Multipliers, String> {
    let none = Multipliers { embedding: 1.0, residual: 1.0, attention: 1.0, logit: 1.0 };
    if family != ModelFamily::Granite {
        return Ok(Multipliers { attention: attention_scale(keys, family, head_dim)?, ..none });
    }
    let above_zero = |key: &str| match keys.number(key)?.unwrap_or(1.0) {
        number if number > 0.0 => Ok(number),
        number => Err(format!("`{key}` is {number}, it must be above 0")),
    };
    Ok(Multipliers {
        embedding: above_zero("embedding_multiplier")?,
        residual: above_zero("residual_multiplier")?,
        attention: above_zero("attention_multiplier")?,
        logit: 1.0 / above_zero("logits_scaling")?,
    })
}

fn attention_scale(keys: &ConfigKeys, family: ModelFamily, head_dim: usize) -> Result<f64, String> {
    let scalar = match family {
        ModelFamily::Gemma2 | ModelFamily::Gemma3 => keys.number("query_pre_attn_scalar")?.unwrap_or(256.0),
        _ => head_dim as f64,
    };
    if scalar <= 0.0 {
        return Err(format!("`query_pre_attn_scalar` is {scalar}, it must be above 0"));
    }
    Ok(1.0 / scalar.sqrt())
}

/// The softcap of Gemma 2 and 3; for other families the reference ignores the key. Null means no cap; absent
/// means `default` for Gemma 2 and no cap for Gemma 3.
fn softcap(keys: &ConfigKeys, family: ModelFamily, key: &str, default: f64) -> Result<Option<f64>, String> {
    let cap = match family {
        ModelFamily::Gemma2 if keys.absent(key) => Some(default),
        ModelFamily::Gemma2 | ModelFamily::Gemma3 => keys.number(key)?,
        _ => None,
    };
    match cap {
        Some(cap) if cap <= 0.0 => Err(format!("`{key}` is {cap}, it must be above 0")),
        cap => Ok(cap),
    }
}

/// The attention window of each layer, and whether it applies rotary embeddings.
fn attention(keys: &ConfigKeys, family: ModelFamily, layers: usize) -> Result<Vec<LayerAttention>, String> {
    let full = LayerAttention { window: None, rotary: true };
    let window = |default: Option<usize>| -> Result<Option<usize>, String> {
        let window = if keys.absent("sliding_window") { default } else { keys.size("sliding_window")? };
        match window {
            Some(0) => Err("`sliding_window` is 0: a token must at least see itself".to_owned()),
            window => Ok(window),
        }
    };
    let used = keys.flag("use_sliding_window")?.unwrap_or(false);
    match family {
        ModelFamily::Llama
        | ModelFamily::Granite
        | ModelFamily::Gemma
        | ModelFamily::Lfm2
        | ModelFamily::Qwen35 => Ok(vec![full; layers]),
        ModelFamily::Phi3 => Ok(vec![LayerAttention { window: window(None)?, ..full }; layers]),
        // With `layer_types` the reference reads the file as `ministral`, which is the same otherwise.
        ModelFamily::Mistral => {
            let window = window(Some(4096))?;
            by_type(keys, layers, window, |_| window.is_some())
        }
        // It has no `max_window_layers`, unlike its relatives: all layers have a window, or none.
        ModelFamily::Qwen3Moe => {
            let window = if used { window(Some(4096))? } else { None };
            Ok(vec![LayerAttention { window, ..full }; layers])
        }
        ModelFamily::Qwen2 | ModelFamily::Qwen3 => {
            let window = if used { window(Some(4096))? } else { None };
            let first = keys.size("max_window_layers")?.unwrap_or(28);
            by_type(keys, layers, window, |layer| window.is_some() && layer >= first)
        }
        ModelFamily::SmolLm3 => {
            let rotary = rotary_layers(keys, layers)?;
            let window = if used { window(None)? } else { None };
            let mut attention = by_type(keys, layers, window, |layer| window.is_some() && !rotary[layer])?;
            for (layer, rotary) in attention.iter_mut().zip(rotary) {
                layer.rotary = rotary;
            }
            Ok(attention)
        }
        ModelFamily::GptOss => {
            let window = window(Some(128))?;
            by_type(keys, layers, window, |layer| layer % 2 == 0)
        }
        ModelFamily::Gemma2 => {
            let window = window(Some(GEMMA_WINDOW))?;
            by_type(keys, layers, window, |layer| layer % 2 == 0)
        }
        ModelFamily::Gemma3 => {
            let window = window(Some(GEMMA_WINDOW))?;
            let pattern = keys.size("sliding_window_pattern")?.unwrap_or(6);
            if pattern == 0 {
                return Err("`sliding_window_pattern` is 0".to_owned());
            }
            by_type(keys, layers, window, |layer| !(layer + 1).is_multiple_of(pattern))
        }
    }
}

/// Applies `layer_types` if given, else the family's rule.
fn by_type(
    keys: &ConfigKeys,
    layers: usize,
    window: Option<usize>,
    rule: impl Fn(usize) -> bool,
) -> Result<Vec<LayerAttention>, String> {
    let sliding: Vec<bool> = match keys.list("layer_types", layers)? {
        None => (0..layers).map(rule).collect(),
        Some(types) => {
            let sliding = |kind: &Value| match kind.as_str() {
                Some("full_attention" | "attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(format!(
                    "`layer_types` has {kind}; supported are `full_attention` and `sliding_attention`"
                )),
            };
            types.iter().map(sliding).collect::<Result<_, _>>()?
        }
    };
    if window.is_none() && sliding.contains(&true) {
        return Err("some layers have sliding attention, but `sliding_window` sets no window".to_owned());
    }
    let layer = |sliding: bool| LayerAttention { window: if sliding { window } else { None }, rotary: true };
    Ok(sliding.into_iter().map(layer).collect())
}

/// Which layers of SmolLM3 apply rotary embeddings. In `no_rope_layers`, 1 means that a layer does.
fn rotary_layers(keys: &ConfigKeys, layers: usize) -> Result<Vec<bool>, String> {
    if let Some(list) = keys.list("no_rope_layers", layers)? {
        let rotary = |value: &Value| match value.as_u64() {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => {
                Err(format!("`no_rope_layers` has {value}; each layer has 1 (rotary positions) or 0 (none)"))
            }
        };
        return list.iter().map(rotary).collect();
    }
    let interval = keys.size("no_rope_layer_interval")?.unwrap_or(4);
    if interval == 0 {
        return Err("`no_rope_layer_interval` is 0".to_owned());
    }
    Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect())
}
