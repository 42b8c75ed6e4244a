//! Completions sampled from a model.

#[cfg(test)]
mod precision;
mod sampler;
mod stop;

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::events::FailureKind;
use tch::Kind;

use crate::failure::{Error, Result};
use crate::model::{Config, Decoder, Generator, Token};
use crate::random::{Key, Uniforms};

use crate::kernels::crew::{Parts, threads, together};
use sampler::{Draw, draw};
use stop::Stop;

/// What a model wrote after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// At least one; the last one is an end token, or that in which a text that ends completions is complete, unless the
    /// completion was cut off.
    pub tokens: Vec<Token>,
    /// Log-probability of each token under the distribution it was drawn from.
    pub logps: Vec<f32>,
    /// Cut off at `max_tokens`, or at the limit of its domain.
    pub truncated: bool,
}

/// A prompt and the number that its random draws are keyed by.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    pub tokens: &'a [Token],
    pub id: u32,
    /// Longest completion of this prompt, where it is bounded by more than the sampling.
    pub limit: Option<u32>,
}

/// Rows that are generated in step at most: enough to keep a core busy, few enough that their cache stays near it.
const ROWS: usize = 256;

/// Bytes that [`rollout`] keeps at most for so many prompts: keys and values of all tokens of the rows that are generated in step, and
/// their logits. The longest prompt has `longest` tokens.
pub fn memory(config: &Config, kind: Kind, prompts: usize, longest: usize, sampling: &Sampling) -> usize {
    let n = sampling.n.max(1) as usize;
    let rows = prompts.min((ROWS / n).max(1)) * n;
    let token = 2 * config.layers * config.key_value_heads * config.head_width * kind.elt_size_in_bytes();
    rows * ((longest + sampling.max_tokens as usize) * token + config.vocabulary * size_of::<f32>())
}

/// `sampling.n` completions of every prompt, those of a prompt adjacent. What row `(prompt, sample)` draws depends on
/// nothing else.
pub fn rollout(decoder: &Decoder, prompts: &[Prompt], sampling: &Sampling, key: Key) -> Result<Vec<Completion>> {
    if sampling.max_tokens == 0 {
        return Err(Error::new(FailureKind::Runtime, "a completion needs at least one token: `max_tokens` is 0"));
    }
    let n = sampling.n.max(1) as usize;
    // Prompts of similar length are read together, so that little of what is read is padding.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&prompt| prompts[prompt].tokens.len());
    let mut written: Vec<(usize, Vec<Completion>)> = Vec::with_capacity(prompts.len());
    for chunk in order.chunks((ROWS / n).max(1)) {
        let similar: Vec<Prompt> = chunk.iter().map(|&prompt| prompts[prompt]).collect();
        let mut completions = chunk_rollout(decoder, &similar, n, sampling, key)?.into_iter();
        written.extend(chunk.iter().map(|&prompt| (prompt, completions.by_ref().take(n).collect())));
    }
    written.sort_by_key(|(prompt, _)| *prompt);
    Ok(written.into_iter().flat_map(|(_, completions)| completions).collect())
}

struct Row {
    /// Index into the chunk's completions.
    index: usize,
    uniforms: Uniforms,
}

fn chunk_rollout(decoder: &Decoder, prompts: &[Prompt], n: usize, sampling: &Sampling, key: Key) -> Result<Vec<Completion>> {
    let max_tokens = sampling.max_tokens as usize;
    let empty = Completion { tokens: Vec::with_capacity(max_tokens), logps: Vec::with_capacity(max_tokens), truncated: true };
    let mut completions = vec![empty; prompts.len() * n];
    let mut rows: Vec<Row> =
        (0..prompts.len() * n).map(|index| Row { index, uniforms: key.row(prompts[index / n].id, (index % n) as u32) }).collect();

    // Every prompt is read once; its samples start from the same logits.
    let tokens: Vec<&[Token]> = prompts.iter().map(|prompt| prompt.tokens).collect();
    let mut generator = Generator::start(decoder, &tokens, max_tokens);
    let vocabulary = decoder.config.vocabulary;
    let stop = Stop::new(&sampling.stop, &decoder.tokenizer);
    // Where each row's logits are: the rows of a finished completion stay in the batch until enough of them can leave.
    let mut places: Vec<usize> = (0..rows.len()).map(|row| row / n).collect();
    if n > 1 {
        generator.select(&places.iter().map(|&place| place as i64).collect::<Vec<_>>());
    }
    let mut width = rows.len();
    let mut scratch = vec![Vec::new(); threads()];
    for step in 0..max_tokens {
        let mut inputs = vec![decoder.tokenizer.padding(); width];
        let mut alive = Vec::with_capacity(rows.len());
        let mut alive_places = Vec::with_capacity(rows.len());
        let draws = draw_all(&mut rows, &places, generator.logits(), vocabulary, sampling.temperature, &mut scratch);
        for ((row, place), draw) in rows.into_iter().zip(places).zip(draws) {
            let draw = draw.ok_or_else(not_finite)?;
            let completion = &mut completions[row.index];
            completion.tokens.push(draw.token);
            completion.logps.push(draw.logp as f32);
            if decoder.tokenizer.is_end(draw.token) || stop.ends(&completion.tokens)? {
                completion.truncated = false;
                continue;
            }
            if completion.tokens.len() >= sampling.max_tokens(prompts[row.index / n].limit) as usize {
                continue;
            }
            // After the first step, rows have places of their own.
            let place = if step == 0 { row.index } else { place };
            inputs[place] = draw.token;
            alive.push(row);
            alive_places.push(place);
        }
        (rows, places) = (alive, alive_places);
        if rows.is_empty() || step + 1 == max_tokens {
            break;
        }
        // Leaving costs a copy of the cache, staying costs computing for nothing.
        if rows.len() * 4 <= width * 3 {
            generator.select(&places.iter().map(|&place| place as i64).collect::<Vec<_>>());
            inputs = places.iter().map(|&place| inputs[place]).collect();
            places = (0..rows.len()).collect();
            width = rows.len();
        }
        generator.step(&inputs);
    }
    Ok(completions)
}

/// The next token of every row, whose logits stand at its place; none where they are not finite. `scratch` has a buffer for each thread,
/// reused between calls.
fn draw_all(
    rows: &mut [Row],
    places: &[usize],
    logits: &[f32],
    vocabulary: usize,
    temperature: f64,
    scratch: &mut [Vec<f32>],
) -> Vec<Option<Draw>> {
    let mut draws = vec![None; rows.len()];
    let (threads, all_scratch) = (scratch.len(), Parts::new(scratch));
    let (all_rows, all_draws) = (Parts::new(rows), Parts::new(&mut draws));
    together(threads, |member| {
        // SAFETY: each member has a buffer of its own.
        let scratch = unsafe { &mut all_scratch.part(member.index..member.index + 1)[0] };
        for index in member.part(places.len(), 1) {
            // SAFETY: every row has an index of its own.
            let (row, drawn) = unsafe { (all_rows.part(index..index + 1), all_draws.part(index..index + 1)) };
            let logits = &logits[places[index] * vocabulary..][..vocabulary];
            drawn[0] = draw(logits, temperature, &mut row[0].uniforms, scratch);
        }
    });
    draws
}

fn not_finite() -> Error {
    Error::new(FailureKind::NonFinite, "the model's logits are not finite while sampling")
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::data::tokenizer::END;
    use crate::model::tests::{lively, tiny};
    use crate::model::{PackedBatch, to_vec};
    use crate::random::Purpose;

    fn prompts() -> Vec<Vec<Token>> {
        (0..20).map(|i| (0..1 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect()
    }

    fn requests(prompts: &[Vec<Token>]) -> Vec<Prompt<'_>> {
        prompts.iter().enumerate().map(|(id, tokens)| Prompt { tokens, id: id as u32, limit: None }).collect()
    }

    fn sampling(n: u32, temperature: f64) -> Sampling {
        Sampling::new(n, temperature, 12)
    }

    /// Likes the end token enough that completions have many lengths.
    fn decoder() -> Decoder {
        let weights = lively(&tiny(), 8);
        let width = weights.config.width;
        let mut values = weights.values().into_owned();
        for value in &mut values[END as usize * width..][..width] {
            *value *= 2.5;
        }
        Decoder::frozen(&weights.with_values(values), Device::Cpu, Kind::Float)
    }

    #[test]
    fn completions_do_not_depend_on_the_batch() {
        let (decoder, prompts) = (decoder(), prompts());
        let key = Key::new(1, 2, Purpose::Rollout, 3);
        let together = rollout(&decoder, &requests(&prompts), &sampling(3, 1.0), key).unwrap();
        assert_eq!(together.len(), 60);
        let lengths: std::collections::HashSet<usize> = together.iter().map(|c| c.tokens.len()).collect();
        assert!(lengths.len() > 4, "{lengths:?}");
        for (request, group) in requests(&prompts).into_iter().zip(together.chunks(3)) {
            for (alone, completion) in rollout(&decoder, &[request], &sampling(3, 1.0), key).unwrap().iter().zip(group) {
                assert_eq!(alone.tokens, completion.tokens);
            }
            // A smaller group is the beginning of a larger one.
            assert_eq!(rollout(&decoder, &[request], &sampling(1, 1.0), key).unwrap()[0].tokens, group[0].tokens);
        }
    }

    /// More prompts than are read at once come back in their own order.
    #[test]
    fn prompts_keep_their_places() {
        let decoder = decoder();
        let prompts: Vec<Vec<Token>> =
            (0..300i64).map(|i| (0..1 + i * 7 % 11).map(|j| 97 + (3 * i + j) % 26).collect()).collect();
        let key = Key::new(1, 2, Purpose::Rollout, 3);
        let settings = Sampling { max_tokens: 2, ..sampling(2, 1.0) };
        let together = rollout(&decoder, &requests(&prompts), &settings, key).unwrap();
        assert_eq!(together.len(), 600);
        for place in [0, 1, 77, 160, 298, 299] {
            let alone = rollout(&decoder, &[requests(&prompts)[place]], &settings, key).unwrap();
            let tokens = |completions: &[Completion]| completions.iter().map(|c| c.tokens.clone()).collect::<Vec<_>>();
            assert_eq!(tokens(&alone), tokens(&together[2 * place..][..2]), "prompt {place}");
        }
    }

    #[test]
    fn completions_end_at_the_end_token_or_are_cut_off() {
        let completions =
            rollout(&decoder(), &requests(&prompts()), &sampling(2, 1.0), Key::new(1, 2, Purpose::Rollout, 0)).unwrap();
        for completion in &completions {
            assert_eq!(completion.tokens.len(), completion.logps.len());
            let ends = completion.tokens.iter().filter(|&&token| token == END).count();
            assert_eq!(ends, usize::from(!completion.truncated));
            assert_eq!(completion.tokens.last() == Some(&END), !completion.truncated);
            assert!(completion.truncated == (completion.tokens.len() == 12) || completion.tokens.last() == Some(&END));
        }
        assert!(completions.iter().any(|completion| completion.truncated));
        assert!(completions.iter().any(|completion| !completion.truncated));
    }

    #[test]
    fn a_text_that_stops_cuts_behind_itself_and_changes_nothing_before() {
        let (decoder, prompts) = (decoder(), prompts());
        let key = Key::new(1, 2, Purpose::Rollout, 3);
        let whole = rollout(&decoder, &requests(&prompts), &sampling(2, 1.0), key).unwrap();
        let text = |completion: &Completion| decoder.tokenizer.decode(&completion.tokens).unwrap();
        // Two letters that are written somewhere behind the beginning.
        let mut pairs = whole.iter().flat_map(|completion| completion.tokens[1..].windows(2));
        let pair = pairs.find(|pair| pair.iter().all(|token| (32..127).contains(token))).unwrap();
        let stop = decoder.tokenizer.decode(pair).unwrap();
        let sampling = Sampling { stop: vec![stop.clone()], ..sampling(2, 1.0) };
        let cut = rollout(&decoder, &requests(&prompts), &sampling, key).unwrap();
        let mut stopped = 0;
        for (whole, cut) in whole.iter().zip(&cut) {
            assert_eq!(cut.tokens, whole.tokens[..cut.tokens.len()]);
            for (a, b) in cut.logps.iter().zip(&whole.logps) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
            match text(whole).find(&stop) {
                Some(start) => {
                    assert_eq!(text(cut), text(whole)[..start + stop.len()]);
                    assert!(!cut.truncated);
                    stopped += 1;
                }
                None => assert_eq!((cut.tokens.len(), cut.truncated), (whole.tokens.len(), whole.truncated)),
            }
        }
        assert!(stopped > 0);
    }

    #[test]
    fn the_trainer_finds_the_samplers_log_probabilities() {
        let (decoder, prompts) = (decoder(), prompts());
        for temperature in [1.0, 0.7] {
            let completions =
                rollout(&decoder, &requests(&prompts), &sampling(1, temperature), Key::new(1, 2, Purpose::Rollout, 0)).unwrap();
            let pairs = prompts.iter().zip(&completions);
            let batch = PackedBatch::new(pairs.map(|(p, c)| (p.as_slice(), c.tokens.as_slice())), Device::Cpu);
            let logps = (decoder.logits(&batch) / temperature).log_softmax(-1, Kind::Float);
            let trainer = to_vec(&logps.gather(1, &batch.targets.unsqueeze(1), false));
            let sampler: Vec<f32> = completions.iter().flat_map(|completion| completion.logps.clone()).collect();
            assert_eq!(trainer.len(), sampler.len());
            for (trainer, sampler) in trainer.iter().zip(&sampler) {
                assert!((trainer - sampler).abs() < 1e-4, "{trainer} {sampler}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_largest_logit_of_the_forward_pass() {
        let (decoder, prompts) = (decoder(), prompts());
        let key = Key::new(1, 2, Purpose::Evaluate, 0);
        for (prompt, completion) in prompts.iter().zip(rollout(&decoder, &requests(&prompts), &sampling(1, 0.0), key).unwrap()) {
            let batch = PackedBatch::new(std::iter::once((prompt.as_slice(), completion.tokens.as_slice())), Device::Cpu);
            let logits = to_vec(&decoder.logits(&batch));
            for (token, logits) in completion.tokens.iter().zip(logits.chunks(259)) {
                let best = (0..259).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                assert_eq!(*token, best as Token);
            }
        }
    }
}
