//! The keys of `config.json` about layers with the gated delta rule.

use serde_json::{Value, json};

use super::keys::ConfigKeys;
use crate::model::{Config, GatedDelta};

const LINEAR: &str = "linear_attention";
const FULL: &str = "full_attention";

pub(super) fn read(keys: &ConfigKeys, layers: usize) -> Result<GatedDelta, String> {
    // The convolution has the activation of the feed-forward part in the reference, where only this one is
    // written.
    if let Some(activation) = keys.text("hidden_act")?
        && !["silu", "swish"].contains(&activation)
    {
        return Err(format!("`hidden_act` is `{activation}`; supported for `qwen3_5_text` is `silu`"));
    }
    let size = |key: &str, default: usize| Ok::<usize, String>(keys.size(key)?.unwrap_or(default));
    Ok(GatedDelta {
        key_heads: size("linear_num_key_heads", 16)?,
        value_heads: size("linear_num_value_heads", 32)?,
        key_head_dim: size("linear_key_head_dim", 128)?,
        value_head_dim: size("linear_value_head_dim", 128)?,
        convolution: size("linear_conv_kernel_dim", 4)?,
        layers: layer_types(keys, layers)?,
    })
}

/// Which layers have the rule.
fn layer_types(keys: &ConfigKeys, layers: usize) -> Result<Vec<bool>, String> {
    if let Some(types) = keys.layer_types(layers, [LINEAR, FULL])? {
        return Ok(types);
    }
    match keys.size("full_attention_interval")?.unwrap_or(4) {
        0 => Err("`full_attention_interval` is 0".to_owned()),
        interval => Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect()),
    }
}

/// The keys of a configuration with such layers.
pub(super) fn write(config: &Config) -> Vec<(&'static str, Value)> {
    let Some(delta) = &config.gated_delta else { return Vec::new() };
    let kinds = delta.layers.iter().map(|linear| if *linear { LINEAR } else { FULL });
    vec![
        ("linear_num_key_heads", json!(delta.key_heads)),
        ("linear_num_value_heads", json!(delta.value_heads)),
        ("linear_key_head_dim", json!(delta.key_head_dim)),
        ("linear_value_head_dim", json!(delta.value_head_dim)),
        ("linear_conv_kernel_dim", json!(delta.convolution)),
        ("layer_types", json!(kinds.collect::<Vec<&str>>())),
    ]
}
