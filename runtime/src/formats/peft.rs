//! A folder of the PEFT library: an adapter in `adapter_config.json` and `adapter_model.safetensors`, and the
//! name of the model that it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mopd_plan::events::FailureKind;
use mopd_plan::{Adapter, AdapterKind, Projection};
use mopd_store::regular;
use regex::Regex;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::hub::Hub;
use super::{LARGEST_TEXT, safetensors as tensor_files, unreadable};
use crate::failure::{Error, Result};
use crate::model::{Config, EntryKind, MatrixAdapter, Merged, ParameterEntry, layout};
use crate::quote::quote;

/// The settings of an adapter, and the field with the place of the model that it changes.
pub const CONFIG: &str = "adapter_config.json";
pub const BASE: &str = "base_model_name_or_path";
pub const MODEL: &str = "adapter_model.safetensors";

/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";

/// What this version reads of `adapter_config.json`. `others` are its other fields.
#[derive(Debug, Deserialize)]
struct Settings {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    /// Of the base.
    #[serde(default)]
    revision: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Fields that say how an adapter is trained, or what its tensors say too.
const WITHOUT_EFFECT: &[&str] = &[
    "arrow_config",
    "auto_mapping",
    "base_model_class",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "parent_library",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Whether a folder has an adapter in place of a whole model.
///
/// # Errors
/// If it has both: the reference library would load the adapter with the model that it names.
pub fn is_adapter(folder: &Path) -> Result<bool> {
    if !folder.join(CONFIG).exists() {
        return Ok(false);
    }
    if [tensor_files::MODEL, tensor_files::INDEX].iter().any(|name| folder.join(name).exists()) {
        return Err(beside_model(folder));
    }
    Ok(true)
}

/// The error for a folder with a whole model and an adapter.
pub fn beside_model(folder: &Path) -> Error {
    let message = format!("{} holds an adapter (LoRA) beside the model", folder.display());
    Error::new(FailureKind::Model, message).help(format!(
        "merge it into the model with PEFT (`merge_and_unload`), or move `{CONFIG}` out of the folder to use \
         the model without it"
    ))
}

/// The folder of the model that the adapter in a folder changes. A name is a folder, relative to the
/// adapter's or to the working one, or a repository of the hub.
pub fn base_folder(folder: &Path) -> Result<PathBuf> {
    let Settings { base_model_name_or_path, revision, .. } = settings(folder)?;
    let Some(name) = base_model_name_or_path.filter(|name| !name.is_empty()) else {
        return Err(unreadable(folder, format!("`{CONFIG}` names no model that the adapter changes"))
            .help(format!("write the folder of the model, or its name on the hub, as `{BASE}`")));
    };
    let revision = revision.filter(|revision| !revision.is_empty());
    let beside = folder.join(&name);
    let base = match beside.is_dir() {
        true => Ok(beside),
        false => Hub::from_environment().find(&name, revision.as_deref(), Path::new("")).map(|at| at.folder),
    };
    let base = base.map_err(|error| {
        error.with_prefix(&format!("the model that the adapter in {} changes: ", folder.display()))
    })?;
    if is_adapter(&base)? {
        let message = format!(
            "the adapter in {} changes {}, which has an adapter too",
            folder.display(),
            base.display()
        );
        return Err(Error::new(FailureKind::Model, message).help(MERGE));
    }
    Ok(base)
}

/// The base as the folder names it, if that is known without a network.
pub fn cached_base(folder: &Path) -> Result<Option<PathBuf>> {
    let Settings { base_model_name_or_path: name, revision, .. } = settings(folder)?;
    let name = name.unwrap_or_default();
    let local = folder.join(&name).is_dir() || Path::new(&name).is_dir() || name.is_empty();
    if local || Hub::from_environment().cached(&name, revision.as_deref()).is_some() {
        return base_folder(folder).map(Some);
    }
    // A path that leads nowhere is an error here too.
    super::hub::own_folder(&name, None, Path::new(""))
        .map_err(|error| {
            error.with_prefix(&format!("the model that the adapter in {} changes: ", folder.display()))
        })
        .map(|_| None)
}

const MERGE: &str = "merge it into its base with PEFT (`merge_and_unload`), save that with `save_pretrained`, \
                     and name its folder";

fn settings(folder: &Path) -> Result<Settings> {
    let path = folder.join(CONFIG);
    let text = regular::read(&path, LARGEST_TEXT)
        .map_err(|error| unreadable(&path, mopd_store::files::reason(&error)))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(&path, error))
}

/// The adapters of matrices in a folder, in the order of the layout of `config`, the model that they change.
///
/// # Errors
/// If PEFT would make another model of the folder: what this version has not is refused by name.
pub fn read(folder: &Path, config: &Config) -> Result<Vec<MatrixAdapter>> {
    let settings = settings(folder)?;
    let refused = |what: String| {
        Error::new(FailureKind::Model, format!("the adapter in {} has {what}", folder.display()))
            .help(format!("LoRA and DoRA of matrices are read: {MERGE}"))
    };
    unsupported(&settings).map_or(Ok(()), |what| Err(refused(what)))?;
    let path = folder.join(MODEL);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(unreadable(folder, format!("there is no {MODEL} in it")).help(
            "its weights are in PyTorch's own format, which can run code when it is loaded: load it with PEFT \
             and save it with `save_pretrained`, which writes safetensors",
        ));
    }
    let mut tensors = tensor_files::open_file(&path)?;
    let mut take = |name: String, shape: &[usize]| -> Result<Option<Vec<f32>>> {
        let Some(tensor) = tensors.remove(&name) else { return Ok(None) };
        let rows = if shape.len() == 1 { 1 } else { shape[0] };
        let stored = tensor.matrix(rows, shape[shape.len() - 1]).filter(|_| tensor.shape == shape);
        let Some(stored) = stored else {
            let stored = &tensor.shape;
            return Err(unreadable(&path, format!("{name} has the shape {stored:?}, expected {shape:?}")));
        };
        let mut values = vec![0.0; stored.len()];
        stored.read(&mut values);
        Ok(Some(values))
    };
    let mut adapters = Vec::new();
    for entry in layout(config).into_iter().filter(is_linear) {
        let module = entry.name.strip_suffix(".weight").unwrap_or(&entry.name);
        let named = |part: &str| format!("{PREFIX}{module}.{part}");
        let (rank, alpha) = settings.of_module(module).map_err(|what| unreadable(folder, what))?;
        let (outputs, inputs) = (entry.shape[0], entry.shape[1]);
        let Some(a) = take(named("lora_A.weight"), &[rank, inputs])? else { continue };
        let missing = |part: String| unreadable(&path, format!("{part} is missing"));
        let b = take(named("lora_B.weight"), &[outputs, rank])?;
        let b = b.ok_or_else(|| missing(named("lora_B.weight")))?;
        let magnitude = match settings.use_dora {
            false => None,
            true => {
                let values = take(named("lora_magnitude_vector"), &[outputs])?;
                Some(values.ok_or_else(|| missing(named("lora_magnitude_vector")))?)
            }
        };
        adapters.push(MatrixAdapter { entry, rank, alpha, a, b, magnitude });
    }
    if let Some((name, _)) = tensors.first_key_value() {
        return Err(refused(format!(
            "the tensor {}, which is not LoRA of a matrix of the model that it names",
            quote(name)
        )));
    }
    if adapters.is_empty() {
        return Err(unreadable(&path, "it has no tensors"));
    }
    Ok(adapters)
}

/// Whether PEFT multiplies by it. It adapts embeddings in another way.
fn is_linear(entry: &ParameterEntry) -> bool {
    entry.kind == EntryKind::Matrix && entry.shape.len() == 2 && entry.name != "model.embed_tokens.weight"
}

impl Settings {
    /// The rank and alpha of a module, by which the product of B and A is multiplied as alpha / rank.
    fn of_module(&self, module: &str) -> Result<(usize, f64), String> {
        let rank = of_pattern(self.rank_pattern.as_ref(), module, "rank_pattern")?.unwrap_or(self.r);
        let alpha =
            of_pattern(self.alpha_pattern.as_ref(), module, "alpha_pattern")?.unwrap_or(self.lora_alpha);
        // rsLoRA (arXiv:2312.03732) divides by the root of the rank.
        Ok((rank, if self.use_rslora { alpha * (rank as f64).sqrt() } else { alpha }))
    }
}

/// The value for a module. PEFT matches the end of a module's name, from a dot on.
fn of_pattern<T: Copy>(
    patterns: Option<&BTreeMap<String, T>>,
    module: &str,
    field: &str,
) -> Result<Option<T>, String> {
    let mut matched: Vec<(&str, T)> = Vec::new();
    for (pattern, value) in patterns.into_iter().flatten() {
        let whole = Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$"))
            .map_err(|_| format!("{} in `{field}` is not a pattern", quote(pattern)))?;
        if whole.is_match(module) {
            matched.push((pattern, *value));
        }
    }
    match matched.as_slice() {
        [] => Ok(None),
        [(_, value)] => Ok(Some(*value)),
        // PEFT takes the one that was written first.
        [(one, _), (other, _), ..] => {
            Err(format!("{} and {} in `{field}` both match {module}", quote(one), quote(other)))
        }
    }
}

/// What an adapter has that would make it another model here.
fn unsupported(settings: &Settings) -> Option<String> {
    if settings.peft_type != "LORA" {
        return Some(format!("the type {}", quote(&settings.peft_type)));
    }
    if let Some(bias) = settings.bias.as_deref().filter(|bias| *bias != "none") {
        return Some(format!("trained biases (`bias`: {})", quote(bias)));
    }
    // These change the base too.
    let plain = ["gaussian", "eva", "orthogonal"];
    if let Some(initial) = settings.init_lora_weights.as_str().filter(|initial| !plain.contains(initial)) {
        return Some(format!("a base that `init_lora_weights`: {} changed", quote(initial)));
    }
    if settings.r == 0 {
        return Some("the rank 0".to_owned());
    }
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let is_without_effect = |name: &str| WITHOUT_EFFECT.contains(&name);
    let set = settings.others.iter().find(|(name, value)| !is_without_effect(name) && is_set(value));
    set.map(|(name, _)| format!("`{name}`, which this version does not read"))
}

/// The tensors of an adapter by their names in PEFT: their shapes and values.
pub fn parts(merged: &Merged) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut parts = Vec::new();
    for MatrixAdapter { entry, rank, a, b, magnitude, .. } in merged.adapters() {
        let module = format!("{PREFIX}{}", entry.name.strip_suffix(".weight").unwrap_or(&entry.name));
        let (outputs, inputs) = (entry.shape[0], entry.shape[1]);
        parts.push((format!("{module}.lora_A.weight"), vec![rank, inputs], a));
        parts.push((format!("{module}.lora_B.weight"), vec![outputs, rank], b));
        if let Some(magnitude) = magnitude {
            parts.push((format!("{module}.lora_magnitude_vector"), vec![outputs], magnitude));
        }
    }
    parts
}

/// Makes the files of an adapter, whose base is at `base`: a name on the hub, or a folder. Returns their
/// names and contents.
///
/// # Errors
/// If the adapter cannot be serialised.
pub fn files(merged: &Merged, base: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(FailureKind::Runtime, format!("cannot save an adapter: {error}"))
    };
    let parts: Vec<(String, Vec<usize>, Vec<u8>)> = parts(merged)
        .into_iter()
        .map(|(name, shape, values)| {
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let mut tensors = BTreeMap::new();
    for (name, shape, bytes) in &parts {
        let tensor = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| failed(&error))?;
        tensors.insert(name.clone(), tensor);
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let model = safetensors::serialize(tensors, Some(metadata)).map_err(|error| failed(&error))?;
    let config = serde_json::to_vec_pretty(&config(merged, base)).map_err(|error| failed(&error))?;
    Ok(vec![(CONFIG, config), (MODEL, model)])
}

/// The settings of an adapter that a stage trained: one rank, and the same targets in each of its layers.
fn config(merged: &Merged, base: &str) -> Value {
    let adapters: Vec<MatrixAdapter> = merged.adapters().collect();
    let first = &adapters[0];
    let alike = |adapter: &MatrixAdapter| (adapter.rank, adapter.alpha) == (first.rank, first.alpha);
    assert!(adapters.iter().all(alike), "a stage trains one rank");
    let layers: BTreeSet<u32> = adapters.iter().filter_map(|adapter| adapter.entry.layer).collect();
    let adapted =
        |entry: &ParameterEntry| adapters.iter().any(|adapter| adapter.entry.offset == entry.offset);
    let others: Vec<ParameterEntry> = layout(&merged.base().config)
        .into_iter()
        .filter(|entry| is_linear(entry) && !adapted(entry))
        .filter(|entry| entry.layer.is_none_or(|layer| layers.contains(&layer)))
        .collect();
    let mut targets: Vec<&str> = Vec::new();
    for adapter in &adapters {
        let module = target(&adapter.entry, &others);
        if !targets.contains(&module) {
            targets.push(module);
        }
    }
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        (BASE): base,
        "inference_mode": true,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": first.magnitude.is_some(),
        "use_rslora": false,
        "target_modules": targets,
    });
    if layers.len() < merged.base().config.layers {
        config["layers_to_transform"] = layers.into_iter().collect::<Vec<u32>>().into();
    }
    config
}

/// The end of a module's name that no module of other matrices has, which PEFT finds it by.
fn target<'e>(entry: &'e ParameterEntry, others: &[ParameterEntry]) -> &'e str {
    let module = |entry: &'e ParameterEntry| entry.name.strip_suffix(".weight").unwrap_or(&entry.name);
    let whole = module(entry);
    let ends = whole.rmatch_indices('.').map(|(dot, _)| &whole[dot + 1..]);
    let is_unique = |end: &&str| {
        let end = format!(".{end}.weight");
        !others.iter().any(|other| other.name.ends_with(&end))
    };
    ends.into_iter().find(is_unique).unwrap_or(whole)
}

/// The content of `adapter_config.json` with another place of the base.
pub fn with_base(path: &Path, base: &str) -> Option<Vec<u8>> {
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    config.insert(BASE.to_owned(), base.into());
    serde_json::to_vec_pretty(&config).ok()
}

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
                intermediate_size: 5,
                normalised: true,
                layers: layers.to_vec(),
                clamped: None,
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
