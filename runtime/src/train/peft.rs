//! An adapter in the format of the PEFT library: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;

use mopd_plan::events::FailureKind;
use mopd_plan::{Adapter, AdapterKind, Projection};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::failure::{Error, Result};
use crate::model::{Adapted, Config};
use crate::store::adapter::{self, AdapterFiles};

/// Why the files of an adapter would be another model to PEFT (0.21), or none at all. `None` if they are
/// right.
///
/// The reference library holds the experts of a layer as two stacks, of gate and up together and of down.
/// PEFT moves an adapter of their matrices to the stacks, and no longer finds matrices of the same names
/// elsewhere.
pub fn obstacle(config: &Config, adapter: &Adapter) -> Option<&'static str> {
    let adapts = |projection: &Projection| adapter.targets.contains(projection);
    if config.experts.is_none() || !Projection::FEED_FORWARD.iter().any(adapts) {
        return None;
    }
    let is_adapted = |layer: &usize| {
        adapter.layers.is_none_or(|(first, last)| (first as usize..=last as usize).contains(layer))
    };
    if (0..config.layers).filter(is_adapted).any(|layer| config.experts_of(layer).is_none()) {
        Some("PEFT cannot adapt feed-forward matrices of layers without experts, in a model with experts")
    } else if adapter.kind == AdapterKind::Dora {
        Some("PEFT has no DoRA of experts")
    } else if [Projection::Gate, Projection::Up].iter().any(adapts)
        && !Projection::FEED_FORWARD.iter().all(adapts)
    {
        Some("PEFT adapts `gate` and `up` of experts only together with `down`")
    } else {
        None
    }
}

/// The files of an adapter. `base` is the place of the model that it changes: a name on the hub, or a folder.
///
/// # Errors
/// If the adapter cannot be serialised.
pub fn files(adapted: &Adapted, base: &str) -> Result<AdapterFiles> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(FailureKind::Runtime, format!("cannot save an adapter: {error}"))
    };
    let parts = adapted.parts();
    let bytes: Vec<Vec<u8>> = parts
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut tensors = BTreeMap::new();
    for ((name, shape, _), bytes) in parts.into_iter().zip(&bytes) {
        tensors.insert(name, TensorView::new(Dtype::F32, shape, bytes).map_err(|error| failed(&error))?);
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let model = safetensors::serialize(tensors, Some(metadata)).map_err(|error| failed(&error))?;
    let settings = adapted.settings();
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        (adapter::BASE): base,
        "inference_mode": true,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": settings.kind == AdapterKind::Dora,
        "use_rslora": false,
        "target_modules": settings.targets.iter().map(|target| target.module()).collect::<Vec<&str>>(),
    });
    if let Some((first, last)) = settings.layers {
        config["layers_to_transform"] = (first..=last).collect::<Vec<u32>>().into();
    }
    let config = serde_json::to_vec_pretty(&config).map_err(|error| failed(&error))?;
    Ok(vec![(adapter::CONFIG, config), ("adapter_model.safetensors", model)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Experts;
    use crate::model::tests::tiny;

    #[test]
    fn an_adapter_of_experts_is_only_written_where_peft_reads_the_same_model() {
        let dense = tiny();
        let experts = |layers: &[bool]| Config {
            experts: Some(Experts {
                count: 3,
                per_token: 2,
                hidden: 5,
                normalised: true,
                layers: layers.to_vec(),
            }),
            ..tiny()
        };
        let (all, mixed) = (experts(&vec![true; dense.layers]), {
            let mut layers = vec![true; dense.layers];
            layers[0] = false;
            experts(&layers)
        });
        let adapter = |kind, targets: &[Projection], layers| Adapter {
            kind,
            rank: 2,
            alpha: 4.0,
            dropout: 0.0,
            targets: targets.to_vec(),
            layers,
        };
        let lora = |targets| adapter(AdapterKind::Lora, targets, None);
        let whole = [Projection::ATTENTION, Projection::FEED_FORWARD].concat();
        let with_experts = Some((1, dense.layers as u32 - 1));
        for (config, adapter, is_written) in [
            (&dense, adapter(AdapterKind::Dora, &whole, None), true),
            (&dense, lora(&[Projection::Gate]), true),
            (&all, lora(&whole), true),
            (&all, lora(&[Projection::Down]), true),
            (&all, lora(&[Projection::Gate]), false),
            (&all, lora(&[Projection::Up, Projection::Down]), false),
            (&all, lora(&[Projection::Gate, Projection::Up]), false),
            (&all, adapter(AdapterKind::Dora, &whole, None), false),
            (&all, adapter(AdapterKind::Dora, Projection::ATTENTION, None), true),
            (&mixed, lora(&whole), false),
            (&mixed, lora(Projection::ATTENTION), true),
            (&mixed, adapter(AdapterKind::Lora, &whole, with_experts), true),
            (&mixed, adapter(AdapterKind::Lora, &whole, Some((0, 0))), false),
        ] {
            assert_eq!(obstacle(config, &adapter).is_none(), is_written, "{adapter:?}");
        }
    }
}
