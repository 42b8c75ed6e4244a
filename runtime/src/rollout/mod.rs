//! Completions sampled from a model.

mod active_sequence;
pub mod confidence;
mod continuous;
mod debate;
mod guided;
mod host_sampler;
mod in_step;
mod paired;
#[cfg(test)]
mod precision;
mod prefetch;
mod request;
mod sampler;
mod segments;
mod sequence;
mod speculative;
mod stop;
mod tensor_sampler;

use std::ops::Range;

use mopd_kernels::pages::{PAGE, pages_of};
use mopd_plan::Sampling;
use mopd_plan::events::FailureKind;
use tch::Kind;

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Config, Decoder, FastPath, GeneratedActivations, page_layout};
use crate::random::{Key, Uniforms};
use crate::tokenizer::Token;

pub use continuous::{ContinuousBatch, RequestId};
pub use debate::{Debate, TurnSummary};
pub use guided::GuidanceStep;
pub use request::{OwnedPrompt, RolloutRequest};
pub use segments::{Sampled, SegmentedTokens};
pub use sequence::{Extra, Sequence};
pub use speculative::{DraftCounts, DraftVerdict, RejectedTail, Speculation, Verification, speculative};

use host_sampler::HostSampler;
use sampler::SampledToken;
use stop::Stop;

/// The tokens that a model generated after a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// At least one. Unless the completion was cut off, the last one is an end token or completes one of
    /// the stop texts.
    pub tokens: Vec<Token>,
    /// Log-probability of each token under the distribution it was drawn from.
    pub logps: Vec<f32>,
    /// The origin of each token, if completions were drafted and verified; else empty.
    pub verdicts: Vec<DraftVerdict>,
    /// Which head predicted each token, where a step draws up to two tokens; else empty.
    pub heads: Vec<u8>,
    /// Whether it was cut off at `max_tokens`, or at the limit of its domain.
    pub truncated: bool,
}

/// The model that generates, and an optional second model that helps to choose each token.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    pub model: &'a Decoder,
    pub guide: Option<Guide<'a>>,
}

#[derive(Clone, Copy)]
pub struct Guide<'a> {
    pub model: &'a Decoder,
    pub guidance: GuidanceStep,
}

impl<'a> From<&'a Decoder> for Author<'a> {
    fn from(model: &'a Decoder) -> Author<'a> {
        Author { model, guide: None }
    }
}

/// A callback that sees the completions while they are generated.
pub type CompletionObserver<'a> = &'a mut dyn FnMut(&[Completion]) -> Result<()>;

/// A prompt and the `id` that keys its random draws.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    pub tokens: &'a [Token],
    pub id: u32,
    /// Index of its first completion among all samples of the prompt.
    pub sample: u32,
    /// Most tokens of its completions, where they are bounded more tightly than by `max_tokens`.
    pub limit: Option<u32>,
}

impl Prompt<'_> {
    /// The random numbers of its completion `sample`, counted from 0 in this call.
    fn uniforms(&self, key: Key, sample: usize) -> Uniforms {
        key.row(self.id, self.sample + sample as u32)
    }
}

/// Most rows in flight: enough to keep a core busy, few enough that their keys and values fit in its caches.
const ROWS: usize = 256;

/// Tokens of prompts per prefill on the CPU: see [`crate::machine::place::Sizes::read`].
const READ: usize = Place::cpu().sizes.read;

/// Bytes that keys, values and logits of the rows in flight may take. A row that alone needs more than this
/// gets what it needs. On the CPU no result depends on the budget; on a GPU, last bits depend on how many
/// rows advance together (`in_step.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget(pub usize);

/// Upper bound on the bytes that [`rollout`] holds on the CPU, for prompts of `lengths` tokens each: keys and
/// values of the rows in flight, their logits, and activations during prefill.
pub fn memory(
    config: &Config,
    kind: Kind,
    lengths: impl Iterator<Item = usize>,
    sampling: &Sampling,
    budget: MemoryBudget,
) -> usize {
    let (layout, n) = (page_layout(config, kind), sampling.n.max(1) as usize);
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    let Some(&longest) = lengths.first() else { return 0 };
    if sampling.accept.is_some() {
        // Rows in lockstep, each with two cache entries per step; the cache is copied when rows leave.
        let rows = ROWS.max(n).min(lengths.len() * n);
        let pages = pages_of(longest + 2 * sampling.max_tokens as usize) * rows;
        return 2 * pages * layout.bytes()
            + rows * config.vocabulary * size_of::<f32>()
            + reading(config, READ);
    }
    if !config.runs_on(FastPath::DecodingLoops) {
        let tokens = longest + sampling.max_tokens as usize;
        let read = lengths.iter().sum::<usize>().min(READ).max(longest);
        let prompts = lengths.len().min(ROWS);
        return in_step::memory(config, kind, tokens, lengths.len() * n, budget)
            + reading(config, read)
            + config.gated_delta.as_ref().map_or(0, |delta| delta.bytes_to_read(prompts, read));
    }
    let most = (sampling.max_tokens as usize).max(1) - 1;
    // Pages of one sample that it does not share with the other samples of its prompt.
    let own = |length: usize| pages_of(length + most) - length / PAGE;
    let rows = ROWS.max(n).min(lengths.len() * n);
    let flying = &lengths[..rows.div_ceil(n).min(lengths.len())];
    let pages: usize = flying.iter().map(|&length| length / PAGE + n * own(length)).sum();
    // Prompts that were prefilled and wait, in addition to those in flight.
    let read = lengths.iter().sum::<usize>().min(READ).max(longest);
    let read_pages = pages_of(read) + ROWS.min(lengths.len());
    let waiting = if lengths.len() > flying.len() { read_pages } else { 0 };
    let row = config.vocabulary * size_of::<f32>();
    let least = (pages_of(longest + most) + read_pages) * layout.bytes() + row;
    ((pages + waiting) * layout.bytes() + rows * row).min(budget.0.max(least)) + reading(config, read)
}

/// Approximate bytes of activations while `tokens` tokens of prompts are prefilled together.
fn reading(config: &Config, tokens: usize) -> usize {
    let inner = config
        .experts
        .as_ref()
        .map_or(config.intermediate_size, |experts| experts.intermediate_size * experts.per_token);
    let token =
        4 * config.width + 3 * inner + (2 * config.heads + 2 * config.key_value_heads) * config.head_dim;
    tokens * token * size_of::<f32>()
}

/// Samples `sampling.n` completions of every prompt; those of a prompt are adjacent. Random draws depend on
/// `key`, prompt id and sample only. `control` is checked at every token, since completions may be long.
pub fn rollout<'a>(
    author: impl Into<Author<'a>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
) -> Result<Vec<Completion>> {
    rollout_watched(author, prompts, sampling, key, budget, control, &mut |_| Ok(()))
}

/// As [`rollout`], without a guide. Where the model [can](Decoder::saves_activations), it also saves the
/// activations that training needs while it reads the tokens.
pub fn rollout_saving(
    model: &Decoder,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
    activations: &mut GeneratedActivations,
) -> Result<Vec<Completion>> {
    let activations = model.saves_activations().then_some(activations);
    let request = RolloutRequest::new(prompts, sampling, key);
    written(model.into(), request, budget, activations, control, &mut |_| Ok(()))
}

/// As [`rollout`]; after every token, `watch` sees all completions so far. It is not called where
/// `sampling.accept` draws two tokens in a step.
pub fn rollout_watched<'a>(
    author: impl Into<Author<'a>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
    watch: CompletionObserver,
) -> Result<Vec<Completion>> {
    written(author.into(), RolloutRequest::new(prompts, sampling, key), budget, None, control, watch)
}

fn written(
    author: Author,
    request: RolloutRequest,
    budget: MemoryBudget,
    activations: Option<&mut GeneratedActivations>,
    control: &Control,
    watch: CompletionObserver,
) -> Result<Vec<Completion>> {
    if request.sampling.max_tokens == 0 {
        return Err(Error::new(
            FailureKind::Runtime,
            "`max_tokens` is 0, but a completion needs at least one token",
        ));
    }
    if request.prompts.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(accept) = request.sampling.accept {
        assert!(author.guide.is_none(), "nobody has a say in what two heads draw");
        return paired::rollout(author.model, &request, accept, control);
    }
    match ContinuousBatch::new(author, request.lengths().max().unwrap_or(1), budget) {
        Some(flight) => {
            let flight = match activations {
                Some(activations) => flight.saving(activations),
                None => flight,
            };
            flight.run(request, control, watch).map(|(completions, _)| completions)
        }
        None => in_step::rollout(author, &request, budget, control, watch),
    }
}

/// Sorts prompts by length and groups them into units that are prefilled together, which keeps padding small.
/// The result depends on the lengths alone, because the last bits of a prompt's logits depend on the prompts
/// in its unit. A unit has at most `rows` rows (`n` per prompt) and at most `read` tokens, unless a single
/// prompt has more.
fn units(
    lengths: impl Iterator<Item = usize>,
    n: usize,
    rows: usize,
    read: usize,
) -> (Vec<usize>, Vec<Range<usize>>) {
    let lengths: Vec<usize> = lengths.collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&prompt| lengths[prompt]);
    let mut units: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (place, &prompt) in order.iter().enumerate() {
        match units.last_mut() {
            Some(unit) if tokens + lengths[prompt] <= read && (unit.len() + 1) * n <= rows => {
                unit.end += 1;
                tokens += lengths[prompt];
            }
            _ => {
                units.push(place..place + 1);
                tokens = lengths[prompt];
            }
        }
    }
    (order, units)
}

/// Appends a token to a completion of at most `most` tokens. Returns whether the completion goes on.
fn append(completion: &mut Completion, draw: Option<SampledToken>, most: usize, stop: &Stop) -> Result<bool> {
    let draw = draw.ok_or_else(|| {
        Error::new(FailureKind::NonFinite, "the model's logits are not finite while sampling")
    })?;
    completion.tokens.push(draw.token);
    completion.logps.push(draw.logp as f32);
    completion.verdicts.extend(draw.verdict);
    completion.truncated = !stop.ends(&completion.tokens)?;
    Ok(completion.truncated && completion.tokens.len() < most)
}

#[cfg(test)]
mod tests;
