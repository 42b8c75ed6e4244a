//! An adapter in the format of the PEFT library: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;

use mopd_plan::AdapterKind;
use mopd_plan::events::FailureKind;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::failure::{Error, Result};
use crate::model::Adapted;
use crate::store::adapter::AdapterFiles;

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
        "base_model_name_or_path": base,
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
    Ok(vec![("adapter_config.json", config), ("adapter_model.safetensors", model)])
}
