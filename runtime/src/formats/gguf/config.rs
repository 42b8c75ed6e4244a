//! Reads a [`Config`] from GGUF metadata.
//!
//! Some settings of a family have no key, because the programs that run these files derive them from the
//! family's name. They are derived here in the same way, with a comment at each.

use super::parse::{GgufContents, GgufValue, Metadata};
use crate::model::{
    Activation, Biases, Config, EmbeddingScale, Experts, LayerAttention, ModelFamily, Norm, Rope, RopeScaling,
};

pub(super) struct MetadataKeys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> MetadataKeys<'a> {
    pub fn new(metadata: &'a Metadata) -> Result<MetadataKeys<'a>, String> {
        match metadata.get("general.architecture") {
            Some(GgufValue::Text(architecture)) => Ok(MetadataKeys { metadata, architecture }),
            _ => Err("`general.architecture` is missing".to_owned()),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.metadata.get(&self.name(key))
    }

    fn wrong<T>(&self, key: &str, value: &GgufValue) -> Result<T, String> {
        Err(format!("`{}` is {value:?}", self.name(key)))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(size)) if *size <= u32::MAX.into() => Ok(Some(*size as usize)),
            Some(GgufValue::Signed(size)) if (0..=i32::MAX.into()).contains(size) => Ok(Some(*size as usize)),
            // A list with one size per layer, since layers differ in some files.
            Some(value @ GgufValue::Numbers(list)) => match list.get(0) {
                Some(first) if list.iter().any(|size| size != first) => self.wrong(key, value),
                Some(GgufValue::Unsigned(size)) if size <= u32::MAX.into() => Ok(Some(size as usize)),
                Some(GgufValue::Signed(size)) if (0..=i32::MAX.into()).contains(&size) => {
                    Ok(Some(size as usize))
                }
                _ => self.wrong(key, value),
            },
            Some(other) => self.wrong(key, other),
        }
    }

    fn required(&self, key: &str) -> Result<usize, String> {
        self.size(key)?.ok_or_else(|| format!("`{}` is missing", self.name(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(GgufValue::Unsigned(number)) => Ok(Some(*number as f64)),
            Some(other) => self.wrong(key, other),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(other) => self.wrong(key, other),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => self.wrong(key, other),
        }
    }
}

const FAMILIES: [(&str, ModelFamily); 8] = [
    ("llama", ModelFamily::Llama),
    ("qwen2", ModelFamily::Qwen2),
    ("qwen3", ModelFamily::Qwen3),
    ("qwen3moe", ModelFamily::Qwen3Moe),
    ("smollm3", ModelFamily::SmolLm3),
    ("gemma", ModelFamily::Gemma),
    ("gemma2", ModelFamily::Gemma2),
    ("gemma3", ModelFamily::Gemma3),
];

/// `frequencies` are the factors in the file's `rope_freqs`, if there are any.
pub(super) fn config(contents: &GgufContents, frequencies: Option<&[f32]>) -> Result<Config, String> {
    let keys = MetadataKeys::new(&contents.metadata)?;
    let Some((_, family)) = FAMILIES.into_iter().find(|(name, _)| *name == keys.architecture) else {
        let names = FAMILIES.map(|(name, _)| format!("`{name}`")).join(", ");
        return Err(format!(
            "the architecture `{}` is not supported; supported are {names}",
            keys.architecture
        ));
    };
    // Llama and Mistral files both have the architecture `llama`; only Mistral has windows, in every layer.
    let windows = keys.size("attention.sliding_window")?.is_some_and(|window| window > 0);
    let family = if family == ModelFamily::Llama && windows { ModelFamily::Mistral } else { family };
    let layers = keys.required("block_count")?;
    if layers == 0 || layers > Config::MOST_LAYERS {
        return Err(format!("`{}` is {layers}", keys.name("block_count")));
    }
    let (width, heads) = (keys.required("embedding_length")?, keys.required("attention.head_count")?);
    let head_dim = keys.size("attention.key_length")?.unwrap_or(width / heads.max(1));
    if keys.size("attention.value_length")?.is_some_and(|length| length != head_dim) {
        return Err("values of another width than keys are not supported".to_owned());
    }
    if keys.size("rope.dimension_count")?.is_some_and(|turned| turned != head_dim) {
        return Err("heads that are rotated in part are not supported".to_owned());
    }
    let tensor = |name: &str| contents.tensors.get(name);
    let embedding = tensor("token_embd.weight").ok_or("the tensor token_embd.weight is missing")?;
    let bias = |name: &str| tensor(&format!("blk.0.{name}.bias")).is_some();
    let gemma = is_gemma(family);
    let context = keys.required("context_length")?;
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    if theta <= 1.0 {
        return Err(format!("`{}` is {theta}", keys.name("rope.freq_base")));
    }
    let rope = Rope { theta, scaling: scaling(&keys, head_dim, theta, context, frequencies)? };
    let config = Config {
        family,
        vocabulary: embedding.shape[0],
        layers,
        width,
        heads,
        key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        intermediate_size: keys.required("feed_forward_length")?,
        context: rope.context(context),
        tied: tensor("output.weight").is_none(),
        scalar_head: false,
        second_head: false,
        biases: Biases {
            query_key_value: bias("attn_q"),
            output: bias("attn_output"),
            feed_forward: bias("ffn_gate"),
        },
        attention_gate: false,
        attention_sinks: false,
        query_key_norm: matches!(family, ModelFamily::Qwen3 | ModelFamily::Qwen3Moe | ModelFamily::Gemma3),
        norm: norm(&keys, family)?,
        activation: if gemma { Activation::Gelu } else { Activation::Silu },
        embedding_scale: EmbeddingScale::new(gemma, width),
        attention_scale: 1.0 / attention_scalar(family, layers, width, heads, head_dim).sqrt(),
        attention_softcap: softcap(
            &keys,
            "attn_logit_softcapping",
            if family == ModelFamily::Gemma2 { Some(50.0) } else { None },
        )?,
        logit_softcap: softcap(
            &keys,
            "final_logit_softcapping",
            if family == ModelFamily::Gemma2 { Some(30.0) } else { None },
        )?,
        logit_scale: 1.0,
        attention: attention(&keys, family, layers)?,
        rope,
        local_rope: local_rope(&keys, family)?,
        rotary_dim: None,
        gated_delta: None,
        short_conv: None,
        experts: experts(&keys, family, layers, contents)?,
        // Files don't record how their weights were initialised.
        initial_deviation: 0.02,
    };
    config.check()?;
    Ok(config)
}

fn is_gemma(family: ModelFamily) -> bool {
    matches!(family, ModelFamily::Gemma | ModelFamily::Gemma2 | ModelFamily::Gemma3)
}

fn norm(keys: &MetadataKeys, family: ModelFamily) -> Result<Norm, String> {
    let epsilon = keys.number("attention.layer_norm_rms_epsilon")?.filter(|epsilon| *epsilon > 0.0);
    Ok(Norm {
        // Stored in f32: 9.99e-6 if 1e-5 is meant.
        epsilon: epsilon
            .map(nearest_decimal)
            .ok_or_else(|| format!("`{}` is missing", keys.name("attention.layer_norm_rms_epsilon")))?,
        offset: if is_gemma(family) { 1.0 } else { 0.0 },
        after: matches!(family, ModelFamily::Gemma2 | ModelFamily::Gemma3),
    })
}

/// Rotary embeddings of windowed layers. Files have Gemma 3's second base only since 2026; it never varied.
fn local_rope(keys: &MetadataKeys, family: ModelFamily) -> Result<Option<Rope>, String> {
    if family != ModelFamily::Gemma3 {
        return Ok(None);
    }
    let theta = keys.number("rope.freq_base_swa")?.filter(|theta| *theta > 1.0).unwrap_or(10_000.0);
    Ok(Some(Rope { theta, scaling: RopeScaling::None }))
}

fn experts(
    keys: &MetadataKeys,
    family: ModelFamily,
    layers: usize,
    contents: &GgufContents,
) -> Result<Option<Experts>, String> {
    let count = keys.size("expert_count")?.unwrap_or(0);
    if family != ModelFamily::Qwen3Moe {
        return match count {
            0 => Ok(None),
            _ => Err(format!("experts of the architecture `{}` are not supported", keys.architecture)),
        };
    }
    let has = |layer| contents.tensors.contains_key(&format!("blk.{layer}.ffn_gate_inp.weight"));
    Ok(Some(Experts {
        count,
        per_token: keys.required("expert_used_count")?,
        intermediate_size: keys.required("expert_feed_forward_length")?,
        // True of every published model of the family; other programs assume it too if the key is absent.
        normalised: keys.flag("expert_weights_norm")?.unwrap_or(true),
        layers: (0..layers).map(has).collect(),
        clamped: None,
    }))
}

fn nearest_decimal(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

/// The scale of attention scores. No file has it; programs recognise the two large Gemma models by their
/// number of layers.
fn attention_scalar(family: ModelFamily, layers: usize, width: usize, heads: usize, head_dim: usize) -> f64 {
    let by_width = matches!((family, layers), (ModelFamily::Gemma2, 46) | (ModelFamily::Gemma3, 62));
    if by_width { width as f64 / heads.max(1) as f64 } else { head_dim as f64 }
}

fn softcap(keys: &MetadataKeys, key: &str, default: Option<f64>) -> Result<Option<f64>, String> {
    // 0 means none.
    Ok(keys.number(key)?.or(default).filter(|cap| *cap > 0.0))
}

/// The family determines which layers have a window and which apply rotary embeddings. Where a file does not
/// say, llama.cpp's window is 4096 for Gemma 2, and none for the others.
fn attention(keys: &MetadataKeys, family: ModelFamily, layers: usize) -> Result<Vec<LayerAttention>, String> {
    let default = (family == ModelFamily::Gemma2).then_some(4096);
    let window = keys.size("attention.sliding_window")?.or(default).filter(|window| *window > 0);
    let period = match family {
        ModelFamily::Gemma2 => Some(2),
        ModelFamily::Gemma3 => Some(6),
        _ => None,
    };
    let pattern = "attention.sliding_window_pattern";
    if let Some(given) = keys.get(pattern).filter(|_| period.is_some())
        && !matches!((given, period), (GgufValue::Unsigned(given), Some(period)) if *given == period)
    {
        return keys.wrong(pattern, given);
    }
    let layer = |layer: usize| match family {
        ModelFamily::Gemma2 => {
            LayerAttention { window: window.filter(|_| layer.is_multiple_of(2)), rotary: true }
        }
        ModelFamily::Gemma3 => {
            LayerAttention { window: window.filter(|_| !(layer + 1).is_multiple_of(6)), rotary: true }
        }
        ModelFamily::SmolLm3 => LayerAttention { window: None, rotary: !(layer + 1).is_multiple_of(4) },
        _ => LayerAttention { window, rotary: true },
    };
    Ok((0..layers).map(layer).collect())
}

fn scaling(
    keys: &MetadataKeys,
    head_dim: usize,
    theta: f64,
    context: usize,
    frequencies: Option<&[f32]>,
) -> Result<RopeScaling, String> {
    let given = match keys.number("rope.scaling.factor")? {
        // The older key.
        None => keys.number("rope.scale_linear")?,
        factor => factor,
    };
    let given = given.filter(|factor| *factor > 0.0);
    let changes = given.is_some_and(|factor| factor != 1.0);
    // Without a type, llama.cpp scales linearly.
    let kind = keys.text("rope.scaling.type")?.unwrap_or(if changes { "linear" } else { "none" });
    if let Some(frequencies) = frequencies {
        if changes && kind != "none" {
            return Err("rotary positions are scaled twice, by a factor and by the tensor \
                        rope_freqs.weight, which is not supported"
                .to_owned());
        }
        return llama3(frequencies, head_dim, theta);
    }
    let factor = || given.ok_or_else(|| format!("`{}` is missing", keys.name("rope.scaling.factor")));
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "yarn" => {
            let factor = factor()?;
            let number = |key: &str, default: f64| Ok::<f64, String>(keys.number(key)?.unwrap_or(default));
            let multiplier = number("rope.scaling.attn_factor", 1.0)?;
            Ok(RopeScaling::Yarn {
                factor,
                attention: multiplier * if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 },
                beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
                original_context: keys
                    .size("rope.scaling.original_context_length")?
                    .unwrap_or(context)
                    .max(1),
                truncate: true,
            })
        }
        other => Err(format!(
            "`{}` is `{other}`; supported are `none`, `linear` and `yarn`",
            keys.name("rope.scaling.type")
        )),
    }
}

/// Llama 3's scaling is in the file as the divisor of each frequency. The settings that give these divisors
/// are found by trying: only the factor differs among published models.
fn llama3(frequencies: &[f32], head_dim: usize, theta: f64) -> Result<RopeScaling, String> {
    let factor = frequencies.iter().fold(0.0f32, |most, factor| most.max(*factor));
    let factor = f64::from(factor.round());
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let divided = |pair: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let same =
        |(pair, given): (usize, &f32)| (f64::from(*given) - divided(pair)).abs() < 1e-4 * divided(pair);
    if frequencies.len() != head_dim / 2 || factor < 1.0 || !frequencies.iter().enumerate().all(same) {
        return Err("the tensor rope_freqs.weight scales rotary positions in a way that is not supported: \
                    only that of Llama 3 is"
            .to_owned());
    }
    Ok(RopeScaling::Llama3 {
        factor,
        low_frequency: low,
        high_frequency: high,
        original_context: original as usize,
    })
}
