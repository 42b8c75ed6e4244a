//! What a flight knows of a completion that is being written.

use mopd_kernels::decode::saved::SavedToken;
use mopd_kernels::pages::{PAGE, PagedSequence, pages_of};

use super::RequestId;
use crate::random::Uniforms;

/// A prompt that was read, as a row's fields have it.
pub(super) struct ReadPrompt {
    pub sequence: PagedSequence,
    pub guide: Option<PagedSequence>,
    pub saved: Vec<SavedToken>,
}

/// A completion that is being written, or waits for memory.
pub(super) struct FlyingRow {
    pub request: RequestId,
    /// Index into the request's completions.
    pub index: usize,
    pub uniforms: Uniforms,
    /// Its prompt, and what follows; the same where a guide reads it.
    pub sequence: PagedSequence,
    pub guide: Option<PagedSequence>,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens of its completion at most.
    pub most: usize,
    /// Tokens of its completion that the sequence has.
    pub fed: usize,
    /// Where activations of each token of the sequence are, where they are saved.
    pub saved: Vec<SavedToken>,
}

impl FlyingRow {
    /// Pages that it does not share with other samples of its prompt, once its completion has so many tokens.
    /// The last token is never read.
    pub fn pages(&self, tokens: usize) -> usize {
        pages_of(self.prompt + tokens.clamp(1, self.most) - 1) - self.prompt / PAGE
    }

    pub fn pages_now(&self) -> usize {
        self.sequence.pages_beyond(self.prompt / PAGE)
    }
}
