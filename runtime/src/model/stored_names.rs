//! How checkpoints of a family name and join parameters, where they differ from the parts that the decoder
//! computes with.

use super::{ModelFamily, ParameterEntry};

/// Adjacent parts, and the name of the one parameter that holds them in checkpoints. One part is only
/// renamed. A name with `.weight` or `.bias` is replaced with this end, others keep it.
type Stored = (&'static [&'static str], &'static str);

fn table(family: ModelFamily) -> &'static [Stored] {
    match family {
        ModelFamily::Phi3 => &[
            (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.qkv_proj"),
            (&["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj"),
        ],
        ModelFamily::GptOss => &[
            (&["mlp.gate"], "mlp.router"),
            (&["mlp.experts.gate_up_proj.weight"], "mlp.experts.gate_up_proj"),
            (&["mlp.experts.gate_up_proj.bias"], "mlp.experts.gate_up_proj_bias"),
            (&["mlp.experts.down_proj.weight"], "mlp.experts.down_proj"),
            (&["mlp.experts.down_proj.bias"], "mlp.experts.down_proj_bias"),
            (&["self_attn.sinks.bias"], "self_attn.sinks"),
        ],
        ModelFamily::Lfm2 => &[
            (&["self_attn.o_proj"], "self_attn.out_proj"),
            (&["self_attn.q_norm"], "self_attn.q_layernorm"),
            (&["self_attn.k_norm"], "self_attn.k_layernorm"),
            (&["mlp.gate_proj"], "feed_forward.w1"),
            (&["mlp.up_proj"], "feed_forward.w3"),
            (&["mlp.down_proj"], "feed_forward.w2"),
            (&["input_layernorm"], "operator_norm"),
            (&["post_attention_layernorm"], "ffn_norm"),
            (&["model.norm"], "model.embedding_norm"),
        ],
        ModelFamily::Llama
        | ModelFamily::Granite
        | ModelFamily::Mistral
        | ModelFamily::Qwen2
        | ModelFamily::Qwen3
        | ModelFamily::Qwen3Moe
        | ModelFamily::Qwen35
        | ModelFamily::SmolLm3
        | ModelFamily::Gemma
        | ModelFamily::Gemma2
        | ModelFamily::Gemma3 => &[],
    }
}

/// The parameters as checkpoints store them, from the parts of a decoder.
pub(super) fn as_stored(family: ModelFamily, parts: Vec<ParameterEntry>) -> Vec<ParameterEntry> {
    let table = table(family);
    if table.is_empty() {
        return parts;
    }
    let mut entries = Vec::with_capacity(parts.len());
    let mut rest = parts.into_iter();
    while let Some(mut entry) = rest.next() {
        let (before, part, end) = taken_apart(&entry.name);
        let with_end = &entry.name[before.len()..];
        if let Some((joined, name)) = table.iter().find(|(all, _)| all[0] == part || all[0] == with_end) {
            let end = if joined[0] == part { end } else { "" };
            let name = format!("{before}{name}{end}");
            for _ in &joined[1..] {
                let next = rest.next().expect("parts that are stored as one are adjacent");
                assert_eq!(
                    next.offset,
                    entry.offset + entry.len(),
                    "parts that are stored as one are adjacent"
                );
                entry.shape[0] += next.shape[0];
                entry.projections.extend(next.projections);
            }
            entry.name = name;
        }
        entries.push(entry);
    }
    entries
}

/// A name before the part, the part, and the end behind it: `model.layers.0.`, `self_attn.q_proj`, `.weight`.
fn taken_apart(name: &str) -> (&str, &str, &str) {
    let behind = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let before = behind.map_or(0, |(_, part)| name.len() - part.len());
    let end = [".weight", ".bias"].into_iter().find(|end| name.ends_with(end)).unwrap_or("");
    (&name[..before], &name[before..name.len() - end.len()], end)
}
