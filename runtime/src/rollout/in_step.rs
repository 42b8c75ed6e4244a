//! Lockstep decoding, for models whose keys and values are tensors: all rows of a unit of prompts advance
//! together, one unit after the other.

use mopd_plan::Sampling;
use tch::Kind;

use super::prefetch::PipelinedDraws;
use super::tensor_sampler::DeviceVocabulary;
use super::{
    Author, Completion, CompletionObserver, HostSampler, MemoryBudget, ROWS, RolloutRequest, Stop, append,
    host_sampler, units,
};
use crate::control::Control;
use crate::failure::Result;
use crate::model::{Config, Decoder, Generator};
use crate::random::Uniforms;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// Samples the requested completions; those of a prompt are adjacent.
pub fn rollout<'a>(
    author: impl Into<Author<'a>>,
    request: &RolloutRequest,
    budget: MemoryBudget,
    control: &Control,
    watch: CompletionObserver,
) -> Result<Vec<Completion>> {
    let (author, n) = (author.into(), request.n());
    let mut completions = vec![Completion::default(); request.prompts.len() * n];
    let lengths = || request.prompts.iter().map(|prompt| prompt.tokens.len());
    let rows = rows_in_step(author, lengths().max().unwrap_or(0), &request.sampling, budget);
    // No limit on tokens: the generator prefills in parts itself.
    let (order, units) = units(lengths(), n, rows, usize::MAX);
    for unit in units {
        write_unit(author, request, &order[unit], control, &mut *watch, &mut completions)?;
    }
    Ok(completions)
}

/// Most rows that advance together: as many as the budget holds keys, values, states and logits of, rounded
/// down to a power of two, so that small changes of free memory do not change the last bits of results.
fn rows_in_step(author: Author, longest: usize, sampling: &Sampling, budget: MemoryBudget) -> usize {
    let tokens = longest + sampling.max_tokens as usize;
    let bytes =
        |model: &Decoder| cached_bytes(&model.config, model.kind(), tokens) + logits_bytes(&model.config);
    rows_within(budget, bytes(author.model) + author.guide.map_or(0, |guide| bytes(guide.model)))
}

fn rows_within(budget: MemoryBudget, row: usize) -> usize {
    let rows = (budget.0 / row.max(1)).clamp(1, ROWS);
    1 << rows.ilog2()
}

/// Bytes of keys, values and states of a row with `tokens` tokens.
fn cached_bytes(config: &Config, kind: Kind, tokens: usize) -> usize {
    let of_token = 2 * config.attention_layers().count() * config.key_value_heads * config.head_dim;
    tokens * of_token * kind.elt_size_in_bytes() + config.state_bytes()
}

/// Bytes of four buffers of the size of a row's logits: the logits and the draw's intermediate results.
fn logits_bytes(config: &Config) -> usize {
    4 * config.vocabulary * size_of::<f32>()
}

/// Upper bound on the bytes of keys, values, states and logits of `most` rows in all, of up to `tokens`
/// tokens each. The caches are copied when they grow and when rows leave.
pub(super) fn memory(config: &Config, kind: Kind, tokens: usize, most: usize, budget: MemoryBudget) -> usize {
    let (cached, logits) = (cached_bytes(config, kind, tokens), logits_bytes(config));
    rows_within(budget, cached + logits).min(most) * (2 * cached + logits)
}

pub(super) struct StepRow {
    /// Index into the completions.
    pub(super) index: usize,
    pub(super) uniforms: Uniforms,
    pub(super) most: usize,
}

/// Completes the prompts whose numbers are in `unit`.
fn write_unit(
    author: Author,
    request: &RolloutRequest,
    unit: &[usize],
    control: &Control,
    watch: CompletionObserver,
    completions: &mut [Completion],
) -> Result<()> {
    let RolloutRequest { prompts, sampling, key } = request;
    let n = request.n();
    let stop = Stop::new(&sampling.stop, &author.model.tokenizer);
    let row = |row: usize| {
        let (prompt, sample) = (unit[row / n], row % n);
        let most = sampling.max_tokens(prompts[prompt].limit) as usize;
        let uniforms = prompts[prompt].borrowed().uniforms(*key, sample);
        StepRow { index: prompt * n + sample, uniforms, most }
    };
    let mut rows: Vec<StepRow> = (0..unit.len() * n).map(row).collect();
    let longest = rows.iter().map(|row| row.most).max().unwrap_or(0);
    // Every prompt is prefilled once; its samples start from the same logits.
    let tokens: Vec<&[Token]> = unit.iter().map(|&prompt| prompts[prompt].tokens.as_slice()).collect();
    let start = |model| Generator::start(model, &tokens, longest);
    let (mut generator, mut guide) = (start(author.model), author.guide.map(|guide| start(guide.model)));
    let select = |generator: &mut Generator, guide: &mut Option<Generator>, places: &[usize]| {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        generator.select(&places);
        guide.iter_mut().for_each(|guide| guide.select(&places));
    };
    // The index of each row's logits: rows of finished completions stay in the batch until enough of them
    // can leave.
    let mut places: Vec<usize> = (0..rows.len()).map(|row| row / n).collect();
    if n > 1 {
        select(&mut generator, &mut guide, &places);
    }
    if let Some(vocabulary) = DeviceVocabulary::for_author(author, sampling) {
        let rows = zip_equal(rows, places).collect();
        let draws = PipelinedDraws::new(generator.place(), &vocabulary, sampling.drawn_at());
        return draws.complete(&mut generator, rows, &stop, control, watch, completions);
    }
    let mut host_sampler = HostSampler::new(author);
    let mut width = rows.len();
    for step in 0..longest {
        control.check()?;
        let mut drawn = Vec::with_capacity(rows.len());
        for (StepRow { index, uniforms, .. }, &place) in zip_equal(&mut rows, &places) {
            let Completion { tokens, verdicts, .. } = &completions[*index];
            let seen = [prompts[*index / n].tokens.as_slice(), tokens.as_slice()];
            drawn.push(host_sampler::DrawRow { sampling, uniforms, place, seen, verdicts });
        }
        let draws = host_sampler.draw(&mut drawn, generator.logits(), guide.as_mut().map(Generator::logits));
        let mut inputs = vec![author.model.tokenizer.padding(); width];
        let (mut alive, mut alive_places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (number, ((row, place), draw)) in zip_equal(zip_equal(rows, places), draws).enumerate() {
            let completion = &mut completions[row.index];
            if !append(completion, draw, row.most, &stop)? {
                continue;
            }
            // After the first step, each row has its own logits.
            let place = if step == 0 { number } else { place };
            inputs[place] = completion.tokens[step];
            alive.push(row);
            alive_places.push(place);
        }
        watch(completions)?;
        (rows, places) = (alive, alive_places);
        if rows.is_empty() {
            break;
        }
        if rows.len() <= generator.compaction_threshold(width) {
            select(&mut generator, &mut guide, &places);
            inputs = places.iter().map(|&place| inputs[place]).collect();
            places = (0..rows.len()).collect();
            width = rows.len();
        }
        generator.step(&inputs);
        guide.iter_mut().for_each(|guide| guide.step(&inputs));
    }
    Ok(())
}
