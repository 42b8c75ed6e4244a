//! Rotary embeddings in a `config.json`: flat keys (`rope_theta`, `rope_scaling`) up to version 4 of
//! transformers, one object (`rope_parameters`) since version 5.

use serde_json::{Map, Value, json};

use super::families::rotated_part;
use super::keys::ConfigKeys;
use crate::model::{Config, ModelFamily, Rope, RopeScaling};

/// Base of Gemma 3's layers with a window.
const LOCAL_THETA: f64 = 10_000.0;

/// The key of the part of a head that is rotated.
pub(super) const PARTIAL: &str = "partial_rotary_factor";

/// The key of the context before a scaling, and its default in a file of Phi-3.
pub(super) const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";
const PHI3_CONTEXT: usize = 4096;

/// What a file says of positions outside the parameters of a scaling.
#[derive(Clone, Copy)]
struct Positions {
    /// The context that the model was trained with, where it counts before that in the parameters.
    original: Option<usize>,
    context: usize,
}

/// The rotary embeddings of all layers, and those of windowed layers if they differ (Gemma 3).
pub(super) fn read(
    keys: &ConfigKeys,
    family: ModelFamily,
    default_theta: f64,
    context: usize,
) -> Result<(Rope, Option<Rope>), String> {
    let theta = keys.number("rope_theta")?.unwrap_or(default_theta);
    if family == ModelFamily::Gemma3 {
        // Parameters per kind of layer have no original context outside them, as in the reference.
        let positions = Positions { original: None, context };
        let local_theta = keys.number("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
        let [full, local] = of_gemma3(keys)?;
        let local = rope(&ConfigKeys::of(&local), local_theta, positions)?;
        return Ok((rope(&ConfigKeys::of(&full), theta, positions)?, Some(local)));
    }
    if family == ModelFamily::Phi3 {
        return Ok((of_phi3(keys, theta, context)?, None));
    }
    let positions = Positions { original: keys.size(ORIGINAL_CONTEXT)?, context };
    for key in ["rope_scaling", "rope_parameters"] {
        // An empty object is as good as none, as in the reference.
        let Some(parameters) = filled(keys, key)? else { continue };
        for kind in [FULL, SLIDING] {
            if parameters.present(kind).is_some() {
                return Err(format!("`{key}` per kind of layer is supported for `gemma3_text` only"));
            }
        }
        let mut parameters = parameters.to_map();
        if rotated_part(family).is_some() {
            parameters.remove(PARTIAL);
        }
        return Ok((rope(&ConfigKeys::of(&parameters), theta, positions)?, None));
    }
    if family == ModelFamily::GptOss {
        let parameters = json!({
            "rope_type": "yarn", "factor": 32.0, "truncate": false, ORIGINAL_CONTEXT: 4096,
        });
        return Ok((rope(&ConfigKeys::new(&parameters)?, theta, positions)?, None));
    }
    Ok((Rope { theta: checked(theta)?, scaling: RopeScaling::None }, None))
}

/// The part of a head that is rotated, if the file says it: the parameters of rotary positions come first, as
/// in the reference.
fn rotary_factor(keys: &ConfigKeys) -> Result<Option<f64>, String> {
    for parameters in ["rope_scaling", "rope_parameters"] {
        if keys.present(parameters).is_some()
            && let Some(factor) = keys.nested(parameters)?.number(PARTIAL)?
        {
            return Ok(Some(factor));
        }
    }
    keys.number(PARTIAL)
}

/// The numbers of a head that are rotated; `None`: all.
pub(super) fn rotary_dim(
    keys: &ConfigKeys,
    family: ModelFamily,
    head_dim: usize,
) -> Result<Option<usize>, String> {
    let Some(default) = rotated_part(family) else { return Ok(None) };
    let factor = rotary_factor(keys)?.unwrap_or(default);
    if !(0.0..=1.0).contains(&factor) {
        return Err(format!("`{PARTIAL}` is {factor}, it must be from 0 to 1"));
    }
    let rotated = (head_dim as f64 * factor) as usize;
    Ok((rotated < head_dim).then_some(rotated))
}

/// The part of a head that is rotated, as [`rotary_dim`] reads it.
pub(super) fn rotary_factor_of(config: &Config) -> f64 {
    let rotated = config.rotary_dim.unwrap_or(config.head_dim);
    let factor = rotated as f64 / config.head_dim as f64;
    // The product with the width of a head may be rounded below the number.
    let exact = (config.head_dim as f64 * factor) as usize == rotated;
    if exact { factor } else { (rotated as f64 + 0.5) / config.head_dim as f64 }
}

/// The rotary embeddings of Phi-3, whose only scaling has three names in files.
fn of_phi3(keys: &ConfigKeys, theta: f64, context: usize) -> Result<Rope, String> {
    let scaling = filled(keys, "rope_scaling")?;
    let parameters = if scaling.is_some() { scaling } else { filled(keys, "rope_parameters")? };
    let Some(parameters) = parameters else {
        return Ok(Rope { theta: checked(theta)?, scaling: RopeScaling::None });
    };
    let theta = checked(parameters.number("rope_theta")?.unwrap_or(theta))?;
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    let factors = |key: &str| -> Result<Vec<f64>, String> {
        let list = parameters.array(key)?;
        let list = list.ok_or_else(|| format!("rotary positions of type `{kind}` need `{key}`"))?;
        let factor = |value: &Value| value.as_f64().filter(|factor| factor.is_finite() && *factor > 0.0);
        let factors: Option<Vec<f64>> = list.iter().map(factor).collect();
        factors.ok_or_else(|| format!("`{key}` must be a list of numbers above 0"))
    };
    match kind {
        "default" => Ok(Rope { theta, scaling: RopeScaling::None }),
        "longrope" | "su" | "yarn" => {
            // The key beside the parameters counts before one in them, and has a default.
            let original_context = keys.size(ORIGINAL_CONTEXT)?.unwrap_or(PHI3_CONTEXT).max(1);
            let attention = match parameters.number("attention_factor")? {
                Some(given) => given,
                None => {
                    let ratio = context as f64 / original_context as f64;
                    long_rope_attention(parameters.number("factor")?.unwrap_or(ratio), original_context)
                }
            };
            let (short, long) = (factors("short_factor")?, factors("long_factor")?);
            let scaling = RopeScaling::LongRope { attention, short, long, original_context, context };
            Ok(Rope { theta, scaling })
        }
        other => Err(format!(
            "rotary positions of type `{other}` are not supported for `phi3`; supported are `default` and \
             `longrope`"
        )),
    }
}

/// arXiv:2402.13753, in the implementation of its authors: the factor of cosines and sines where the context
/// is `factor` times the original one.
pub(super) fn long_rope_attention(factor: f64, original_context: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() }
}

/// The object at a key, unless it is absent, null or empty.
fn filled<'a>(keys: &ConfigKeys<'a>, key: &str) -> Result<Option<ConfigKeys<'a>>, String> {
    match keys.present(key) {
        Some(_) => Ok(Some(keys.nested(key)?).filter(|nested| nested.len() > 0)),
        None => Ok(None),
    }
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The parameters of Gemma 3's layers without a window, and of those with one. `rope_scaling` is the older
/// key: it changes the parameters of layers without a window, and keeps what it does not name.
fn of_gemma3(keys: &ConfigKeys) -> Result<[Map<String, Value>; 2], String> {
    let kinds = filled(keys, "rope_parameters")?;
    let of_kind = |kind: &str| -> Result<Option<Map<String, Value>>, String> {
        let Some(kinds) = &kinds else { return Ok(None) };
        let Some(_) = kinds.present(kind) else { return Ok(None) };
        kinds.nested(kind).map(|parameters| Some(parameters.to_map()))
    };
    let (full, local) = (of_kind(FULL)?, of_kind(SLIDING)?);
    if kinds.is_some() && full.is_none() && local.is_none() {
        return Err("`rope_parameters` of `gemma3_text` has one object for `full_attention` and one for \
                    `sliding_attention`"
            .to_owned());
    }
    let plain = || Map::from_iter([("rope_type".to_owned(), json!("default"))]);
    let (mut full, local) = (full.unwrap_or_else(plain), local.unwrap_or_else(plain));
    if let Some(scaling) = filled(keys, "rope_scaling")? {
        full.extend(scaling.to_map());
        // The reference takes the type from the older of both names only where there is no other.
        let (older, newer) = (scaling.text("type")?, ConfigKeys::of(&full).text("rope_type")?);
        if scaling.absent("rope_type") && older.is_some() && newer.is_some() && older != newer {
            return Err(
                "`rope_scaling` of `gemma3_text` has `type`, which transformers ignores there: name \
                        the type `rope_type`"
                    .to_owned(),
            );
        }
    }
    // The reference looks for this key beside the two objects, not in them.
    let outside = kinds.as_ref().map(|kinds| kinds.flag("truncate")).transpose()?.flatten();
    let inside = [&full, &local].map(|parameters| ConfigKeys::of(parameters).flag("truncate"));
    for truncate in inside.into_iter().chain([Ok(outside)]) {
        if truncate? == Some(false) {
            return Err(
                "`truncate` is false, which is not supported for `gemma3_text`: transformers ignores \
                        it among the parameters of a kind of layer. Take it out to get the same model"
                    .to_owned(),
            );
        }
    }
    Ok([full, local])
}

fn checked(theta: f64) -> Result<f64, String> {
    if theta > 1.0 { Ok(theta) } else { Err(format!("`rope_theta` is {theta}, it must be above 1")) }
}

/// `parameters` is the value of `rope_scaling` or `rope_parameters`; a `rope_theta` in it wins.
fn rope(parameters: &ConfigKeys, theta: f64, positions: Positions) -> Result<Rope, String> {
    let theta = checked(parameters.number("rope_theta")?.unwrap_or(theta))?;
    Ok(Rope { theta, scaling: scaling(parameters, positions)? })
}

fn scaling(parameters: &ConfigKeys, positions: Positions) -> Result<RopeScaling, String> {
    if let Some(factor) = parameters.number(PARTIAL)?
        && factor != 1.0
    {
        return Err(partial(factor));
    }
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    let required = |key: &str| {
        let value = parameters
            .number(key)?
            .ok_or_else(|| format!("rotary positions of type `{kind}` need `{key}`"))?;
        if value > 0.0 { Ok(value) } else { Err(format!("`{key}` is {value}, it must be above 0")) }
    };
    let Positions { original, context } = positions;
    // The top-level key wins over the one in the parameters, as in the reference.
    let original_context = || match original {
        Some(original) => Ok::<usize, String>(original.max(1)),
        None => Ok(parameters.size(ORIGINAL_CONTEXT)?.unwrap_or(context).max(1)),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let (low_frequency, high_frequency) =
                (required("low_freq_factor")?, required("high_freq_factor")?);
            if low_frequency >= high_frequency {
                return Err(format!(
                    "`low_freq_factor` is {low_frequency}, it must be below `high_freq_factor`, which is \
                     {high_frequency}"
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_frequency,
                high_frequency,
                original_context: original_context()?,
            })
        }
        "yarn" => {
            let original_context = original_context()?;
            // Null means the ratio of both contexts, as in the reference, which also refuses an absent key.
            let null = parameters.present("factor").is_none() && !parameters.absent("factor");
            let factor = if null { context as f64 / original_context as f64 } else { required("factor")? };
            // The reference reads 0 as the default.
            let beta = |key: &str, default: f64| {
                Ok::<f64, String>(parameters.number(key)?.filter(|beta| *beta != 0.0).unwrap_or(default))
            };
            Ok(RopeScaling::Yarn {
                factor,
                attention: yarn_attention(parameters, factor)?,
                beta_fast: beta("beta_fast", 32.0)?,
                beta_slow: beta("beta_slow", 1.0)?,
                original_context,
                truncate: parameters.flag("truncate")?.unwrap_or(true),
            })
        }
        other => Err(format!(
            "rotary positions of type `{other}` are not supported; supported are `default`, `linear`, \
             `llama3` and `yarn`"
        )),
    }
}

/// The factor of cosines and sines: the file's, or arXiv:2309.00071, equation 22.
fn yarn_attention(parameters: &ConfigKeys, factor: f64) -> Result<f64, String> {
    if let Some(given) = parameters.number("attention_factor")? {
        return Ok(given);
    }
    let scale = |multiplier: f64| if factor <= 1.0 { 1.0 } else { 0.1 * multiplier * factor.ln() + 1.0 };
    let given = |key: &str| Ok::<Option<f64>, String>(parameters.number(key)?.filter(|value| *value != 0.0));
    Ok(match (given("mscale")?, given("mscale_all_dim")?) {
        (Some(numerator), Some(denominator)) => scale(numerator) / scale(denominator),
        _ => scale(1.0),
    })
}

pub(super) fn partial(factor: f64) -> String {
    format!(
        "`{PARTIAL}` is {factor}: heads that are rotated in part are supported for `phi3` and `qwen3_5_text` only"
    )
}
