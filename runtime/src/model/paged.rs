//! Generation on the CPU with a paged KV cache: rows can enter and leave at every step.

use half::bf16;
use mopd_kernels::decode;
use mopd_kernels::pages::{PageLayout, PagedSequence, Pages};
use mopd_kernels::tensor::view;
use tch::{Kind, Tensor, no_grad_guard};

use super::Config;
use super::decoder::Decoder;
use super::packed_batch::PackedBatch;
use super::rope::Rotaries;
use super::saved_activations::GeneratedActivations;
use crate::machine::transfer::to_vec;
use crate::tokenizer::Token;

/// The layout of a model's keys and values in a page.
pub fn page_layout(config: &Config, kind: Kind) -> PageLayout {
    PageLayout::new(config.layers, config.key_value_heads, config.head_dim, kind.elt_size_in_bytes())
}

/// Prompts with fewer tokens in all are read as rows of a step. More tokens make efficient matrix products,
/// and the attention of the training forward pass is made for many tokens.
const FEW: usize = 512;

/// The most rows of a pass: enough to amortise reading the weights, few enough that activations stay in the
/// CPU's cache.
const ROWS: usize = 256;

/// A row's logits do not depend on the other rows of a step, to the bit: see [`mopd_kernels::gemv`]. Their
/// last bits do depend on the prompts that [`PagedGenerator::read`] read together with its own.
pub struct PagedGenerator<'a> {
    decoder: &'a Decoder,
    /// The most tokens of a sequence.
    longest: usize,
    pages: Pages,
    stepper: decode::StepDecoder,
    logits: Vec<f32>,
    /// Receives the activations of all tokens that are read, where they are saved.
    activations: Option<&'a mut GeneratedActivations>,
}

impl<'a> PagedGenerator<'a> {
    /// A generator for sequences of at most `longest` tokens. `None` where the CPU engine may not run, or
    /// does not support the decoder's kind.
    pub fn new(decoder: &'a Decoder, longest: usize) -> Option<PagedGenerator<'a>> {
        let stepper = stepper(decoder, longest)?;
        let pages = Pages::new(page_layout(&decoder.config, decoder.kind()));
        Some(PagedGenerator { decoder, longest, pages, stepper, logits: Vec::new(), activations: None })
    }

    /// Raises the most tokens of a sequence; results do not change.
    pub fn reserve(&mut self, longest: usize) {
        if longest > self.longest {
            self.stepper = stepper(self.decoder, longest).expect("there was one for shorter sequences");
            self.longest = longest;
        }
    }

    /// Saves activations of all tokens that it reads from now on.
    ///
    /// # Panics
    /// Unless [`Decoder::saves_activations`].
    pub fn save(&mut self, activations: &'a mut GeneratedActivations) {
        assert!(self.decoder.saves_activations(), "generation does not know all that training saves");
        self.activations = Some(activations);
    }

    /// The saved activations, if it saves any.
    pub fn activations(&mut self) -> Option<&mut GeneratedActivations> {
        self.activations.as_deref_mut()
    }

    /// The pages of its KV cache.
    pub fn pages(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Reads prompts of at least one token each; [`PagedGenerator::logits`] are then of the token after each.
    pub fn read(&mut self, prompts: &[&[Token]]) -> Vec<PagedSequence> {
        let _guard = no_grad_guard();
        let (decoder, config) = (self.decoder, &*self.decoder.config);
        let sequences: Vec<PagedSequence> =
            prompts.iter().map(|prompt| self.pages.sequence(prompt.len())).collect();
        // Only the position after a prompt is predicted; which token stands there does not matter.
        let next = [decoder.tokenizer.padding()];
        let batch =
            PackedBatch::new(prompts.iter().map(|prompt| (*prompt, next.as_slice())), decoder.device());
        let kind = decoder.kind();
        let mut write = |layer, keys_values: [Tensor; 2]| {
            let packed = keys_values.map(|part| part.to_kind(kind).contiguous());
            let mut first = 0;
            for sequence in &sequences {
                let part = packed.each_ref().map(|part| part.narrow(0, first, sequence.length() as i64));
                write(&mut self.pages, sequence, layer, &part);
                first += sequence.length() as i64;
            }
        };
        let last = if let Some(activations) = &mut self.activations {
            let trace = decoder.trace(&batch, 0);
            activations.begin();
            trace.save(activations.pass(decoder, prompts.iter().map(|prompt| prompt.len()).sum()));
            trace.keys_values(decoder).enumerate().for_each(|(layer, read)| write(layer, read));
            trace.last_stream()
        } else {
            let mut layer = 0;
            decoder.uncounted(|| {
                decoder.pass(&batch, |read| {
                    write(layer, read.keys_values(config, &batch));
                    layer += 1;
                })
            })
        };
        self.logits = to_vec(&decoder.project_vocabulary(&last));
        sequences
    }

    /// Whether prompts with `tokens` tokens in total are read by [`PagedGenerator::read_rows`].
    pub fn reads_rows(&self, tokens: usize) -> bool {
        // A step reads an expert's matrices again for each row, so it is slow for many rows. In half
        // precision, prompts are rounded between products as in training; steps are not.
        tokens < FEW && self.decoder.config.experts.is_none() && self.decoder.kind() == Kind::Float
    }

    /// The same as [`PagedGenerator::read`], but the results of a prompt do not depend on the other prompts,
    /// to the bit: each of its tokens is a row of a step.
    pub fn read_rows(&mut self, prompts: &[&[Token]]) -> Vec<PagedSequence> {
        let mut sequences: Vec<PagedSequence> =
            prompts.iter().map(|prompt| self.pages.sequence(prompt.len())).collect();
        let vocabulary = self.decoder.config.vocabulary;
        self.logits.resize(prompts.len() * vocabulary, 0.0);
        let tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
        // Of equal size, so that no pass reads all weights for a few rows.
        let at_once = tokens.div_ceil(tokens.div_ceil(ROWS).max(1));
        let mut rest: Vec<(&mut PagedSequence, &[Token])> =
            sequences.iter_mut().zip(prompts.iter().copied()).collect();
        let mut logits = self.logits.as_mut_slice();
        self.activations.iter_mut().for_each(|activations| activations.begin());
        let mut first = 0;
        while first < rest.len() {
            let (mut parts, mut room, mut predicted) = (Vec::new(), at_once, 0);
            for (sequence, rest) in &mut rest[first..] {
                let (now, later) = rest.split_at(rest.len().min(room));
                if now.is_empty() {
                    break;
                }
                let start = sequence.length() - rest.len();
                let predicts = later.is_empty();
                parts.push(decode::SequencePart { sequence, start, tokens: now, predicts });
                room -= now.len();
                predicted += usize::from(predicts);
                *rest = later;
            }
            first += predicted;
            let (own, others) = std::mem::take(&mut logits).split_at_mut(predicted * vocabulary);
            logits = others;
            let saved = self.activations.as_mut();
            let saved = saved.map(|activations| activations.pass(self.decoder, at_once - room));
            self.stepper.pass(parts, &mut self.pages, own, saved);
        }
        sequences
    }

    /// Appends a token to each of these rows; [`PagedGenerator::logits`] are then of the next tokens.
    pub fn step<'s>(&mut self, rows: impl Iterator<Item = &'s mut PagedSequence>, tokens: &[Token]) {
        let mut rows: Vec<&mut PagedSequence> = rows.collect();
        rows.iter_mut().for_each(|row| self.pages.grow(row));
        let saved = self.activations.as_mut().map(|activations| {
            activations.begin();
            activations.pass(self.decoder, tokens.len())
        });
        self.stepper.step(tokens, &mut self.pages, rows, &mut self.logits, saved);
    }

    /// Logits of the next tokens, `[rows, vocabulary]`: of the prompts that were just read, or of the rows of
    /// the last step. Callers may change them in place.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

/// Writes keys and values of a layer, `[tokens, groups, head width]` each, to a sequence's pages.
fn write(pages: &mut Pages, sequence: &PagedSequence, layer: usize, [keys, values]: &[Tensor; 2]) {
    const WHOLE: &str = "a contiguous part on the processor, of the decoder's kind";
    match keys.kind() {
        Kind::BFloat16 => {
            let numbers = [view::<bf16>(keys).expect(WHOLE), view::<bf16>(values).expect(WHOLE)];
            pages.write(sequence, layer, numbers.each_ref().map(|numbers| &**numbers));
        }
        _ => {
            let numbers = [view::<f32>(keys).expect(WHOLE), view::<f32>(values).expect(WHOLE)];
            pages.write(sequence, layer, numbers.each_ref().map(|numbers| &**numbers));
        }
    }
}

fn stepper(decoder: &Decoder, longest: usize) -> Option<decode::StepDecoder> {
    let cpu = decoder.place.loops()?;
    let _guard = no_grad_guard();
    let rotary = Rotaries::new(&decoder.config, longest, decoder.kind(), decoder.device());
    super::step::stepper(decoder, &rotary, cpu)
}
