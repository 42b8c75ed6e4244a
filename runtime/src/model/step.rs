//! A decoder's weights for decode steps on the CPU: [`mopd_kernels::decode`]. A feature that a layer gains in
//! `decoder.rs` is added here too, or refused in [`Config::runs_on`](super::Config::runs_on).

use mopd_kernels::Cpu;
use mopd_kernels::decode::{
    self, DecoderWeights, ExpertsShape, Gated, LayerWeights, LinearWeights, Mlp, Shape, Tables, WeightMatrix,
};
use mopd_kernels::tensor::OwnedView;
use tch::Tensor;

use super::Decoder;
use super::config::FastPath;
use super::rope::Rotaries;
use crate::machine::transfer::to_vec;

/// The decoder for steps on the CPU; `None` where its kind is not supported.
pub(super) fn stepper(decoder: &Decoder, rotary: &Rotaries, cpu: Cpu) -> Option<decode::StepDecoder> {
    let config = decoder.config.clone();
    if !config.runs_on(FastPath::DecodingLoops) {
        return None;
    }
    let linear = |name: &str| {
        let weight = decoder.tensor(&format!("{name}.weight"))?;
        let outputs = weight.size()[0] as usize;
        Some(LinearWeights {
            weight: held(weight)?,
            bias: decoder.tensor(&format!("{name}.bias")).map(|bias| to_vec(&bias)),
            outputs,
        })
    };
    let norm = |name: &str| {
        let scale = to_vec(&decoder.tensor(&format!("{name}.weight"))?);
        Some(scale.into_iter().map(|scale| scale + config.norm.offset as f32).collect::<Vec<f32>>())
    };
    let gated = |name: &str| {
        Some(Gated {
            gate: linear(&format!("{name}.gate_proj"))?,
            up: linear(&format!("{name}.up_proj"))?,
            down: linear(&format!("{name}.down_proj"))?,
        })
    };
    let layers = (0..config.layers).map(|index| {
        let name = format!("model.layers.{index}");
        let attention = config.attention[index];
        let mlp = match &config.experts {
            Some(experts) if experts.layers[index] => Mlp::Experts {
                router: linear(&format!("{name}.mlp.gate"))?,
                experts: (0..experts.count)
                    .map(|expert| gated(&format!("{name}.mlp.experts.{expert}")))
                    .collect::<Option<_>>()?,
                per_token: experts.per_token,
                normalised: experts.normalised,
            },
            _ => Mlp::Plain(gated(&format!("{name}.mlp"))?),
        };
        // With norms after both parts, the one before the feed-forward part has another name (Gemma 2 and
        // 3).
        let [after_attention, before] = if config.norm.after {
            [
                norm(&format!("{name}.post_attention_layernorm")),
                norm(&format!("{name}.pre_feedforward_layernorm")),
            ]
        } else {
            [None, norm(&format!("{name}.post_attention_layernorm"))]
        };
        Some(LayerWeights {
            norm_attention: norm(&format!("{name}.input_layernorm"))?,
            query: linear(&format!("{name}.self_attn.q_proj"))?,
            key: linear(&format!("{name}.self_attn.k_proj"))?,
            value: linear(&format!("{name}.self_attn.v_proj"))?,
            query_norm: norm(&format!("{name}.self_attn.q_norm")),
            key_norm: norm(&format!("{name}.self_attn.k_norm")),
            output: linear(&format!("{name}.self_attn.o_proj"))?,
            after_attention,
            norm_mlp: before?,
            mlp,
            after_mlp: norm(&format!("{name}.post_feedforward_layernorm")),
            window: attention.window.unwrap_or(usize::MAX),
            tables: attention
                .rotary
                .then(|| usize::from(attention.window.is_some() && config.local_rope.is_some())),
        })
    });
    let embedding = decoder.tensor("model.embed_tokens.weight")?;
    let lm_head = decoder.tensor("lm_head.weight").unwrap_or_else(|| embedding.shallow_clone());
    let weights = DecoderWeights {
        lm_head: LinearWeights { outputs: lm_head.size()[0] as usize, weight: held(lm_head)?, bias: None },
        embedding: held(embedding)?,
        norm: norm("model.norm")?.into_iter().map(|scale| scale * config.logit_scale as f32).collect(),
        layers: layers.collect::<Option<_>>()?,
        tables: rotary
            .tables()
            .map(|table| Tables { cosine: to_vec(&table.cosine), sine: to_vec(&table.sine) })
            .collect(),
    };
    Some(decode::StepDecoder::new(cpu, shape(decoder), weights))
}

/// A matrix that shares the decoder's memory, which must not be written to meanwhile.
fn held(tensor: Tensor) -> Option<WeightMatrix> {
    let tensor = tensor.detach().contiguous();
    match OwnedView::new(tensor.shallow_clone()) {
        Some(numbers) => Some(WeightMatrix::F32(Box::new(numbers))),
        None => Some(WeightMatrix::Bf16(Box::new(OwnedView::new(tensor)?))),
    }
}

/// The decoder's sizes and constants for steps.
pub(super) fn shape(decoder: &Decoder) -> Shape {
    let config = &*decoder.config;
    Shape {
        layers: config.layers,
        width: config.width,
        intermediate_size: config.intermediate_size,
        vocabulary: config.vocabulary,
        heads: config.heads,
        key_value_heads: config.key_value_heads,
        head_dim: config.head_dim,
        experts: config.experts.as_ref().map(|experts| ExpertsShape {
            intermediate_size: experts.intermediate_size,
            per_token: experts.per_token,
        }),
        activation: config.activation,
        attention_scale: config.attention_scale,
        attention_softcap: config.attention_softcap,
        logit_softcap: config.logit_softcap,
        embedding_scale: decoder.embedding_scale() as f32,
        epsilon: config.norm.epsilon,
    }
}
