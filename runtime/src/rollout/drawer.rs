//! The next token of every row of logits, on the host; [`super::tensor_sampler`] draws where they are.

use mopd_compiler::plan::Sampling;
use mopd_kernels::Cpu;

use super::Author;
use super::guided::{self, GuidanceStep, GuidedScratch};
use super::sampler::{SampledToken, draw};
use super::speculative::DraftVerdict;
use crate::machine::place;
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

    /// The logits of the tokens in a row.
    fn of_row(self, logits: &[f32], place: usize) -> &[f32] {
        &logits[place * self.rows..][..self.count]
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
    pub(super) sampling: &'a Sampling,
    pub(super) uniforms: &'a mut Uniforms,
    /// Where its logits stand; rows may have the same.
    pub(super) place: usize,
    /// Its prompt, and what it has written.
    pub(super) seen: [&'a [Token]; 2],
    /// Those on what it has written.
    pub(super) verdicts: &'a [DraftVerdict],
}

/// Draws next tokens on the host, wherever the model is.
pub(super) struct Drawer<'a> {
    tokens: VocabularyMask<'a>,
    /// Another model that has a say in each token.
    guide: Option<(VocabularyMask<'a>, GuidanceStep)>,
    cpu: Cpu,
    /// A buffer for each thread.
    scratch: Vec<GuidedScratch>,
}

impl<'a> Drawer<'a> {
    pub(super) fn new(author: Author<'a>) -> Drawer<'a> {
        let cpu = place::host();
        Drawer {
            cpu,
            tokens: VocabularyMask::of(author.model),
            guide: author.guide.map(|guide| (VocabularyMask::of(guide.model), guide.guidance)),
            scratch: vec![GuidedScratch::default(); cpu.threads()],
        }
    }

    /// Bytes of a row's logits.
    pub(super) fn row_bytes(&self) -> usize {
        let guide = self.guide.map_or(0, |(tokens, _)| tokens.rows);
        (self.tokens.rows + guide) * size_of::<f32>()
    }

    /// The next token of every row, of logits and those of a guide; none where they are not finite.
    pub(super) fn draw(
        &mut self,
        rows: &mut [DrawRow],
        logits: &mut [f32],
        guide: Option<&mut [f32]>,
    ) -> Vec<Option<SampledToken>> {
        let Drawer { tokens, cpu, ref mut scratch, .. } = *self;
        tokens.mask(logits);
        let guide = self.guide.map(|(tokens, guidance)| {
            let logits = guide.expect("a guide reads what is written");
            tokens.mask(logits);
            (tokens, guidance, &*logits)
        });
        let mut draws = vec![None; rows.len()];
        let mut rows: Vec<_> = zip_equal(rows, &mut draws).collect();
        let logits = &*logits;
        cpu.for_each(&mut rows, scratch, |_, (row, drawn), scratch| {
            let own = tokens.of_row(logits, row.place);
            **drawn = match guide {
                None => draw(own, row.sampling, row.seen, row.uniforms, &mut scratch.own),
                Some((tokens, guidance, logits)) => {
                    let logits = [own, tokens.of_row(logits, row.place)];
                    let before = (row.seen, row.verdicts);
                    guided::draw(logits, guidance, row.sampling, before, row.uniforms, scratch)
                }
            };
        });
        draws
    }
}
