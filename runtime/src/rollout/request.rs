//! Requests for completions.

use std::ops::Range;

use mopd_plan::Sampling;
use serde::{Deserialize, Serialize};

use super::{Completion, Prompt, READ, ROWS, units};
use crate::random::Key;
use crate::tokenizer::Token;

/// Prompts and how their completions are sampled. On the CPU, results depend on nothing else: the grouping of
/// prompts for prefill, too, follows from the request alone.
#[derive(Clone, Debug)]
pub struct RolloutRequest {
    pub prompts: Vec<OwnedPrompt>,
    pub sampling: Sampling,
    pub key: Key,
}

/// A [`Prompt`] with its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnedPrompt {
    pub tokens: Vec<Token>,
    pub id: u32,
    pub sample: u32,
    pub limit: Option<u32>,
}

impl From<&Prompt<'_>> for OwnedPrompt {
    fn from(prompt: &Prompt) -> OwnedPrompt {
        let Prompt { tokens, id, sample, limit } = *prompt;
        OwnedPrompt { tokens: tokens.to_vec(), id, sample, limit }
    }
}

impl OwnedPrompt {
    pub fn borrowed(&self) -> Prompt<'_> {
        let OwnedPrompt { tokens, id, sample, limit } = self;
        Prompt { tokens, id: *id, sample: *sample, limit: *limit }
    }
}

impl RolloutRequest {
    pub fn new(prompts: &[Prompt], sampling: &Sampling, key: Key) -> RolloutRequest {
        RolloutRequest { prompts: prompts.iter().map(Into::into).collect(), sampling: sampling.clone(), key }
    }

    /// Number of completions per prompt.
    pub fn n(&self) -> usize {
        self.sampling.n.max(1) as usize
    }

    /// For each completion, the largest length of prompt and completion together, in tokens.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let longest =
            |prompt: &OwnedPrompt| prompt.tokens.len() + self.sampling.max_tokens(prompt.limit) as usize;
        self.prompts.iter().flat_map(move |prompt| std::iter::repeat_n(longest(prompt), self.n()))
    }
}

/// A request in progress.
pub(super) struct OpenRollout {
    pub(super) request: RolloutRequest,
    /// Those of a prompt are adjacent.
    pub(super) completions: Vec<Completion>,
    /// Indices of the prompts, sorted by length.
    order: Vec<usize>,
    /// Ranges of `order` that are prefilled together and have not been yet.
    unread: std::vec::IntoIter<Range<usize>>,
    /// The flight's turn in which a unit of this request was last prefilled; 0 before the first.
    pub(super) turn: u64,
    /// Number of completions that ended, and of their tokens in total.
    ended: (usize, usize),
}

impl OpenRollout {
    pub(super) fn new(request: RolloutRequest) -> OpenRollout {
        let (n, lengths) = (request.n(), request.prompts.iter().map(|prompt| prompt.tokens.len()));
        let (order, units) = units(lengths, n, ROWS, READ);
        let completions = vec![Completion::default(); request.prompts.len() * n];
        OpenRollout { request, completions, order, unread: units.into_iter(), turn: 0, ended: (0, 0) }
    }

    /// The prompts of the next unit.
    pub(super) fn next_unit(&self) -> Option<&[usize]> {
        self.unread.as_slice().first().map(|unit| &self.order[unit.clone()])
    }

    /// Marks the next unit as prefilled, in turn `turn`.
    pub(super) fn unit_is_read(&mut self, turn: u64) {
        self.unread.next();
        self.turn = turn;
    }

    /// Expected tokens of a completion: 1.5 times the mean of those that ended.
    pub(super) fn expected(&self) -> usize {
        match self.ended {
            (0, _) => self.request.sampling.max_tokens as usize / 4,
            (rows, tokens) => (tokens + tokens / 2).div_ceil(rows),
        }
    }

    /// The tokens that row `index` has read: its prompt and the first `fed` tokens of its completion.
    pub(super) fn read(&self, index: usize, fed: usize) -> Vec<Token> {
        let prompt = &self.request.prompts[index / self.request.n()].tokens;
        prompt.iter().chain(&self.completions[index].tokens[..fed]).copied().collect()
    }

    pub(super) fn end(&mut self, index: usize) {
        self.ended = (self.ended.0 + 1, self.ended.1 + self.completions[index].tokens.len());
    }

    pub(super) fn is_done(&self) -> bool {
        self.ended.0 == self.completions.len()
    }
}
