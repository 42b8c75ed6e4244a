//! Steps on a GPU: kernels of our own between the products of matrices, and a whole step by one call. What a
//! step needs to know it reads from the GPU's memory, so that it is the same each time.

use std::sync::{Arc, Mutex, PoisonError};

use mopd_kernels::cuda::{Cache, CudaGraph, DecodeAttention, DecodeKernels, DecodeShape};
use tch::{Kind, Tensor};

use super::Generator;
use crate::machine::device::compiled;
use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::feed_forward::FeedForward;
use crate::model::parameters::Layer;

pub(super) struct OnGpu {
    kernels: DecodeKernels,
    layers: Vec<LayerScales>,
    /// i64, `[1]`: where the new token goes.
    place: Tensor,
    /// i64, `[rows]`: the new tokens.
    tokens: Option<Tensor>,
    capture: Capture,
}

/// What a layer's normalisations multiply with, in f32.
struct LayerScales {
    /// `[width]`: before attention, and before the feed-forward part.
    attention: Tensor,
    feed_forward: Tensor,
    /// Of queries and keys, `[2, head width]`.
    query_key: Option<Tensor>,
}

/// A step of these tensors as one graph.
enum Capture {
    /// None was captured yet.
    Waiting,
    Captured(Captured),
    /// It can't be captured: experts wait for the GPU to know how many tokens each has.
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

/// What decides which kernels a step launches: the model's shape and precision, and rows.
type StepShape = (Arc<Config>, Kind, i64);

/// Steps of these shapes were done in this process. What a kernel needs is loaded when it is first launched,
/// which can't be captured.
static LOADED: Mutex<Vec<StepShape>> = Mutex::new(Vec::new());

impl OnGpu {
    /// None where the decoder is elsewhere, or in a precision that kernels are not written for.
    pub fn of(decoder: &Decoder) -> Option<OnGpu> {
        let config = &*decoder.config;
        let [heads, groups, width] =
            [config.heads, config.key_value_heads, config.head_width].map(|size| size as i64);
        let shape = DecodeShape { heads, groups, width, kind: decoder.kind() };
        let kernels = compiled(DecodeKernels::of(decoder.place.kernels()?, shape))??;
        let scales = |scales: &Tensor| decoder.scale(scales).to_kind(Kind::Float).contiguous();
        let of_layer = |layer: &Layer| LayerScales {
            attention: scales(&layer.norm_attention),
            feed_forward: scales(&layer.norm_feed_forward),
            query_key: layer.query_key_norm.as_ref().map(scales),
        };
        let layers = decoder.layers.iter().map(of_layer).collect();
        let place = Tensor::zeros([1], (Kind::Int64, decoder.device()));
        Some(OnGpu { kernels, layers, place, tokens: None, capture: Capture::new(decoder) })
    }

    /// The caches are others now, or have other rows.
    pub fn forget(&mut self, decoder: &Decoder) {
        (self.tokens, self.capture) = (None, Capture::new(decoder));
    }

    /// Where the next token goes.
    pub fn set_place(&mut self, place: i64) {
        let _ = self.place.fill_(place);
    }

    /// The stream behind the last layer and the logits. Positions and place are those of the next token then.
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
            [config.heads, config.key_value_heads, config.head_width].map(|size| size as i64);
        let tokens = self.tokens.as_ref().expect("tokens were written");
        let epsilon = config.norm.epsilon;
        let add_and_normalise = |stream: &Tensor, added: Option<&Tensor>, scales: &Tensor| {
            self.kernels.add_and_normalise(stream, added, scales, epsilon)
        };
        let (mut stream, mut normed) =
            add_and_normalise(&decoder.embed(tokens), None, &self.layers[0].attention);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let scales = &self.layers[index];
            let projected = layer.query_key_value.apply(&normed).view([-1, heads + 2 * groups, width]);
            let [keys, values] = [&generator.keys, &generator.values].map(|caches| &caches[index]);
            let cache = Cache { keys, values, place: &self.place };
            let attention = DecodeAttention {
                norm: scales.query_key.as_ref().map(|scales| (scales, epsilon)),
                rotary: generator.rotary.of(&layer.attention).map(|rotary| [&rotary.cosine, &rotary.sine]),
                positions: &generator.positions,
                query_scale: config.attention_scale,
                bias: &generator.bias,
                window: layer.attention.window,
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
