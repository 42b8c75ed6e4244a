//! The configuration of a decoder: the numbers and switches in which published families differ.
//!
//! Families differ in few places, and each has a field here. So the forward pass tests features, never a
//! family's name; the name only decides how a `config.json` is read and written.

mod check;

use mopd_plan as plan;
use serde::Serialize;

pub use mopd_kernels::functions::Activation;

/// A decoder without its weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    pub family: ModelFamily,
    /// Rows of the embedding; some checkpoints pad it beyond the tokenizer's ids.
    pub vocabulary: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    /// Serialised as in keys of older results, like the next field.
    #[serde(rename = "head_width")]
    pub head_dim: usize,
    /// Inner width of the feed-forward part, where it has no experts.
    #[serde(rename = "hidden")]
    pub intermediate_size: usize,
    /// Longest sequence, in tokens, prompt and completion together.
    pub context: usize,
    /// Embedding and LM head are one matrix.
    pub tied: bool,
    /// Beside the LM head there is a row that maps the last hidden state to one number: the score of a prefix
    /// by a reward model, a discriminator or a critic.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scalar_head: bool,
    /// A second head predicts the token after the next one: [`super::second_head`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_head: bool,
    pub biases: Biases,
    /// Queries and keys are normalised per head before RoPE.
    pub query_key_norm: bool,
    /// The output of attention is multiplied by the sigmoid of a gate, before its projection. The projection
    /// of queries has the rows of both: for each head those of the query, then those of the gate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attention_gate: bool,
    /// The softmax of each head has one score more, a parameter, whose weight no token gets (gpt-oss,
    /// arXiv:2508.10925).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attention_sinks: bool,
    pub norm: Norm,
    pub activation: Activation,
    /// Embeddings are multiplied by it.
    pub embedding_scale: EmbeddingScale,
    /// Products of queries and keys are multiplied by it.
    pub attention_scale: f64,
    /// `c * tanh(x / c)` of attention scores, or of logits (Gemma 2, arXiv:2408.00118, section 2).
    pub attention_softcap: Option<f64>,
    pub logit_softcap: Option<f64>,
    /// Factor of the logits (Granite, arXiv:2408.13359 after the maximal update parametrisation). It is
    /// applied to the output of the last normalisation, so that it holds for everything that reads hidden
    /// states.
    #[serde(skip_serializing_if = "is_one")]
    pub logit_scale: f64,
    /// One per layer.
    pub attention: Vec<LayerAttention>,
    pub rope: Rope,
    /// RoPE of layers with a window, where they have another base (Gemma 3).
    pub local_rope: Option<Rope>,
    /// Only so many of the first numbers of a head are rotated; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary_dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gated_delta: Option<GatedDelta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_conv: Option<ShortConv>,
    pub experts: Option<Experts>,
    /// Standard deviation of initial weights.
    pub initial_deviation: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFamily {
    Llama,
    Granite,
    Mistral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    #[serde(rename = "qwen3_5")]
    Qwen35,
    SmolLm3,
    GptOss,
    Lfm2,
    Phi3,
    Gemma,
    Gemma2,
    Gemma3,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Biases {
    pub query_key_value: bool,
    /// Bias of the projection after attention.
    pub output: bool,
    pub feed_forward: bool,
}

/// Serialised as a number: the family decides between the two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EmbeddingScale {
    Exact(f64),
    /// The published model rounds the scale to its compute precision (Gemma).
    Rounded(f64),
}

/// Skips the field, so that keys of models without the feature do not change.
fn is_one(number: &f64) -> bool {
    *number == 1.0
}

impl EmbeddingScale {
    /// Gemma's is the square root of the width; most models have none.
    pub fn new(gemma: bool, width: usize) -> EmbeddingScale {
        if gemma { EmbeddingScale::Rounded((width as f64).sqrt()) } else { EmbeddingScale::Exact(1.0) }
    }

    pub fn value(self, bf16: bool) -> f64 {
        match self {
            EmbeddingScale::Rounded(scale) if bf16 => half::bf16::from_f64(scale).to_f64(),
            EmbeddingScale::Exact(scale) | EmbeddingScale::Rounded(scale) => scale,
        }
    }
}

/// RMSNorm (arXiv:1910.07467).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Norm {
    pub epsilon: f64,
    /// Added to the stored scale: 1 where checkpoints store the scale's distance from 1 (Gemma).
    pub offset: f64,
    /// The outputs of attention and feed-forward are normalised too, before they are added to the residual
    /// stream (Gemma 2 and 3).
    pub after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LayerAttention {
    /// A token attends to itself and the `window - 1` tokens before it; `None`: to all before it.
    pub window: Option<usize>,
    /// Queries and keys have RoPE; some layers of SmolLM3 have no positions at all.
    pub rotary: bool,
}

/// Rotary positions (arXiv:2104.09864), in the half-split layout of published checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by the factor, high ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_frequency: f64,
        high_frequency: f64,
        original_context: usize,
    },
    /// arXiv:2309.00071: frequencies by a ramp between kept and divided; cosines and sines are multiplied by
    /// `attention`.
    Yarn {
        factor: f64,
        attention: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: usize,
        truncate: bool,
    },
    /// LongRoPE (arXiv:2402.13753): each frequency is divided by a factor of its own, and cosines and sines
    /// are multiplied by `attention`. A sequence longer than the original context has the long factors, in
    /// all of its positions, others the short ones.
    LongRope {
        attention: f64,
        short: Vec<f64>,
        long: Vec<f64>,
        original_context: usize,
        /// The context with long factors.
        context: usize,
    },
}

impl Rope {
    /// The context of a model whose file says `context`. Files that add YaRN often keep the number of the
    /// unscaled model, as the cards of Qwen2.5 advise; the factor then says how far positions reach.
    pub fn context(&self, context: usize) -> usize {
        match self.scaling {
            RopeScaling::Yarn { factor, original_context, .. } => {
                context.max((factor * original_context as f64) as usize)
            }
            // Sequences are read with short factors only: with one more token than the original context, all
            // positions of a sequence would change, and with them what was cached of it.
            RopeScaling::LongRope { original_context, .. } => context.min(original_context),
            _ => context,
        }
    }
}

/// A mixture of experts: each token uses a few of many feed-forward parts (arXiv:1701.06538).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experts {
    pub count: usize,
    /// The number of experts that a token uses.
    pub per_token: usize,
    /// The inner width of an expert.
    #[serde(rename = "hidden")]
    pub intermediate_size: usize,
    /// The weights of the chosen experts are divided by their sum.
    pub normalised: bool,
    /// Which layers have experts; the others have one plain part of width [`Config::intermediate_size`].
    pub layers: Vec<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamped: Option<ClampedUnit>,
}

/// The experts of gpt-oss (arXiv:2508.10925): clamped units, `(up + 1) * gate * sigmoid(alpha * gate)`, and
/// biases, of the router too. The matrices of a layer are stored as two stacks, `[experts, inputs, outputs]`,
/// with the outputs of gate and up in turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClampedUnit {
    pub alpha: f64,
    /// The gate is at most this, and up at most so far from 0.
    pub limit: f64,
}

/// The gated delta rule (arXiv:2412.06464), which some layers have in place of attention: a recurrence over a
/// state of fixed size for each head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GatedDelta {
    /// Each head of queries and keys serves as many consecutive heads of values.
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_head_dim: usize,
    pub value_head_dim: usize,
    /// The number of tokens that the causal convolution of queries, keys and values reads.
    pub convolution: usize,
    /// Which layers have it; the others have attention.
    pub layers: Vec<bool>,
}

impl GatedDelta {
    /// Numbers of a token's keys in all heads; its queries have as many.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_head_dim
    }

    pub fn values(&self) -> usize {
        self.value_heads * self.value_head_dim
    }

    /// Numbers of a token's queries, keys and values, which the convolution reads.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Numbers that a layer remembers of a sequence: the state, and what the convolution reads again.
    pub fn remembered(&self) -> usize {
        self.value_heads * self.key_head_dim * self.value_head_dim + self.channels() * (self.convolution - 1)
    }
}

/// A gated convolution over few tokens (LFM2, arXiv:2511.23404), which some layers have in place of
/// attention.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShortConv {
    /// The number of tokens that it reads.
    pub taps: usize,
    /// Of its projections, and of the convolution.
    pub biases: bool,
    /// Which layers have it; the others have attention.
    pub layers: Vec<bool>,
}

/// A way to compute a part of a decoder beside libtorch's graph, which computes every model. Each is written
/// for some features only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// A layer's attention in training, by our own loops: [`super::packed_attention`].
    PackedAttention,
    /// A layer's gated unit in training, by our own loops: [`super::gated`].
    GatedUnit,
    /// Attention over whole sequences on a GPU.
    FlashAttention,
    /// Decoding by our own loops: [`super::step`].
    DecodingLoops,
    /// Decoding by our own kernels on a GPU.
    DecodingKernels,
    /// Decoding of two tokens in a step, by tensors.
    TokenPairs,
}

impl Config {
    /// Whether a path computes this model. A new field must be decided here: for a path that does not read
    /// it, the answer is no where the field changes the model. The graph then runs instead.
    pub fn runs_on(&self, path: FastPath) -> bool {
        let Config {
            family: _,
            vocabulary: _,
            layers: _,
            width: _,
            heads: _,
            key_value_heads: _,
            head_dim: _,
            intermediate_size: _,
            context: _,
            tied: _,
            scalar_head: _,
            second_head: _,
            biases: Biases { query_key_value: _, output: _, feed_forward: _ },
            query_key_norm: _,
            attention_gate,
            attention_sinks,
            norm: Norm { epsilon: _, offset: _, after },
            activation: _,
            embedding_scale: _,
            attention_scale: _,
            attention_softcap,
            logit_softcap: _,
            logit_scale: _,
            attention,
            rope: _,
            local_rope: _,
            rotary_dim,
            gated_delta,
            short_conv,
            experts,
            initial_deviation: _,
        } = self;
        let is_windowed = |LayerAttention { window, rotary: _ }: &LayerAttention| window.is_some();
        let plain_attention = !attention_gate && rotary_dim.is_none() && !attention_sinks;
        let plain_experts = experts.as_ref().is_none_or(|experts| {
            let Experts { count: _, per_token: _, intermediate_size: _, normalised: _, layers: _, clamped } =
                experts;
            clamped.is_none()
        });
        let only_attention = gated_delta.is_none() && short_conv.is_none();
        match path {
            FastPath::PackedAttention => attention_softcap.is_none() && !after && plain_attention,
            FastPath::GatedUnit => !after,
            FastPath::FlashAttention => attention_softcap.is_none() && !attention_sinks,
            FastPath::DecodingLoops | FastPath::DecodingKernels => {
                plain_attention && only_attention && plain_experts
            }
            FastPath::TokenPairs => !attention.iter().any(is_windowed) && only_attention && !attention_sinks,
        }
    }

    /// Far above any published decoder: a malicious file must not cause huge allocations.
    pub const MOST_LAYERS: usize = 4096;

    /// The configuration of a model that the language makes from scratch: `llama { ... }`, `qwen2 { ... }`,
    /// `qwen3 { ... }`, `gemma { ... }`.
    pub fn new(architecture: &plan::Architecture) -> Config {
        let head_dim = (architecture.width / architecture.heads.max(1)) as usize;
        let gemma = architecture.family == plan::Family::Gemma;
        Config {
            family: match architecture.family {
                plan::Family::Llama => ModelFamily::Llama,
                plan::Family::Qwen2 => ModelFamily::Qwen2,
                plan::Family::Qwen3 => ModelFamily::Qwen3,
                plan::Family::Gemma => ModelFamily::Gemma,
            },
            vocabulary: architecture.tokenizer.vocabulary().unwrap_or(0) as usize,
            layers: architecture.layers as usize,
            width: architecture.width as usize,
            heads: architecture.heads as usize,
            key_value_heads: architecture.key_value_heads as usize,
            head_dim,
            intermediate_size: architecture.intermediate_size as usize,
            context: architecture.context as usize,
            tied: architecture.tied,
            scalar_head: false,
            second_head: false,
            biases: Biases {
                query_key_value: architecture.family == plan::Family::Qwen2,
                ..Biases::default()
            },
            query_key_norm: architecture.family == plan::Family::Qwen3,
            attention_gate: false,
            attention_sinks: false,
            norm: Norm {
                epsilon: architecture.norm_epsilon,
                offset: if gemma { 1.0 } else { 0.0 },
                after: false,
            },
            activation: if gemma { Activation::Gelu } else { Activation::Silu },
            embedding_scale: EmbeddingScale::new(gemma, architecture.width as usize),
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            attention_softcap: None,
            logit_softcap: None,
            logit_scale: 1.0,
            attention: vec![LayerAttention { window: None, rotary: true }; architecture.layers as usize],
            rope: Rope { theta: architecture.rope_theta, scaling: RopeScaling::None },
            local_rope: None,
            rotary_dim: None,
            gated_delta: None,
            short_conv: None,
            experts: None,
            initial_deviation: architecture.initial_deviation,
        }
    }

    /// The experts of a layer; `None` where its feed-forward part is plain.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| experts.layers[layer])
    }

    /// Heads that the projection of queries has: those of the gate too, where there is one.
    pub fn query_and_gate_heads(&self) -> usize {
        if self.attention_gate { 2 * self.heads } else { self.heads }
    }

    /// The gated delta rule of a layer; `None` where it has attention.
    pub fn gated_delta_of(&self, layer: usize) -> Option<&GatedDelta> {
        self.gated_delta.as_ref().filter(|delta| delta.layers[layer])
    }

    /// The short convolution of a layer; `None` where it has attention.
    pub fn short_conv_of(&self, layer: usize) -> Option<&ShortConv> {
        self.short_conv.as_ref().filter(|conv| conv.layers[layer])
    }

    /// Whether a layer has attention, not another part in its place.
    pub fn has_attention(&self, layer: usize) -> bool {
        self.gated_delta_of(layer).is_none() && self.short_conv_of(layer).is_none()
    }

    /// Bytes that generation keeps of a sequence whatever its length: what layers without attention remember,
    /// in single precision.
    pub fn state_bytes(&self) -> usize {
        let of_layer = |layer: usize| {
            let delta = self.gated_delta_of(layer).map_or(0, GatedDelta::remembered);
            delta + self.short_conv_of(layer).map_or(0, |conv| self.width * (conv.taps - 1))
        };
        (0..self.layers).map(of_layer).sum::<usize>() * size_of::<f32>()
    }

    /// The layers with attention, which cache keys and values.
    pub fn attention_layers(&self) -> impl Iterator<Item = &LayerAttention> {
        let layers = self.attention.iter().enumerate();
        layers.filter(|(layer, _)| self.has_attention(*layer)).map(|(_, attention)| attention)
    }
}
