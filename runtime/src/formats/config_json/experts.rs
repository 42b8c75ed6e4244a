//! The keys of `config.json` about experts.

use serde_json::{Value, json};

use super::keys::ConfigKeys;
use crate::model::{ClampedUnit, Config, Experts, ModelFamily};

pub(super) fn read(keys: &ConfigKeys, family: ModelFamily, layers: usize) -> Result<Option<Experts>, String> {
    match family {
        ModelFamily::Qwen3Moe => qwen3_moe(keys, layers).map(Some),
        ModelFamily::GptOss => gpt_oss(keys, layers).map(Some),
        _ => Ok(None),
    }
}

fn gpt_oss(keys: &ConfigKeys, layers: usize) -> Result<Experts, String> {
    let above_zero = |key: &str, default: f64| match keys.number(key)?.unwrap_or(default) {
        number if number > 0.0 => Ok(number),
        number => Err(format!("`{key}` is {number}, it must be above 0")),
    };
    Ok(Experts {
        count: keys.size("num_local_experts")?.unwrap_or(128),
        per_token: keys.size("num_experts_per_tok")?.unwrap_or(4),
        intermediate_size: keys.size("intermediate_size")?.unwrap_or(2880),
        // The softmax over the chosen experts alone is that over all, divided by their sum.
        normalised: true,
        layers: vec![true; layers],
        clamped: Some(ClampedUnit {
            alpha: above_zero("swiglu_alpha", 1.702)?,
            limit: above_zero("swiglu_limit", 7.0)?,
        }),
    })
}

fn qwen3_moe(keys: &ConfigKeys, layers: usize) -> Result<Experts, String> {
    let count = match keys.size("num_experts")? {
        Some(count) => count,
        // The name since version 5 of the reference.
        None => keys.size("num_local_experts")?.unwrap_or(128),
    };
    let step = keys.size("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err("`decoder_sparse_step` is 0".to_owned());
    }
    let mut with: Vec<bool> =
        (0..layers).map(|layer| count > 0 && (layer + 1).is_multiple_of(step)).collect();
    for value in keys.array("mlp_only_layers")?.into_iter().flatten() {
        let layer = value
            .as_u64()
            .and_then(|layer| usize::try_from(layer).ok())
            .and_then(|layer| with.get_mut(layer));
        *layer.ok_or_else(|| format!("`mlp_only_layers` has {value}, but there are {layers} layers"))? =
            false;
    }
    Ok(Experts {
        count,
        per_token: keys.size("num_experts_per_tok")?.unwrap_or(8),
        intermediate_size: keys.size("moe_intermediate_size")?.unwrap_or(768),
        normalised: keys.flag("norm_topk_prob")?.unwrap_or(false),
        layers: with,
        clamped: None,
    })
}

/// The keys of a configuration with experts.
pub(super) fn write(config: &Config) -> Vec<(&'static str, Value)> {
    let Some(experts) = &config.experts else { return Vec::new() };
    let mut keys = vec![("num_experts_per_tok", json!(experts.per_token))];
    if let Some(ClampedUnit { alpha, limit }) = experts.clamped {
        keys.extend([
            ("num_local_experts", json!(experts.count)),
            ("swiglu_alpha", json!(alpha)),
            ("swiglu_limit", json!(limit)),
        ]);
        return keys;
    }
    let without: Vec<usize> = (0..config.layers).filter(|layer| !experts.layers[*layer]).collect();
    keys.extend([
        ("num_experts", json!(experts.count)),
        ("moe_intermediate_size", json!(experts.intermediate_size)),
        ("norm_topk_prob", json!(experts.normalised)),
        ("decoder_sparse_step", json!(1)),
        ("mlp_only_layers", json!(without)),
    ]);
    keys
}
