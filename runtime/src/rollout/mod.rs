//! Completions sampled from a model.

mod ahead;
pub mod confidence;
mod continuous;
mod debate;
mod drawer;
mod flying_row;
mod guided;
mod in_step;
mod paired;
#[cfg(test)]
mod precision;
mod request;
mod sampler;
mod sequence;
mod speculative;
mod stop;
mod tensor_sampler;

use std::ops::Range;

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::events::FailureKind;
use tch::Kind;

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Config, Decoder, GeneratedActivations, page_layout};
use crate::random::{Key, Uniforms};
use crate::tokenizer::Token;
use mopd_kernels::pages::{PAGE, pages_of};

pub use continuous::{Flight, RequestId};
pub use debate::{Debate, Stance};
pub use guided::GuidanceStep;
pub use request::{OwnedPrompt, RolloutRequest};
pub use sequence::{Sequence, Speculation};
pub use speculative::{DraftCounts, DraftVerdict, Rejected, Verification, speculative};

use drawer::Drawer;
use sampler::SampledToken;
use stop::Stop;

/// What a model wrote after a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// At least one; the last one is an end token, or that in which a text that ends completions is
    /// complete, unless the completion was cut off.
    pub tokens: Vec<Token>,
    /// Log-probability of each token under the distribution it was drawn from.
    pub logps: Vec<f32>,
    /// Where each token comes from, if it was drafted and verified.
    pub verdicts: Vec<DraftVerdict>,
    /// Which head wrote each token, where two tokens are drawn in a step.
    pub heads: Vec<u8>,
    /// Cut off at `max_tokens`, or at the limit of its domain.
    pub truncated: bool,
}

/// Who writes: a model, alone or with another one that reads the same and has a say in each token.
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

/// What looks at completions while they are written.
pub type Watch<'a> = &'a mut dyn FnMut(&[Completion]) -> Result<()>;

/// A prompt and the number that its random draws are keyed by.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    pub tokens: &'a [Token],
    pub id: u32,
    /// The number of its first completion among the samples of its prompt.
    pub sample: u32,
    /// Longest completion of this prompt, where it is bounded by more than the sampling.
    pub limit: Option<u32>,
}

impl Prompt<'_> {
    /// Of one of its completions here.
    fn uniforms(&self, key: Key, sample: usize) -> Uniforms {
        key.row(self.id, self.sample + sample as u32)
    }
}

/// Rows in flight at most: enough to keep a core busy, few enough that their keys and values stay near it.
const ROWS: usize = 256;

/// Tokens of prompts that are read together on the processor: see [`crate::machine::place::Sizes::read`].
const READ: usize = Place::cpu().sizes.read;

/// Bytes that keys, values and logits of the rows in flight may take. Where one row alone takes more, it has
/// what it needs. No result depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget(pub usize);

/// Bytes that [`rollout`] keeps at most on the processor, for prompts of so many tokens each: keys and values
/// of the rows in flight, their logits, and what is between products while prompts are read.
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
        // Rows in step, each with two places of the cache a step; copied once where some leave.
        let rows = ROWS.max(n).min(lengths.len() * n);
        let pages = pages_of(longest + 2 * sampling.max_tokens as usize) * rows;
        return 2 * pages * layout.bytes()
            + rows * config.vocabulary * size_of::<f32>()
            + reading(config, READ);
    }
    let most = (sampling.max_tokens as usize).max(1) - 1;
    // Beside the pages that samples of a prompt share.
    let own = |length: usize| pages_of(length + most) - length / PAGE;
    let rows = ROWS.max(n).min(lengths.len() * n);
    let flying = &lengths[..rows.div_ceil(n).min(lengths.len())];
    let pages: usize = flying.iter().map(|&length| length / PAGE + n * own(length)).sum();
    // Prompts that were read and wait, beside those in flight.
    let read = lengths.iter().sum::<usize>().min(READ).max(longest);
    let read_pages = pages_of(read) + ROWS.min(lengths.len());
    let waiting = if lengths.len() > flying.len() { read_pages } else { 0 };
    let row = config.vocabulary * size_of::<f32>();
    let least = (pages_of(longest + most) + read_pages) * layout.bytes() + row;
    ((pages + waiting) * layout.bytes() + rows * row).min(budget.0.max(least)) + reading(config, read)
}

/// Bytes between the products, about, while so many tokens of prompts are read together.
fn reading(config: &Config, tokens: usize) -> usize {
    let inner = config.experts.as_ref().map_or(config.hidden, |experts| experts.hidden * experts.per_token);
    let token =
        4 * config.width + 3 * inner + (2 * config.heads + 2 * config.key_value_heads) * config.head_width;
    tokens * token * size_of::<f32>()
}

/// `sampling.n` completions of every prompt, those of a prompt adjacent. What row `(prompt, sample)` draws
/// depends on nothing else. Whoever asks the job to stop is heard at every token: completions may be long.
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

/// The same by a model alone. Where it [can](Decoder::saves_activations), what training reads of the tokens
/// is saved as they are read.
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
    written(model.into(), prompts, (sampling, key), (budget, activations), control, &mut |_| Ok(()))
}

/// The same; `watch` sees all completions, as far as they are written, after every token. Not those of two
/// heads.
pub fn rollout_watched<'a>(
    author: impl Into<Author<'a>>,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
    watch: Watch,
) -> Result<Vec<Completion>> {
    written(author.into(), prompts, (sampling, key), (budget, None), control, watch)
}

fn written(
    author: Author,
    prompts: &[Prompt],
    (sampling, key): (&Sampling, Key),
    (budget, activations): (MemoryBudget, Option<&mut GeneratedActivations>),
    control: &Control,
    watch: Watch,
) -> Result<Vec<Completion>> {
    if sampling.max_tokens == 0 {
        return Err(Error::new(
            FailureKind::Runtime,
            "a completion needs at least one token: `max_tokens` is 0",
        ));
    }
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(accept) = sampling.accept {
        assert!(author.guide.is_none(), "nobody has a say in what two heads draw");
        return paired::rollout(author.model, prompts, (sampling, accept), key, control);
    }
    let request = RolloutRequest::new(prompts, sampling, key);
    match Flight::new(author, request.lengths().max().unwrap_or(1), budget) {
        Some(flight) => {
            let flight = match activations {
                Some(activations) => flight.saving(activations),
                None => flight,
            };
            flight.run(request, control, watch).map(|(completions, _)| completions)
        }
        None => in_step::rollout(author, prompts, (sampling, key), budget, control, watch),
    }
}

/// Prompts by length, and ranges of these that are read together: so little of what is read is padding. It
/// depends on the lengths alone, since the last bits of what a prompt answers depend on those that are read
/// with it. A unit has so many rows of `n` a prompt at most, and so many tokens to `read`, unless one prompt
/// alone has more.
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

/// Adds a token to a completion of `most` at most; whether it goes on.
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
