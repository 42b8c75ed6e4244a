//! Activations that generation saved, in place of training's forward pass over the same tokens.
//!
//! Generation reads each token of the student's own completions, so the gradient can be computed from the
//! activations of that pass. Generation and training compute the same up to rounding (`book/src/devices.md`),
//! so this is the gradient of the policy that sampled.

use std::collections::HashMap;

use half::bf16;
use mopd_kernels::decode::saved::{Saved, SavedPass, SavedToken, SavedWidths, gather, release};
use mopd_kernels::tensor::Element;
use mopd_kernels::{Cpu, Scalar};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::{Graph, LayerActivations, SavedActivations, SavedLayer, Tape};
use crate::model::decoder::Decoder;
use crate::model::loops::{numbers, numbers_mut};
use crate::model::packed_batch::PackedBatch;
use crate::model::step::shape;
use crate::model::{gated, packed_attention};
use crate::tokenizer::Token;

/// Activations of all tokens that a generator has read since saving began.
pub struct GeneratedActivations {
    /// How many of the first layers are recomputed in the backward pass, as in [`Decoder::trace`].
    recomputed: usize,
    passes: Vec<SavedPass>,
    /// Where the tokens of the last read are saved, in their order.
    just_read: Vec<SavedToken>,
    /// By the tokens that a sequence has read, from its first on: where the activations of each are.
    sequences: HashMap<Vec<Token>, Vec<SavedToken>>,
}

impl GeneratedActivations {
    /// No activations yet. Of the first `recomputed` layers, only the inputs will be saved.
    pub fn new(recomputed: usize) -> GeneratedActivations {
        let (passes, just_read, sequences) = (Vec::new(), Vec::new(), HashMap::new());
        GeneratedActivations { recomputed, passes, just_read, sequences }
    }

    /// Begins a read: [`GeneratedActivations::just_read`] starts empty.
    pub(in crate::model) fn begin(&mut self) {
        self.just_read.clear();
    }

    /// Space for the activations of a pass over `tokens` tokens.
    pub(in crate::model) fn pass(&mut self, decoder: &Decoder, tokens: usize) -> &mut SavedPass {
        let has_head_norm = decoder.config.query_key_norm;
        let widths = SavedWidths::new(&shape(decoder), has_head_norm);
        let pass = self.passes.len() as u32;
        self.just_read.extend((0..tokens as u32).map(|token| SavedToken { pass, token }));
        let (layers, is_bf16) = (decoder.config.layers, decoder.kind() == Kind::BFloat16);
        self.passes.push(SavedPass::new(tokens, layers, self.recomputed, widths, is_bf16));
        self.passes.last_mut().expect("it was pushed")
    }

    /// Where the tokens of the last read are saved, in their order.
    pub fn just_read(&self) -> &[SavedToken] {
        &self.just_read
    }

    /// Records that a sequence has read the tokens `read`, and where each is saved.
    pub fn insert(&mut self, read: Vec<Token>, tokens: Vec<SavedToken>) {
        assert_eq!(read.len(), tokens.len(), "activations of each token that was read");
        self.sequences.insert(read, tokens);
    }

    /// The activations that [`Decoder::trace`] would save for the batch, up to rounding. `None` where one of
    /// its sequences was not generated.
    pub fn into_trace(self, decoder: &Decoder, batch: &PackedBatch) -> Option<SavedActivations> {
        let cpu = decoder.place.loops()?;
        let list = |tensor: &Tensor| Vec::<i64>::try_from(tensor).expect("a list of integers");
        let read = list(&batch.tokens);
        let mut tokens = Vec::with_capacity(read.len());
        for sequence in &batch.sequences {
            tokens.extend_from_slice(self.sequences.get(&read[sequence.clone()])?);
        }
        let predictors = list(&batch.predictors).iter().map(|place| tokens[*place as usize]).collect();
        let kind = decoder.kind();
        let GeneratedActivations { recomputed, passes, .. } = self;
        Some(Gathering { cpu, kind, recomputed, passes, tokens, predictors }.trace(decoder, batch))
    }
}

/// The gathering of activations for the tokens of a batch.
struct Gathering {
    cpu: Cpu,
    kind: Kind,
    recomputed: usize,
    passes: Vec<SavedPass>,
    /// All tokens, in the order of the batch; and those that predict a completion token.
    tokens: Vec<SavedToken>,
    predictors: Vec<SavedToken>,
}

impl Gathering {
    fn trace(mut self, decoder: &Decoder, batch: &PackedBatch) -> SavedActivations {
        let count = decoder.layers.len();
        let layers = (0..count).map(|index| self.layer(decoder, index)).collect();
        let stream = self.gather(count, Saved::Stream, &self.predictors);
        let last = Graph::new(&stream, |stream| decoder.normalise_last(stream));
        SavedActivations { hidden: last.output.detach(), context: decoder.context(batch), layers, last }
    }

    /// Gathers a layer and frees its saved activations: only one layer at a time is in memory twice.
    fn layer(&mut self, decoder: &Decoder, index: usize) -> SavedLayer {
        let stream = self.gather(index, Saved::Stream, &self.tokens);
        let layer = if index < self.recomputed {
            SavedLayer::Recomputed(stream)
        } else {
            SavedLayer::Kept(self.whole(decoder, index, stream))
        };
        release(&mut self.passes, index);
        layer
    }

    fn whole(&self, decoder: &Decoder, index: usize, stream: Tensor) -> LayerActivations {
        let all = |saved| self.gather(index, saved, &self.tokens);
        // The last layer computes only the positions that predict a completion token.
        let answered = if index + 1 == decoder.layers.len() { &self.predictors } else { &self.tokens };
        let has_head_norm = decoder.config.query_key_norm;
        LayerActivations {
            stream,
            attention: Tape::Own(packed_attention::SavedForBackward {
                read: has_head_norm.then(|| all(Saved::BeforeNorm)),
                projected: all(Saved::Projected),
                attended: all(Saved::Attended),
            }),
            middle: self.gather(index, Saved::Middle, answered),
            feed_forward: Tape::Own(gated::SavedForBackward(self.gather(index, Saved::GateUp, answered))),
        }
    }

    /// `[tokens, width]`
    fn gather(&self, layer: usize, saved: Saved, tokens: &[SavedToken]) -> Tensor {
        match self.kind {
            Kind::BFloat16 => self.gathered::<bf16>(layer, saved, tokens),
            _ => self.gathered::<f32>(layer, saved, tokens),
        }
    }

    fn gathered<T: Scalar + Element + Send + Sync>(
        &self,
        layer: usize,
        saved: Saved,
        tokens: &[SavedToken],
    ) -> Tensor {
        let width = self.passes.first().map_or(0, |pass| pass.width(layer, saved));
        let mut rows = Tensor::empty([tokens.len() as i64, width as i64], (self.kind, Device::Cpu));
        gather::<T>(self.cpu, &self.passes, layer, saved, tokens, &mut numbers_mut(&mut rows));
        rows
    }
}

impl SavedActivations {
    /// Saves the activations of prompts that a generator read by a forward pass of training.
    pub(in crate::model) fn save(&self, pass: &mut SavedPass) {
        let _guard = no_grad_guard();
        let predictors: Vec<i64> = Vec::try_from(&self.context.batch.predictors).expect("a list of integers");
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            let SavedLayer::Kept(LayerActivations { stream, attention, middle, feed_forward }) = layer else {
                unreachable!("nothing is run again")
            };
            let (Tape::Own(attention), Tape::Own(unit)) = (attention, feed_forward) else {
                unreachable!("a decoder whose activations are saved runs in loops")
            };
            let packed_attention::SavedForBackward { read, projected, attended } = attention;
            write(pass, index, Saved::Stream, stream, None);
            if let Some(read) = read {
                write(pass, index, Saved::BeforeNorm, read, None);
            }
            write(pass, index, Saved::Projected, projected, None);
            write(pass, index, Saved::Attended, attended, None);
            let answered = (index == last).then_some(predictors.as_slice());
            write(pass, index, Saved::Middle, middle, answered);
            write(pass, index, Saved::GateUp, &unit.0, answered);
        }
        write(pass, last + 1, Saved::Stream, &self.last.input, Some(&predictors));
    }

    /// The stream after the last layer, `[predictors, width]`.
    pub(in crate::model) fn last_stream(&self) -> Tensor {
        self.last.input.detach()
    }

    /// Keys and values of each layer, `[tokens, groups, head width]` each, where our own loops ran.
    pub(in crate::model) fn keys_values(&self, decoder: &Decoder) -> impl Iterator<Item = [Tensor; 2]> {
        self.layers.iter().map(|layer| match layer {
            SavedLayer::Kept(LayerActivations { attention: Tape::Own(attention), .. }) => {
                attention.keys_values(&decoder.config)
            }
            _ => unreachable!("a decoder whose activations are saved runs in loops"),
        })
    }
}

/// Writes the rows of a tensor to all tokens of a pass, or to some, if the layer saves them.
fn write(pass: &mut SavedPass, layer: usize, saved: Saved, rows: &Tensor, tokens: Option<&[i64]>) {
    match rows.kind() {
        Kind::BFloat16 => write_numbers::<bf16>(pass, layer, saved, rows, tokens),
        _ => write_numbers::<f32>(pass, layer, saved, rows, tokens),
    }
}

fn write_numbers<T: Scalar + Element>(
    pass: &mut SavedPass,
    layer: usize,
    saved: Saved,
    rows: &Tensor,
    tokens: Option<&[i64]>,
) {
    let rows = rows.detach().contiguous();
    let rows = numbers::<T>(&rows);
    let width = pass.width(layer, saved);
    if width == 0 {
        return;
    }
    let to = pass.part_mut::<T>(layer, saved);
    let Some(tokens) = tokens else { return to.copy_from_slice(&rows) };
    assert_eq!(rows.len(), tokens.len() * width, "a row for each token");
    for (token, row) in tokens.iter().zip(rows.chunks_exact(width)) {
        let first = *token as usize * width;
        to[first..first + width].copy_from_slice(row);
    }
}
