//! Generation on the processor, with keys and values in pages: rows come, go on and leave one by one.

use half::bf16;
use tch::{Kind, Tensor, no_grad_guard};

use super::Config;
use super::decoder::Decoder;
use super::packed_batch::PackedBatch;
use super::rope::Rotaries;
use super::saved_activations::GeneratedActivations;
use crate::machine::transfer::to_vec;
use crate::tokenizer::Token;
use mopd_kernels::decode;
use mopd_kernels::pages::{PageLayout, PagedSequence, Pages};
use mopd_kernels::tensor::view;

/// How keys and values of a model lie in a page.
pub fn page_layout(config: &Config, kind: Kind) -> PageLayout {
    PageLayout::new(config.layers, config.key_value_heads, config.head_width, kind.elt_size_in_bytes())
}

/// Tokens of prompts, fewer than which are read as rows: more of them keep the products of tensors busy, and
/// attention to many tokens is made for those.
const FEW: usize = 512;

/// Rows that pass together at most: many enough that reading the weights takes no time, few enough that what
/// is between products stays in the cache.
const ROWS: usize = 256;

/// What a row's next token is does not depend on the rows beside it, to the bit: see
/// [`mopd_kernels::gemv`]. It does depend on the prompts that [`PagedGenerator::read`] read together with its
/// own, in the last bits.
pub struct PagedGenerator<'a> {
    decoder: &'a Decoder,
    /// Tokens of a sequence at most.
    longest: usize,
    pages: Pages,
    stepper: decode::StepDecoder,
    logits: Vec<f32>,
    /// Where activations of all that it reads are saved, if they are.
    activations: Option<&'a mut GeneratedActivations>,
}

impl<'a> PagedGenerator<'a> {
    /// For sequences of so many tokens at most. None where the decoder is elsewhere, or of numbers that steps
    /// are not written for.
    pub fn new(decoder: &'a Decoder, longest: usize) -> Option<PagedGenerator<'a>> {
        let stepper = stepper(decoder, longest)?;
        let pages = Pages::new(page_layout(&decoder.config, decoder.kind()));
        Some(PagedGenerator { decoder, longest, pages, stepper, logits: Vec::new(), activations: None })
    }

    /// Sequences may have so many tokens from now on; it changes no number.
    pub fn reserve(&mut self, longest: usize) {
        if longest > self.longest {
            self.stepper = stepper(self.decoder, longest).expect("there was one for shorter sequences");
            self.longest = longest;
        }
    }

    /// Saves activations of all that it reads from now on.
    ///
    /// # Panics
    /// Where the decoder is not one that [`Decoder::saves_activations`].
    pub fn save(&mut self, activations: &'a mut GeneratedActivations) {
        assert!(self.decoder.saves_activations(), "generation does not know all that training saves");
        self.activations = Some(activations);
    }

    /// What it saves, where it does.
    pub fn activations(&mut self) -> Option<&mut GeneratedActivations> {
        self.activations.as_deref_mut()
    }

    /// Its memory.
    pub fn pages(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Reads prompts, of one token each at least; then [`PagedGenerator::logits`] are of what follows each.
    pub fn read(&mut self, prompts: &[&[Token]]) -> Vec<PagedSequence> {
        let _guard = no_grad_guard();
        let (decoder, config) = (self.decoder, &*self.decoder.config);
        let sequences: Vec<PagedSequence> =
            prompts.iter().map(|prompt| self.pages.sequence(prompt.len())).collect();
        // Only what follows a prompt is predicted; which token that is does not matter.
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

    /// Whether prompts of so many tokens together are read as steps read tokens, by
    /// [`PagedGenerator::read_rows`].
    pub fn reads_rows(&self, tokens: usize) -> bool {
        // An expert's matrices are read for each row anew: many rows are what steps of experts are not
        // written for. In half precision, a prompt's numbers are rounded between products as the trainer
        // rounds them; a step's are not.
        tokens < FEW && self.decoder.config.experts.is_none() && self.decoder.kind() == Kind::Float
    }

    /// The same as [`PagedGenerator::read`], but what a prompt answers does not depend on those that are read
    /// with it, to the bit: each of its tokens passes as a row of a step does.
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

    /// Appends a token to each of these rows; then [`PagedGenerator::logits`] are of what follows.
    pub fn step<'s>(&mut self, rows: impl Iterator<Item = &'s mut PagedSequence>, tokens: &[Token]) {
        let mut rows: Vec<&mut PagedSequence> = rows.collect();
        rows.iter_mut().for_each(|row| self.pages.grow(row));
        let saved = self.activations.as_mut().map(|activations| {
            activations.begin();
            activations.pass(self.decoder, tokens.len())
        });
        self.stepper.step(tokens, &mut self.pages, rows, &mut self.logits, saved);
    }

    /// `[rows, vocabulary]`: of the prompts that were just read, or of the rows that just went on. To be
    /// changed before they are read.
    pub fn logits(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

/// Keys and values of a layer, `[tokens, groups, head width]` each, into a sequence's pages.
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
