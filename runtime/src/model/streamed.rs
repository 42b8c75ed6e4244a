//! A frozen model for scoring that is too large to stay in memory: its layers are loaded one at a time.
//!
//! So a teacher's memory does not grow with its depth. Its layers are read again at every step, which takes
//! far less time than their computation.

use std::ops::Range;
use std::sync::Arc;

use tch::{Kind, Tensor, no_grad_guard};

use super::decoder::{Decoder, ForwardContext};
use super::parameters::{ParameterViews, runs};
use super::{Config, PackedBatch, Weights, layout};
use crate::machine::place::Place;
use crate::zip::zip_equal;

pub struct StreamedDecoder {
    /// The parts outside the layers.
    decoder: Decoder,
    weights: Arc<Weights>,
    /// By layer, the range of its matrices in the model's flat vector.
    matrices: Vec<Range<usize>>,
}

impl StreamedDecoder {
    pub fn new(weights: &Arc<Weights>, place: Place, kind: Kind) -> StreamedDecoder {
        let of_layers = |(layer, numbers): (Option<u32>, Range<usize>)| layer.map(|_| numbers);
        let matrices: Vec<Range<usize>> = runs(&layout(&weights.config)).filter_map(of_layers).collect();
        assert_eq!(matrices.len(), weights.config.layers, "the matrices of a layer are neighbours");
        let decoder = Decoder::without_layers(weights, place, kind);
        StreamedDecoder { decoder, weights: weights.clone(), matrices }
    }

    /// The results of [`Decoder::hidden`] for each batch, to the bit. A layer is loaded once for as many
    /// batches as are in memory together.
    pub fn hidden(&self, batches: impl Iterator<Item = PackedBatch>) -> Vec<Tensor> {
        let _guard = no_grad_guard();
        let (mut batches, most) = (batches.peekable(), self.tokens_at_once());
        let mut hidden = Vec::new();
        while let Some(first) = batches.next() {
            let (mut tokens, mut together) = (first.token_count(), vec![first]);
            while let Some(next) = batches.next_if(|next| tokens + next.token_count() <= most) {
                tokens += next.token_count();
                together.push(next);
            }
            hidden.extend(self.pass(&together));
        }
        hidden
    }

    /// The most tokens whose streams and positions take no more memory than the layers would.
    fn tokens_at_once(&self) -> i64 {
        let layers: usize = self.matrices.iter().map(Range::len).sum();
        (layers / (2 * self.decoder.config.width)) as i64
    }

    fn pass(&self, batches: &[PackedBatch]) -> Vec<Tensor> {
        let decoder = &self.decoder;
        let contexts: Vec<ForwardContext> = batches.iter().map(|batch| decoder.context(batch)).collect();
        let mut streams: Vec<Tensor> = batches.iter().map(|batch| decoder.embed(&batch.tokens)).collect();
        for (index, matrices) in self.matrices.iter().enumerate() {
            let numbers = decoder.numbers.with_layer(&self.weights, matrices.clone());
            let layer = ParameterViews::new(&decoder.entries, &numbers, false).layer(&decoder.config, index);
            for (stream, context) in zip_equal(&mut streams, &contexts) {
                *stream = decoder.through_layer(&layer, stream, context).0;
            }
        }
        streams.iter().map(|stream| decoder.normalise_last(stream)).collect()
    }
}

/// A model that scores.
#[derive(Clone, Copy)]
pub enum ScoringDecoder<'a> {
    Held(&'a Decoder),
    Streamed(&'a StreamedDecoder),
}

impl<'a> ScoringDecoder<'a> {
    /// The parts that are always in memory.
    fn held(self) -> &'a Decoder {
        match self {
            ScoringDecoder::Held(decoder) => decoder,
            ScoringDecoder::Streamed(streamed) => &streamed.decoder,
        }
    }

    pub fn config(self) -> &'a Config {
        &self.held().config
    }

    /// `[vocabulary, width]`
    pub fn lm_head(self) -> &'a Tensor {
        self.held().lm_head()
    }

    /// The last hidden states at each batch's completion positions: `[completion tokens, width]`.
    pub fn hidden(self, batches: impl Iterator<Item = PackedBatch>) -> Vec<Tensor> {
        match self {
            ScoringDecoder::Held(decoder) => batches.map(|batch| decoder.hidden(&batch)).collect(),
            ScoringDecoder::Streamed(decoder) => decoder.hidden(batches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::transfer::to_vec;
    use crate::model::tests::{of_family, random_model, tiny};
    use crate::model::{Biases, Experts};
    use crate::tokenizer::Token;
    use mopd_plan::Family;

    /// For any number of batches per loading of the layers.
    #[test]
    fn streamed_layers_give_the_output_of_the_whole_model() {
        let experts = Experts {
            count: 3,
            per_token: 2,
            intermediate_size: 5,
            normalised: true,
            layers: vec![true, false],
            clamped: None,
        };
        let biases = Biases { query_key_value: true, output: true, feed_forward: true };
        let families = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma].map(of_family);
        let others = [
            Config { tied: false, biases, ..tiny() },
            Config { experts: Some(experts), ..of_family(Family::Qwen3) },
            Config { second_head: true, ..tiny() },
        ];
        let sequences: Vec<Vec<Token>> =
            (0..40).map(|i| (0..3 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect();
        for place in Place::tested() {
            let batch =
                |some: &[Vec<Token>]| PackedBatch::new(some.iter().map(|of| of.split_at(2)), place.device);
            for config in families.iter().chain(&others) {
                let weights = Arc::new(random_model(config, 3));
                for (kind, size) in [(Kind::Float, 3), (Kind::Float, 40), (Kind::BFloat16, 3)] {
                    let whole = Decoder::frozen(&weights, place, kind);
                    let streamed = StreamedDecoder::new(&weights, place, kind);
                    let batches = || sequences.chunks(size).map(batch);
                    let read: i64 = batches().map(|batch| batch.token_count()).sum();
                    assert!(read > streamed.tokens_at_once(), "the layers are read more than once");
                    let of = |decoder: ScoringDecoder| {
                        decoder.hidden(batches()).iter().map(to_vec).collect::<Vec<Vec<f32>>>()
                    };
                    let [expected, found] =
                        [of(ScoringDecoder::Held(&whole)), of(ScoringDecoder::Streamed(&streamed))];
                    assert_eq!(found, expected, "{place:?}, {config:?}, {kind:?}, {size} at a time");
                }
            }
        }
    }
}
