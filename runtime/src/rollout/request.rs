//! Completions that are asked for together.

use std::ops::Range;

use mopd_compiler::plan::Sampling;
use serde::{Deserialize, Serialize};

use super::{Completion, Prompt, READ, ROWS, units};
use crate::random::Key;
use crate::tokenizer::Token;

/// Prompts and how their completions are drawn. Their numbers depend on nothing else: which prompts are read
/// together follows from these alone.
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

    /// Completions of each prompt.
    pub fn n(&self) -> usize {
        self.sampling.n.max(1) as usize
    }

    /// Largest length of each completion with its prompt, in tokens.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let longest =
            |prompt: &OwnedPrompt| prompt.tokens.len() + self.sampling.max_tokens(prompt.limit) as usize;
        self.prompts.iter().flat_map(move |prompt| std::iter::repeat_n(longest(prompt), self.n()))
    }
}

/// A request of which some completions are written.
pub(super) struct OpenRollout {
    pub(super) request: RolloutRequest,
    /// Those of a prompt adjacent.
    pub(super) completions: Vec<Completion>,
    /// The prompts, by length.
    order: Vec<usize>,
    /// Ranges of these that are read together and that nobody has read.
    unread: std::vec::IntoIter<Range<usize>>,
    /// When some were read last; 0 before.
    pub(super) turn: u64,
    /// Completions that ended, and their tokens.
    ended: (usize, usize),
}

impl OpenRollout {
    pub(super) fn new(request: RolloutRequest) -> OpenRollout {
        let (n, lengths) = (request.n(), request.prompts.iter().map(|prompt| prompt.tokens.len()));
        let (order, units) = units(lengths, n, ROWS, READ);
        let completions = vec![Completion::default(); request.prompts.len() * n];
        OpenRollout { request, completions, order, unread: units.into_iter(), turn: 0, ended: (0, 0) }
    }

    /// The prompts that are read together next.
    pub(super) fn next_unit(&self) -> Option<&[usize]> {
        self.unread.as_slice().first().map(|unit| &self.order[unit.clone()])
    }

    /// They were read, in this turn.
    pub(super) fn unit_is_read(&mut self, turn: u64) {
        self.unread.next();
        self.turn = turn;
    }

    /// Tokens of a completion, as far as can be known: what others had, and half as many again.
    pub(super) fn expected(&self) -> usize {
        match self.ended {
            (0, _) => self.request.sampling.max_tokens as usize / 4,
            (rows, tokens) => (tokens + tokens / 2).div_ceil(rows),
        }
    }

    /// What a row has read that was fed so many tokens of its completion.
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
