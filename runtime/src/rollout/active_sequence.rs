//! The state of a completion that is being generated in a [`ContinuousBatch`](super::ContinuousBatch).

use mopd_kernels::decode::saved::SavedToken;
use mopd_kernels::pages::{PAGE, PagedSequence, pages_of};

use super::RequestId;
use crate::random::Uniforms;

/// A prefilled prompt; the fields mean what those of [`ActiveSequence`] mean.
pub(super) struct PrefilledPrompt {
    pub sequence: PagedSequence,
    pub guide: Option<PagedSequence>,
    pub saved: Vec<SavedToken>,
}

/// A completion that is being generated, or waits for memory.
pub(super) struct ActiveSequence {
    pub request: RequestId,
    /// Index into the request's completions.
    pub index: usize,
    pub uniforms: Uniforms,
    /// Keys and values of its prompt and completion; `guide` has those of the guide.
    pub sequence: PagedSequence,
    pub guide: Option<PagedSequence>,
    /// Number of tokens of its prompt.
    pub prompt: usize,
    /// Most tokens of its completion.
    pub most: usize,
    /// Number of tokens of its completion that are in `sequence`.
    pub fed: usize,
    /// The saved activations of each token of the sequence; empty where none are saved.
    pub saved: Vec<SavedToken>,
}

impl ActiveSequence {
    /// Pages that it does not share with other samples of its prompt, once its completion has `tokens`
    /// tokens. The last token of a completion is never fed to the model.
    pub fn pages(&self, tokens: usize) -> usize {
        pages_of(self.prompt + tokens.clamp(1, self.most) - 1) - self.prompt / PAGE
    }

    pub fn pages_now(&self) -> usize {
        self.sequence.pages_beyond(self.prompt / PAGE)
    }
}
