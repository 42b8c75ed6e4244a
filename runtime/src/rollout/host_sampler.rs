//! Samples the next token of every row of logits on the host; [`super::tensor_sampler`] does on the device.

use mopd_kernels::Cpu;
use mopd_plan::Sampling;

use super::Author;
use super::guided::{self, GuidanceStep, GuidedScratch};
use super::sampler::{SampledToken, draw};
use super::speculative::DraftVerdict;
use crate::machine::place;
use crate::model::{ABSENT, Decoder};
use crate::random::Uniforms;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Which rows of an LM head are tokens: some rows are padding, and some ids have no token.
#[derive(Clone, Copy)]
pub(super) struct VocabularyMask<'a> {
    /// Rows of the LM head.
    pub(super) rows: usize,
    /// The first `count` rows are the tokenizer's ids.
    pub(super) count: usize,
    /// Ids below `count` that have no token.
    pub(super) absent: &'a [Token],
}

impl VocabularyMask<'_> {
    pub(super) fn new(decoder: &Decoder) -> VocabularyMask<'_> {
        let (rows, tokenizer) = (decoder.config.vocabulary, &*decoder.tokenizer);
        assert!(
            tokenizer.vocabulary() <= rows,
            "a model has a row for every token: that is looked at where it is read"
        );
        VocabularyMask { rows, count: tokenizer.vocabulary(), absent: tokenizer.absent() }
    }

    /// The tokenizer's logits in row `place`.
    fn of_row(self, logits: &[f32], place: usize) -> &[f32] {
        &logits[place * self.rows..][..self.count]
    }

    /// Masks the logits, `[.., rows]`, of absent ids.
    pub(super) fn mask(self, logits: &mut [f32]) {
        if !self.absent.is_empty() {
            for row in logits.chunks_exact_mut(self.rows) {
                self.absent.iter().for_each(|&id| row[id as usize] = ABSENT);
            }
        }
    }
}

/// A row to sample a token for.
pub(super) struct DrawRow<'a> {
    pub(super) sampling: &'a Sampling,
    pub(super) uniforms: &'a mut Uniforms,
    /// Row of its logits; several rows may share one.
    pub(super) place: usize,
    /// Its prompt, and its completion so far.
    pub(super) seen: [&'a [Token]; 2],
    /// The verdicts on its completion so far.
    pub(super) verdicts: &'a [DraftVerdict],
}

/// Samples next tokens on the host, for models on any device.
pub(super) struct HostSampler<'a> {
    tokens: VocabularyMask<'a>,
    /// The guide's vocabulary and its influence on each token.
    guide: Option<(VocabularyMask<'a>, GuidanceStep)>,
    cpu: Cpu,
    /// A buffer for each thread.
    scratch: Vec<GuidedScratch>,
}

impl<'a> HostSampler<'a> {
    pub(super) fn new(author: Author<'a>) -> HostSampler<'a> {
        let cpu = place::host();
        HostSampler {
            cpu,
            tokens: VocabularyMask::new(author.model),
            guide: author.guide.map(|guide| (VocabularyMask::new(guide.model), guide.guidance)),
            scratch: vec![GuidedScratch::default(); cpu.threads()],
        }
    }

    /// Bytes of one row's logits, those of the guide included.
    pub(super) fn row_bytes(&self) -> usize {
        let guide = self.guide.map_or(0, |(tokens, _)| tokens.rows);
        (self.tokens.rows + guide) * size_of::<f32>()
    }

    /// Samples the next token of every row, from its logits and the guide's; `None` where they aren't finite.
    pub(super) fn draw(
        &mut self,
        rows: &mut [DrawRow],
        logits: &mut [f32],
        guide: Option<&mut [f32]>,
    ) -> Vec<Option<SampledToken>> {
        let HostSampler { tokens, cpu, ref mut scratch, .. } = *self;
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
                    guided::draw(logits, guidance, row, scratch)
                }
            };
        });
        draws
    }
}
