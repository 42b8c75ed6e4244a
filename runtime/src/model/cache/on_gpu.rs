//! Decode steps on a GPU: our own kernels between the matrix products, and a whole step as one CUDA graph. A
//! step reads its tokens and positions from the GPU's memory, so that the same graph can be replayed.

use std::sync::{Arc, Mutex, PoisonError};

use mopd_kernels::cuda::{Cache, CudaGraph, DecodeAttention, DecodeKernels, DecodeShape};
use tch::{Kind, Tensor};

use super::Generator;
use crate::machine::device::compiled;
use crate::model::config::{Config, FastPath};
use crate::model::decoder::Decoder;
use crate::model::feed_forward::FeedForward;
use crate::model::parameters::Layer;

pub(super) struct OnGpu {
    kernels: DecodeKernels,
    layers: Vec<LayerScales>,
    /// i64, `[1]`: the place of the new token in the cache.
    place: Tensor,
    /// i64, `[rows]`: the new tokens.
    tokens: Option<Tensor>,
    capture: Capture,
}

/// The scales of a layer's normalisations, in f32.
struct LayerScales {
    /// `[width]`: before attention, and before the feed-forward part.
    attention: Tensor,
    feed_forward: Tensor,
    /// Scales of queries, then of keys, `[2, head width]`.
    query_key: Option<Tensor>,
}

/// A step on these tensors, captured as a CUDA graph.
enum Capture {
    /// Not captured yet.
    Waiting,
    Captured(Captured),
    /// A step can't be captured: experts synchronise with the GPU to count their tokens.
    Impossible,
}

struct Captured {
    graph: CudaGraph,
    last: Tensor,
    logits: Tensor,
}

impl Capture {
    fn new(decoder: &Decoder) -> Capture {
        if decoder.config.experts.is_some() { Capture::Impossible } else { Capture::Waiting }
    }
}

/// What determines the kernels of a step: the model's configuration and precision, and the number of rows.
type StepShape = (Arc<Config>, Kind, i64);

/// The shapes of steps that this process has run. A kernel is loaded at its first launch, which can't be
/// captured.
static LOADED: Mutex<Vec<StepShape>> = Mutex::new(Vec::new());

impl OnGpu {
    /// `None` where the decoder is not on a GPU, or kernels do not support its precision or
    /// features.
    pub fn new(decoder: &Decoder) -> Option<OnGpu> {
        let config = &*decoder.config;
        if !config.runs_on(FastPath::DecodingKernels) {
            return None;
        }
        let [heads, groups, width] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let shape = DecodeShape { heads, groups, width, kind: decoder.kind() };
        let kernels = compiled(DecodeKernels::of(decoder.place.kernels()?, shape))??;
        let scales = |scales: &Tensor| decoder.scale(scales).to_kind(Kind::Float).contiguous();
        let of_layer = |layer: &Layer| {
            Some(LayerScales {
                attention: scales(&layer.norm_attention),
                feed_forward: scales(&layer.norm_feed_forward),
                query_key: layer.mixer.attention()?.query_key_norm.as_ref().map(scales),
            })
        };
        let layers = decoder.layers.iter().map(of_layer).collect::<Option<_>>()?;
        let place = Tensor::zeros([1], (Kind::Int64, decoder.device()));
        Some(OnGpu { kernels, layers, place, tokens: None, capture: Capture::new(decoder) })
    }

    /// Drops the captured step: the caches were replaced, or have other rows.
    pub fn forget(&mut self, decoder: &Decoder) {
        (self.tokens, self.capture) = (None, Capture::new(decoder));
    }

    /// Sets the place of the next token in the cache.
    pub fn set_place(&mut self, place: i64) {
        let _ = self.place.fill_(place);
    }

    /// Runs a step; returns the stream after the last layer and the logits. Advances positions and place.
    pub fn step(&mut self, generator: &Generator, tokens: &Tensor) -> (Tensor, Tensor) {
        match &mut self.tokens {
            Some(there) => there.copy_(tokens),
            none => *none = Some(tokens.copy()),
        }
        match self.capture {
            Capture::Waiting => {
                let decoder = generator.decoder;
                let shape = (decoder.config.clone(), decoder.kind(), tokens.size()[0]);
                let loaded = || LOADED.lock().unwrap_or_else(PoisonError::into_inner);
                if !loaded().contains(&shape) {
                    let computed = self.compute(generator);
                    loaded().push(shape);
                    return computed;
                }
                let captured = CudaGraph::capture(self.kernels.gpu(), || self.compute(generator));
                self.capture = match captured {
                    Some((graph, (last, logits))) => Capture::Captured(Captured { graph, last, logits }),
                    None => Capture::Impossible,
                };
            }
            Capture::Captured(_) | Capture::Impossible => {}
        }
        let Capture::Captured(Captured { graph, last, logits }) = &self.capture else {
            return self.compute(generator);
        };
        graph.replay();
        (last.shallow_clone(), logits.shallow_clone())
    }

    fn compute(&self, generator: &Generator) -> (Tensor, Tensor) {
        let decoder = generator.decoder;
        let config = &*decoder.config;
        let [heads, groups, width] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let tokens = self.tokens.as_ref().expect("tokens were written");
        let epsilon = config.norm.epsilon;
        let add_and_normalise = |stream: &Tensor, added: Option<&Tensor>, scales: &Tensor| {
            self.kernels.add_and_normalise(stream, added, scales, epsilon)
        };
        let (mut stream, mut normed) =
            add_and_normalise(&decoder.embed(tokens), None, &self.layers[0].attention);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let scales = &self.layers[index];
            let weights = layer.mixer.attention().expect("`Config::runs_on` excludes other models");
            let projected = weights.query_key_value.apply(&normed).view([-1, heads + 2 * groups, width]);
            let [keys, values] = generator.caches[index].keys_values();
            let cache = Cache { keys, values, place: &self.place };
            let attention = DecodeAttention {
                norm: scales.query_key.as_ref().map(|scales| (scales, epsilon)),
                rotary: generator.rotary.of(&weights.kind).map(|rotary| [&rotary.cosine, &rotary.sine]),
                positions: &generator.positions,
                query_scale: config.attention_scale,
                bias: &generator.bias,
                window: weights.kind.window,
                softcap: config.attention_softcap,
            };
            let attended = self.kernels.attend(&projected, &attention, cache);
            let attended = decoder.after(layer.output.apply(&attended), layer.after_attention.as_ref());
            (stream, normed) = add_and_normalise(&stream, Some(&attended), &scales.feed_forward);
            let answer = match &layer.feed_forward {
                FeedForward::Gated { gate_up, down, .. } => {
                    down.apply(&self.kernels.gate(&gate_up.apply(&normed), config.activation))
                }
                experts => experts.infer(&normed, config.activation, config.experts.as_ref()),
            };
            let answer = decoder.after(answer, layer.after_feed_forward.as_ref());
            match self.layers.get(index + 1) {
                Some(next) => (stream, normed) = add_and_normalise(&stream, Some(&answer), &next.attention),
                None => stream += answer,
            }
        }
        for counted in [&generator.positions, &self.place] {
            let _ = counted.shallow_clone().g_add_scalar_(1);
        }
        let logits = decoder.project_vocabulary(&stream);
        (stream, logits)
    }
}
