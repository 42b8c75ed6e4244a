//! The keys of `config.json` that only LFM2 has: short convolutions, and the width of the feed-forward part.

use serde_json::{Value, json};

use super::keys::ConfigKeys;
use crate::model::{Config, ShortConv};

const CONVOLUTION: &str = "conv";
const ATTENTION: &str = "full_attention";

pub(super) fn read(keys: &ConfigKeys, layers: usize) -> Result<ShortConv, String> {
    Ok(ShortConv {
        taps: keys.size("conv_L_cache")?.unwrap_or(3),
        biases: keys.flag("conv_bias")?.unwrap_or(false),
        layers: layer_types(keys, layers)?,
    })
}

/// Which layers have the convolution. Older files list those with attention.
fn layer_types(keys: &ConfigKeys, layers: usize) -> Result<Vec<bool>, String> {
    if let Some(types) = keys.layer_types(layers, [CONVOLUTION, ATTENTION])? {
        return Ok(types);
    }
    let Some(with_attention) = keys.array("full_attn_idxs")? else { return Ok(vec![false; layers]) };
    Ok((0..layers).map(|layer| !with_attention.contains(&json!(layer))).collect())
}

/// The inner width of the feed-forward part, whose key may stand for one that is computed from it.
pub(super) fn intermediate_size(keys: &ConfigKeys, default: usize) -> Result<usize, String> {
    let given = match keys.size("block_ff_dim")? {
        Some(size) => size,
        None => keys.size("intermediate_size")?.unwrap_or(default),
    };
    if !keys.flag("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(given);
    }
    // Rounded as in the reference, which computes with floats.
    let mut size = (2.0 * given as f64 / 3.0) as usize;
    let multiplier = if keys.absent("block_ffn_dim_multiplier") {
        Some(1.0)
    } else {
        keys.number("block_ffn_dim_multiplier")?
    };
    if let Some(multiplier) = multiplier {
        let multiple = keys.size("block_multiple_of")?.unwrap_or(256);
        if multiple == 0 {
            return Err("`block_multiple_of` is 0".to_owned());
        }
        size = (multiplier * size as f64) as usize;
        size = size.div_ceil(multiple).saturating_mul(multiple);
    }
    Ok(size)
}

/// The keys of a configuration with such layers.
pub(super) fn write(config: &Config) -> Vec<(&'static str, Value)> {
    let Some(conv) = &config.short_conv else { return Vec::new() };
    let kinds = conv.layers.iter().map(|convolution| if *convolution { CONVOLUTION } else { ATTENTION });
    vec![
        ("conv_L_cache", json!(conv.taps)),
        ("conv_bias", json!(conv.biases)),
        ("block_auto_adjust_ff_dim", json!(false)),
        ("layer_types", json!(kinds.collect::<Vec<&str>>())),
    ]
}
