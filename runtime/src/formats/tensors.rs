//! The tensors of a checkpoint, and how they are assembled into the parts of a model.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::mapped::MappedFile;
use crate::mapped::{MappedTensor, NumberEncoding};
use crate::model::{Config, GatedDelta, ModelFamily, ParameterEntry, ShortConv, layout};

/// A tensor in a file, of any number of dimensions, row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub file: Arc<MappedFile>,
    /// Range of bytes in the file.
    pub range: Range<usize>,
    pub encoding: NumberEncoding,
    pub shape: Vec<usize>,
}

/// Tensors by their names in checkpoints of the transformers library.
pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    /// The tensor as a `rows` x `columns` matrix, or `None` if it has another number of elements.
    pub fn matrix(&self, rows: usize, columns: usize) -> Option<MappedTensor> {
        MappedTensor::new(self.file.clone(), self.range.clone(), self.encoding, rows, columns)
    }

    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    #[cfg(test)]
    pub fn values(&self) -> Vec<f32> {
        let columns = self.shape.last().copied().unwrap_or(1);
        let stored = self.matrix(self.shape.iter().rev().skip(1).product(), columns).unwrap();
        let mut values = vec![0.0; stored.len()];
        stored.read(&mut values);
        values
    }
}

/// Whether a tensor is a buffer that some versions of transformers saved although the configuration gives it.
pub fn is_derived(name: &str) -> bool {
    [
        ".rotary_emb.inv_freq",
        ".rotary_emb.cos_cached",
        ".rotary_emb.sin_cached",
        ".attn.masked_bias",
        ".attn.bias",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

/// The parts of a model in the order of [`layout`]. Every tensor must be there with its shape, and none may
/// be left over: an unused tensor means that the checkpoint is of another model.
pub fn assemble(config: &Config, tensors: &Tensors) -> Result<Vec<MappedTensor>, String> {
    check_size(config, tensors)?;
    let tensors = &*decoder_alone(config, tensors);
    let tensors = &*named_as_whole(tensors);
    let mut used = BTreeSet::new();
    let mut parts = Vec::new();
    let mut missing = Vec::new();
    for entry in layout(config) {
        let (names, stored) = match find(config, tensors, &entry)? {
            Some((name, stored)) => (vec![name], stored),
            None => match microscaled(tensors, &entry)? {
                Some(found) => found,
                None => {
                    missing.push(entry.name);
                    continue;
                }
            },
        };
        used.extend(names);
        parts.push(stored);
    }
    if missing.iter().any(|name| name == OUTPUT) && tensors.contains_key(EMBEDDING) {
        return Err(format!(
            "the tensor {OUTPUT} is missing, but the configuration has `tie_word_embeddings` false: the \
             output needs a matrix of its own"
        ));
    }
    let tied = |name: &str| config.tied && name == OUTPUT;
    let extra: Vec<String> = tensors
        .keys()
        .filter(|name| !used.contains(*name) && !is_derived(name) && !tied(name))
        .cloned()
        .collect();
    if !missing.is_empty() {
        // Names that are there instead show how both differ.
        let instead = match extra.as_slice() {
            [] => String::new(),
            extra => format!("; instead there are {}", first_names(extra)),
        };
        return Err(format!(
            "{} missing: {}{instead}",
            count(missing.len(), "tensor is", "tensors are"),
            first_names(&missing)
        ));
    }
    check_tied(config, tensors)?;
    if !extra.is_empty() {
        return Err(format!(
            "the configuration does not describe {} of the file: {}",
            count(extra.len(), "tensor", "tensors"),
            first_names(&extra)
        ));
    }
    Ok(parts)
}

/// The tensors of the decoder, by the names that they have where it is the whole model. Checkpoints of
/// Qwen3.5 may also read images, and predict several tokens at once: these parts are left out, as the
/// reference does where it loads the decoder.
fn decoder_alone<'a>(config: &Config, tensors: &'a Tensors) -> Cow<'a, Tensors> {
    const DECODER: &str = "model.language_model.";
    const OTHERS: [&str; 2] = ["mtp.", "model.visual."];
    let is_other = |name: &str| OTHERS.iter().any(|part| name.starts_with(part));
    if config.family != ModelFamily::Qwen35
        || !tensors.keys().any(|name| is_other(name) || name.starts_with(DECODER))
    {
        return Cow::Borrowed(tensors);
    }
    let named = |(name, tensor): (&String, &Tensor)| match name.strip_prefix(DECODER) {
        Some(part) => (format!("{BASE}{part}"), tensor.clone()),
        None => (name.clone(), tensor.clone()),
    };
    Cow::Owned(tensors.iter().filter(|(name, _)| !is_other(name)).map(named).collect())
}

/// The tensors by the names that they have in a whole model. A checkpoint of the base model, without an LM
/// head, has names without the first part.
fn named_as_whole(tensors: &Tensors) -> Cow<'_, Tensors> {
    let whole = tensors.keys().any(|name| name.starts_with(BASE));
    let of_base = EMBEDDING.strip_prefix(BASE).is_some_and(|name| tensors.contains_key(name));
    if whole || !of_base {
        return Cow::Borrowed(tensors);
    }
    let named = |(name, tensor): (&String, &Tensor)| {
        let part = ["embed_tokens.", "layers.", "norm.", "embedding_norm."]
            .iter()
            .any(|part| name.starts_with(part));
        (if part { format!("{BASE}{name}") } else { name.clone() }, tensor.clone())
    };
    Cow::Owned(tensors.iter().map(named).collect())
}

const BASE: &str = "model.";
const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";

/// Checked before the layout is made: a hostile file may describe any number of layers and experts.
fn check_size(config: &Config, tensors: &Tensors) -> Result<(), String> {
    let stored: u128 = tensors.values().map(|tensor| tensor.range.len() as u128).sum();
    let product = |sizes: &[usize]| sizes.iter().map(|size| *size as u128).product::<u128>();
    let heads = config.heads + config.key_value_heads;
    let attention_layers = config.attention_layers().count();
    let attention = product(&[attention_layers, 2, heads, config.head_dim, config.width]);
    let count = |layers: &[bool]| layers.iter().filter(|layer| **layer).count();
    let of_delta = |delta: &GatedDelta| {
        product(&[count(&delta.layers), delta.channels() + 2 * delta.values(), config.width])
    };
    let gated_delta = config.gated_delta.as_ref().map_or(0, of_delta);
    let of_conv = |conv: &ShortConv| product(&[count(&conv.layers), 4, config.width, config.width]);
    let short_conv = config.short_conv.as_ref().map_or(0, of_conv);
    let experts = config.experts.as_ref();
    let with_experts = experts.map_or(0, |experts| count(&experts.layers));
    let feed_forward = product(&[config.layers - with_experts, 3, config.width, config.intermediate_size]);
    let expert = experts.map_or(0, |experts| {
        product(&[with_experts, experts.count, 3, config.width, experts.intermediate_size])
    });
    let embedding = product(&[config.vocabulary, config.width]);
    let described = embedding + attention + gated_delta + short_conv + feed_forward + expert;
    // No encoding has fewer than four bits a number.
    if described > 2 * stored {
        return Err(format!(
            "the configuration describes {described} weights or more, but there are only {stored} bytes of \
             tensors"
        ));
    }
    Ok(())
}

/// The name of the tensor that holds an entry's numbers, and the entry's part of that tensor.
fn find(
    config: &Config,
    tensors: &Tensors,
    entry: &ParameterEntry,
) -> Result<Option<(String, MappedTensor)>, String> {
    let (columns, rows) = entry.shape.split_last().expect("an entry has at least one axis");
    let (rows, columns) = (rows.iter().product::<usize>(), *columns);
    let shaped = |name: &str, shape: &[usize]| -> Result<Option<Tensor>, String> {
        match tensors.get(name) {
            Some(tensor) if tensor.shape == shape => Ok(Some(tensor.clone())),
            Some(tensor) => Err(format!(
                "the tensor {name} has the shape {:?}, but the configuration asks for {shape:?}",
                tensor.shape
            )),
            None => Ok(None),
        }
    };
    let unsized_part =
        || format!("the tensor {} does not have as many numbers as its shape requires", entry.name);
    if let Some(tensor) = shaped(&entry.name, &entry.shape)? {
        return Ok(Some((entry.name.clone(), tensor.matrix(rows, columns).ok_or_else(unsized_part)?)));
    }
    let (Some(experts), Some(Expert { prefix, index, part })) = (&config.experts, Expert::parse(&entry.name))
    else {
        return Ok(None);
    };
    // All experts of a layer may be stacked in one tensor; matrices that read the same input may be stacked
    // too.
    let own = format!("{prefix}.{part}");
    if let Some(tensor) = shaped(&own, &[experts.count, rows, columns])? {
        let all = tensor.matrix(experts.count * rows, columns).ok_or_else(unsized_part)?;
        return Ok(all.narrow(index * rows, rows).map(|stored| (own, stored)));
    }
    let place = match part {
        "gate_proj" => 0,
        "up_proj" => 1,
        _ => return Ok(None),
    };
    let both = format!("{prefix}.gate_up_proj");
    if let Some(tensor) = shaped(&both, &[experts.count, 2 * rows, columns])? {
        let all = tensor.matrix(experts.count * 2 * rows, columns).ok_or_else(unsized_part)?;
        return Ok(all.narrow((2 * index + place) * rows, rows).map(|stored| (both, stored)));
    }
    Ok(None)
}

/// The ends of the names of a stack's tensors in MXFP4.
pub const BLOCKS: &str = "_blocks";
pub const EXPONENTS: &str = "_scales";

/// A stack of matrices, `[matrices, inputs, outputs]`, that is stored in MXFP4: the names of its tensors, and
/// its numbers.
fn microscaled(
    tensors: &Tensors,
    entry: &ParameterEntry,
) -> Result<Option<(Vec<String>, MappedTensor)>, String> {
    let [matrices, inputs, outputs] = entry.shape[..] else { return Ok(None) };
    let names = [BLOCKS, EXPONENTS].map(|end| format!("{}{end}", entry.name));
    let [Some(blocks), Some(exponents)] = names.each_ref().map(|name| tensors.get(name)) else {
        return Ok(None);
    };
    let expected = [matrices, outputs, inputs / 32];
    let wrong = || {
        format!(
            "{} and {} have the shapes {:?} and {:?}, but the configuration asks for {expected:?} blocks of 16 \
             bytes, and as many exponents",
            names[0], names[1], blocks.shape, exponents.shape
        )
    };
    if exponents.shape != expected || blocks.shape != [&expected[..], &[16]].concat() {
        return Err(wrong());
    }
    let bytes = |tensor: &Tensor| (tensor.file.clone(), tensor.range.clone());
    let stored = MappedTensor::microscaled(bytes(blocks), bytes(exponents), [matrices, inputs, outputs]);
    Ok(Some((names.to_vec(), stored.ok_or_else(wrong)?)))
}

/// `model.layers.0.mlp.experts.3.gate_proj.weight`, taken apart.
struct Expert<'a> {
    /// `model.layers.0.mlp.experts`
    prefix: &'a str,
    index: usize,
    /// `gate_proj`
    part: &'a str,
}

impl Expert<'_> {
    fn parse(name: &str) -> Option<Expert<'_>> {
        let (before, behind) = name.split_once(".experts.")?;
        let (index, part) = behind.split_once('.')?;
        let prefix = &name[..before.len() + ".experts".len()];
        Some(Expert { prefix, index: index.parse().ok()?, part: part.strip_suffix(".weight")? })
    }
}

/// A checkpoint with tied embeddings may still contain the LM head; then both must be equal.
fn check_tied(config: &Config, tensors: &Tensors) -> Result<(), String> {
    if !config.tied {
        return Ok(());
    }
    let (Some(embedding), Some(output)) = (tensors.get(EMBEDDING), tensors.get(OUTPUT)) else {
        return Ok(());
    };
    let same = embedding.shape == output.shape
        && embedding.encoding == output.encoding
        && embedding.bytes() == output.bytes();
    if same {
        for tensor in [embedding, output] {
            tensor.file.release(tensor.range.clone());
        }
        return Ok(());
    }
    Err(format!(
        "the configuration has `tie_word_embeddings` true, but {OUTPUT} exists and differs from \
        {EMBEDDING}: set it to false if the model uses both"
    ))
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The first names of a list that may be long, for a message.
fn first_names(names: &[String]) -> String {
    const MOST: usize = 4;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}
