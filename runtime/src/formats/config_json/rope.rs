//! Rotary embeddings in a `config.json`: flat keys (`rope_theta`, `rope_scaling`) up to version 4 of
//! transformers, one object (`rope_parameters`) since version 5.

use super::keys::ConfigKeys;
use crate::model::{ModelFamily, Rope, RopeScaling};

/// Base of Gemma 3's layers with a window.
const LOCAL_THETA: f64 = 10_000.0;

/// The rotary embeddings of all layers, and those of windowed layers if they differ (Gemma 3).
pub(super) fn read(
    keys: &ConfigKeys,
    family: ModelFamily,
    default_theta: f64,
    context: usize,
) -> Result<(Rope, Option<Rope>), String> {
    let theta = keys.number("rope_theta")?.unwrap_or(default_theta);
    if family == ModelFamily::Gemma3 {
        let local_theta = keys.number("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
        // The old key scales only layers without a window.
        let old = match keys.present("rope_scaling") {
            Some(_) => Some(keys.nested("rope_scaling")?),
            None => None,
        };
        let kind = |name: &str| match keys.present("rope_parameters") {
            Some(_) => {
                let nested = keys.nested("rope_parameters")?;
                if nested.present(name).is_some() { nested.nested(name).map(Some) } else { Ok(None) }
            }
            None => Ok(None),
        };
        if keys.present("rope_parameters").is_some()
            && kind("full_attention")?.is_none()
            && kind("sliding_attention")?.is_none()
        {
            return Err("`rope_parameters` of `gemma3_text` has one object for `full_attention` and one \
                        for `sliding_attention`"
                .to_owned());
        }
        let full = rope(keys, old.or(kind("full_attention")?), theta, context)?;
        let local = rope(keys, kind("sliding_attention")?, local_theta, context)?;
        return Ok((full, Some(local)));
    }
    for key in ["rope_scaling", "rope_parameters"] {
        if keys.present(key).is_some() {
            let parameters = keys.nested(key)?;
            for kind in ["full_attention", "sliding_attention"] {
                if parameters.present(kind).is_some() {
                    return Err(format!("`{key}` per kind of layer is supported for `gemma3_text` only"));
                }
            }
            return Ok((rope(keys, Some(parameters), theta, context)?, None));
        }
    }
    Ok((rope(keys, None, theta, context)?, None))
}

/// `parameters` is the value of `rope_scaling` or `rope_parameters`; a `rope_theta` in it wins.
fn rope(
    keys: &ConfigKeys,
    parameters: Option<ConfigKeys>,
    theta: f64,
    context: usize,
) -> Result<Rope, String> {
    let theta = match &parameters {
        Some(parameters) => parameters.number("rope_theta")?.unwrap_or(theta),
        None => theta,
    };
    if theta <= 1.0 {
        return Err(format!("`rope_theta` is {theta}, it must be above 1"));
    }
    let scaling = match parameters {
        Some(parameters) => scaling(keys, &parameters, context)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta, scaling })
}

fn scaling(keys: &ConfigKeys, parameters: &ConfigKeys, context: usize) -> Result<RopeScaling, String> {
    if let Some(factor) = parameters.number("partial_rotary_factor")?
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
    // The top-level key wins over the one in the parameters, as in the reference.
    let original_context = || match keys.size("original_max_position_embeddings")? {
        Some(original) => Ok::<usize, String>(original.max(1)),
        None => Ok(parameters.size("original_max_position_embeddings")?.unwrap_or(context).max(1)),
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
    format!("`partial_rotary_factor` is {factor}: heads that are rotated in part are not supported")
}
