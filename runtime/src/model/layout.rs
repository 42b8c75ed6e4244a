//! The parameters of a decoder and their order in the flat vector.

use mopd_plan::WeightGroup;

use super::{Config, Experts};

/// A parameter and its place in a model's flat vector. Matrices are `[outputs, inputs]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterEntry {
    /// The name in published checkpoints: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub kind: EntryKind,
    /// The group by which it is trained or frozen.
    pub group: WeightGroup,
    /// `None` outside layers.
    pub layer: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Matrix,
    /// Added to a matrix's output.
    Bias,
    /// The scale of a normalisation.
    Norm,
    /// The kernels of a convolution of single channels, `[channels, 1, taps]`.
    Convolution,
    /// Numbers of the gated delta rule, of each head or of the normalisation in a head: as published models,
    /// they begin at 1.
    Delta,
}

impl ParameterEntry {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The module that has it, for a matrix: `q_proj`.
    pub fn module(&self) -> Option<&str> {
        if self.kind != EntryKind::Matrix {
            return None;
        }
        self.name.strip_suffix(".weight")?.rsplit('.').next()
    }

    /// Whether it is the scalar head.
    pub fn is_scalar_head(&self) -> bool {
        self.layer.is_none() && self.name == "score.weight"
    }

    /// Whether it belongs to a second head.
    pub fn is_second_head(&self) -> bool {
        self.layer.is_none() && self.name.starts_with(SECOND_HEAD)
    }

    /// Whether it is the input matrix of a second head.
    pub fn is_second_head_input(&self) -> bool {
        self.is_second_head() && self.name.ends_with("input.weight")
    }

    /// Whether a stage adds it to models that do not have it.
    pub fn is_given(&self) -> bool {
        self.is_scalar_head() || self.is_second_head()
    }
}

/// The prefix of the names of a second head's entries.
const SECOND_HEAD: &str = "second_head";

/// All parameters in order. Matrices come first, so that weight decay is one range. Matrices with the same
/// input are adjacent, so that they form one matrix; so do their biases. All gate and up matrices of experts
/// come before all down matrices, so that a layer's experts form two stacks.
pub fn layout(config: &Config) -> Vec<ParameterEntry> {
    let mut entries = Entries(Vec::new());
    let embedding = || vec![config.vocabulary, config.width];
    entries.whole_model("model.embed_tokens", embedding());
    for layer in 0..config.layers {
        entries.matrices(config, layer);
    }
    if !config.tied {
        entries.whole_model("lm_head", embedding());
    }
    if config.scalar_head {
        entries.whole_model("score", vec![1, config.width]);
    }
    if config.second_head {
        let width = config.width;
        for (part, shape) in
            [("input", [width, 2 * width]), ("output", [width, width]), ("confidence", [1, width])]
        {
            entries.whole_model(&format!("{SECOND_HEAD}.{part}"), shape.to_vec());
        }
    }
    for layer in 0..config.layers {
        entries.biases(config, layer);
    }
    for layer in 0..config.layers {
        entries.norms(config, layer);
        entries.gated_delta(config, layer);
    }
    entries.add(None, "model.norm", vec![config.width], EntryKind::Norm, WeightGroup::Norm);
    entries.0
}

/// A layout under construction: each entry begins where the previous one ends.
struct Entries(Vec<ParameterEntry>);

impl Entries {
    fn add(
        &mut self,
        layer: Option<usize>,
        part: &str,
        shape: Vec<usize>,
        kind: EntryKind,
        group: WeightGroup,
    ) {
        let offset = self.0.last().map_or(0, |last| last.offset + last.len());
        let name = match kind {
            EntryKind::Bias => format!("{part}.bias"),
            EntryKind::Delta => part.to_owned(),
            EntryKind::Matrix | EntryKind::Norm | EntryKind::Convolution => format!("{part}.weight"),
        };
        let name = match layer {
            Some(layer) => format!("model.layers.{layer}.{name}"),
            None => name,
        };
        let layer = layer.map(|layer| layer as u32);
        self.0.push(ParameterEntry { name, shape, offset, kind, group, layer });
    }

    /// A matrix outside of layers.
    fn whole_model(&mut self, part: &str, shape: Vec<usize>) {
        self.add(None, part, shape, EntryKind::Matrix, WeightGroup::Embedding);
    }

    fn matrices(&mut self, config: &Config, layer: usize) {
        use WeightGroup::{Attention, FeedForward};
        let (width, heads) = (config.width, config.heads * config.head_dim);
        let key_value = config.key_value_heads * config.head_dim;
        let mut matrix = |group: WeightGroup, part: &str, outputs: usize, inputs: usize| {
            self.add(Some(layer), part, vec![outputs, inputs], EntryKind::Matrix, group);
        };
        match config.gated_delta_of(layer) {
            Some(delta) => {
                matrix(Attention, "linear_attn.in_proj_qkv", delta.channels(), width);
                matrix(Attention, "linear_attn.in_proj_z", delta.values(), width);
                matrix(Attention, "linear_attn.in_proj_b", delta.value_heads, width);
                matrix(Attention, "linear_attn.in_proj_a", delta.value_heads, width);
                matrix(Attention, "linear_attn.out_proj", width, delta.values());
            }
            None => {
                matrix(Attention, "self_attn.q_proj", config.query_and_gate_heads() * config.head_dim, width);
                matrix(Attention, "self_attn.k_proj", key_value, width);
                matrix(Attention, "self_attn.v_proj", key_value, width);
                matrix(Attention, "self_attn.o_proj", width, heads);
            }
        }
        match config.experts_of(layer) {
            Some(Experts { count, intermediate_size, .. }) => {
                matrix(FeedForward, "mlp.gate", *count, width);
                for expert in 0..*count {
                    matrix(
                        FeedForward,
                        &format!("mlp.experts.{expert}.gate_proj"),
                        *intermediate_size,
                        width,
                    );
                    matrix(FeedForward, &format!("mlp.experts.{expert}.up_proj"), *intermediate_size, width);
                }
                for expert in 0..*count {
                    matrix(
                        FeedForward,
                        &format!("mlp.experts.{expert}.down_proj"),
                        width,
                        *intermediate_size,
                    );
                }
            }
            None => {
                matrix(FeedForward, "mlp.gate_proj", config.intermediate_size, width);
                matrix(FeedForward, "mlp.up_proj", config.intermediate_size, width);
                matrix(FeedForward, "mlp.down_proj", width, config.intermediate_size);
            }
        }
    }

    fn biases(&mut self, config: &Config, layer: usize) {
        use WeightGroup::{Attention, FeedForward};
        let key_value = config.key_value_heads * config.head_dim;
        let mut bias = |group: WeightGroup, part: &str, outputs: usize| {
            self.add(Some(layer), part, vec![outputs], EntryKind::Bias, group);
        };
        let attention = config.gated_delta_of(layer).is_none();
        if config.biases.query_key_value && attention {
            bias(Attention, "self_attn.q_proj", config.query_and_gate_heads() * config.head_dim);
            bias(Attention, "self_attn.k_proj", key_value);
            bias(Attention, "self_attn.v_proj", key_value);
        }
        if config.biases.output && attention {
            bias(Attention, "self_attn.o_proj", config.width);
        }
        if config.biases.feed_forward && config.experts_of(layer).is_none() {
            bias(FeedForward, "mlp.gate_proj", config.intermediate_size);
            bias(FeedForward, "mlp.up_proj", config.intermediate_size);
            bias(FeedForward, "mlp.down_proj", config.width);
        }
    }

    fn norms(&mut self, config: &Config, layer: usize) {
        let mut norm = |part: &str, width: usize| {
            self.add(Some(layer), part, vec![width], EntryKind::Norm, WeightGroup::Norm);
        };
        let names = NormNames::new(config);
        norm(names.attention, config.width);
        if let Some(after) = names.after_attention {
            norm(after, config.width);
        }
        norm(names.feed_forward, config.width);
        if let Some(after) = names.after_feed_forward {
            norm(after, config.width);
        }
        if config.query_key_norm && config.gated_delta_of(layer).is_none() {
            norm("self_attn.q_norm", config.head_dim);
            norm("self_attn.k_norm", config.head_dim);
        }
    }

    /// What the gated delta rule of a layer has beside its matrices.
    fn gated_delta(&mut self, config: &Config, layer: usize) {
        let Some(delta) = config.gated_delta_of(layer) else { return };
        let mut add = |part: &str, shape: Vec<usize>, kind: EntryKind, group: WeightGroup| {
            self.add(Some(layer), &format!("linear_attn.{part}"), shape, kind, group);
        };
        let (kernels, heads) = (vec![delta.channels(), 1, delta.convolution], vec![delta.value_heads]);
        add("conv1d", kernels, EntryKind::Convolution, WeightGroup::Attention);
        add("A_log", heads.clone(), EntryKind::Delta, WeightGroup::Attention);
        add("dt_bias", heads, EntryKind::Delta, WeightGroup::Attention);
        add("norm.weight", vec![delta.value_head_dim], EntryKind::Delta, WeightGroup::Norm);
    }
}

/// The names of a layer's normalisations in checkpoints. In most families `post_attention_layernorm` is the
/// one before the feed-forward part; where outputs are normalised too, it is the one after attention.
pub(super) struct NormNames {
    pub attention: &'static str,
    pub after_attention: Option<&'static str>,
    pub feed_forward: &'static str,
    pub after_feed_forward: Option<&'static str>,
}

impl NormNames {
    pub fn new(config: &Config) -> NormNames {
        let attention = "input_layernorm";
        if config.norm.after {
            NormNames {
                attention,
                after_attention: Some("post_attention_layernorm"),
                feed_forward: "pre_feedforward_layernorm",
                after_feed_forward: Some("post_feedforward_layernorm"),
            }
        } else {
            NormNames {
                attention,
                after_attention: None,
                feed_forward: "post_attention_layernorm",
                after_feed_forward: None,
            }
        }
    }
}
