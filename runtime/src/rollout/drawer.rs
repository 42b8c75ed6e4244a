//! The next token of every row of logits.

use mopd_compiler::plan::Sampling;
use mopd_kernels::Cpu;

use super::sampler::{Draw, Scratch, draw};
use super::stop::Stop;
use crate::machine::device;
use crate::model::{ABSENT, Decoder};
use crate::random::Uniforms;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Which rows of an LM head are tokens: some are padding, and some ids may be no token's.
#[derive(Clone, Copy)]
pub(super) struct VocabularyMask<'a> {
    /// Of the matrix.
    pub(super) rows: usize,
    /// The first so many rows are the tokenizer's.
    pub(super) count: usize,
    /// Of these, the ones without a token.
    pub(super) absent: &'a [Token],
}

impl VocabularyMask<'_> {
    pub(super) fn of(decoder: &Decoder) -> VocabularyMask<'_> {
        let (rows, tokenizer) = (decoder.config.vocabulary, &*decoder.tokenizer);
        assert!(
            tokenizer.vocabulary() <= rows,
            "a model has a row for every token: that is looked at where it is read"
        );
        VocabularyMask { rows, count: tokenizer.vocabulary(), absent: tokenizer.absent() }
    }

    /// `[.., rows]`
    pub(super) fn mask(self, logits: &mut [f32]) {
        if !self.absent.is_empty() {
            for row in logits.chunks_exact_mut(self.rows) {
                self.absent.iter().for_each(|&id| row[id as usize] = ABSENT);
            }
        }
    }
}

/// A row that a token is drawn for.
pub(super) struct DrawRow<'a> {
    pub(super) uniforms: &'a mut Uniforms,
    /// Where its logits stand; rows may have the same.
    pub(super) place: usize,
    /// Its prompt, and what it has written.
    pub(super) seen: [&'a [Token]; 2],
}

/// Draws next tokens, and knows what ends a completion.
pub(super) struct Drawer<'a> {
    pub(super) decoder: &'a Decoder,
    sampling: &'a Sampling,
    pub(super) tokens: VocabularyMask<'a>,
    pub(super) stop: Stop<'a>,
    /// Tokens are drawn on the processor wherever the model is.
    cpu: Cpu,
    /// A buffer for each thread.
    scratch: Vec<Scratch>,
}

impl<'a> Drawer<'a> {
    pub(super) fn new(decoder: &'a Decoder, sampling: &'a Sampling) -> Drawer<'a> {
        let cpu = device::host();
        Drawer {
            cpu,
            decoder,
            sampling,
            tokens: VocabularyMask::of(decoder),
            stop: Stop::new(&sampling.stop, &decoder.tokenizer),
            scratch: vec![Scratch::default(); cpu.threads()],
        }
    }

    /// Bytes of a row's logits.
    pub(super) fn row_bytes(&self) -> usize {
        self.tokens.rows * size_of::<f32>()
    }

    /// The next token of every row, whose logits stand at its place; none where they are not finite.
    pub(super) fn draw(&mut self, rows: &mut [DrawRow], logits: &mut [f32]) -> Vec<Option<Draw>> {
        let Drawer { sampling, tokens, cpu, ref mut scratch, .. } = *self;
        tokens.mask(logits);
        let mut draws = vec![None; rows.len()];
        let mut rows: Vec<_> = zip_equal(rows, &mut draws).collect();
        let logits = &*logits;
        cpu.for_each(&mut rows, scratch, |_, (row, drawn), scratch| {
            let logits = &logits[row.place * tokens.rows..][..tokens.count];
            **drawn = draw(logits, sampling, row.seen, row.uniforms, scratch);
        });
        draws
    }
}
