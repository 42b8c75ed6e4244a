//! GGUF: one file with configuration, tokenizer and weights. The weights, often quantized to a few bits each,
//! are read as f32.

mod config;
mod parse;
#[cfg(test)]
mod tests;
pub mod tokenizer;

use std::path::Path;

#[cfg(test)]
pub(crate) use self::parse::parse;
pub use self::parse::{GgufValue, Metadata};
use super::tensors::{Tensor, Tensors, assemble};
use super::unreadable;
use crate::failure::Result;
use crate::mapped::MappedFile;
use crate::mapped::{MappedTensor, RowOrder};
use crate::model::{Config, EntryKind, ModelFamily, layout};

/// The checked contents of a file; no weights are read yet.
#[derive(Debug)]
pub struct Gguf {
    pub config: Config,
    /// In the order of [`layout`].
    pub parts: Vec<MappedTensor>,
    pub metadata: Metadata,
}

/// Opens a file.
pub fn open(path: &Path) -> Result<Gguf> {
    let file = MappedFile::open(path).map_err(|error| unreadable(path, error))?;
    let read = || {
        let mut contents = parse::parse(file.bytes())?;
        if contents
            .metadata
            .get("split.count")
            .is_some_and(|count| !matches!(count, GgufValue::Unsigned(0 | 1)))
        {
            return Err("it is one of several files of a split model, which is not supported: merge them \
                first (`llama-gguf-split --merge`)"
                .to_owned());
        }
        let place = |place: parse::TensorExtent| Tensor {
            file: file.clone(),
            range: place.range,
            encoding: place.encoding,
            shape: place.shape,
        };
        let frequencies = match contents.tensors.remove("rope_freqs.weight") {
            Some(found) => Some(numbers(place(found)).ok_or("the tensor rope_freqs.weight is not a vector")?),
            None => None,
        };
        let config = config::config(&contents, frequencies.as_deref())?;
        let after = config.norm.after;
        let named = contents.tensors.into_iter();
        let tensors: Tensors =
            named.map(|(name, found)| (published_name(&name, after).unwrap_or(name), place(found))).collect();
        let parts = assemble(&config, &tensors)?;
        let entries = layout(&config);
        let parts =
            entries.iter().zip(parts).map(|(entry, part)| undo(&config, &entry.name, entry.kind, part));
        let parts = parts.collect::<Option<Vec<_>>>().ok_or(
            "the size of a projection is not a multiple \
            of the size of a head",
        )?;
        Ok((config, parts, contents.metadata))
    };
    let (config, parts, metadata) = read().map_err(|problem: String| unreadable(path, problem))?;
    Ok(Gguf { config, parts, metadata })
}

fn numbers(tensor: Tensor) -> Option<Vec<f32>> {
    let [length] = tensor.shape.as_slice() else { return None };
    let stored = MappedTensor::new(tensor.file, tensor.range, tensor.encoding, 1, *length)?;
    let mut numbers = vec![0.0; stored.len()];
    stored.read(&mut numbers);
    Some(numbers)
}

/// Undoes, when numbers are read, what the conversion to GGUF did to them.
fn undo(config: &Config, name: &str, kind: EntryKind, part: MappedTensor) -> Option<MappedTensor> {
    // Files of these families store rotary pairs as neighbours, those of the others half a head apart.
    let of_llama = [ModelFamily::Llama, ModelFamily::Mistral, ModelFamily::SmolLm3];
    let turns_neighbours = of_llama.contains(&config.family);
    if turns_neighbours && [".q_proj.", ".k_proj."].iter().any(|part| name.contains(part)) {
        let part = if name.ends_with(".bias") { part.column()? } else { part };
        return part.ordered(RowOrder::Neighbours { head_dim: config.head_dim });
    }
    // GGUF has no offset of norm weights: the conversion added it to them.
    if kind == EntryKind::Norm && config.norm.offset != 0.0 {
        return Some(part.shifted(-config.norm.offset as f32));
    }
    Some(part)
}

/// The name of `blk.0.attn_q.weight` in checkpoints of the transformers library. Experts are stacked in
/// one tensor.
fn published_name(name: &str, norms_after: bool) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let stacked = match part {
        "ffn_gate_exps" => Some("gate_proj"),
        "ffn_up_exps" => Some("up_proj"),
        "ffn_down_exps" => Some("down_proj"),
        _ => None,
    };
    if let Some(part) = stacked {
        return Some(format!("model.layers.{layer}.mlp.experts.{part}"));
    }
    let part = match part {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_inp" => "mlp.gate",
        "attn_norm" => "input_layernorm",
        "post_attention_norm" if norms_after => "post_attention_layernorm",
        "ffn_norm" if norms_after => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}
