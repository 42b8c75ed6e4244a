//! Tests that the sampler and the trainer compute the same distribution, in half precision too.

use std::sync::Arc;

use mopd_plan::Sampling;
use tch::Kind;

use super::*;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::model::tests::{random_model, tiny};
use crate::model::{PackedBatch, Weights, logits};
use crate::random::Purpose;
use crate::tokenizer::Tokenizer;

/// With initial weights, 99 of 100 tokens are within 1e-3, and none is beyond 2e-3. In a model as narrow as
/// this one, roundings do not average out.
#[test]
fn the_trainer_finds_the_samplers_log_probabilities_in_bf16() {
    let weights = Weights::initialise(Arc::new(tiny()), Arc::new(Tokenizer::Bytes), 8, 0);
    for place in Place::tested() {
        let LogpGap { first, most, largest, .. } = logp_gap(&weights, place);
        assert!(first < 1e-3, "{place:?}: first tokens {first}");
        assert!(most < 1e-3 && largest < 2e-3, "{place:?}: others {most}, at most {largest}");
    }
}

/// These weights amplify every rounding. With our own loops the first token's logits are the trainer's,
/// whatever is read beside a prompt. With operators, and at later tokens, activations are summed in another
/// order and rounded to half precision in between; still, most tokens are within 1e-2.
#[test]
fn large_weights_blow_up_no_more_than_roundings() {
    for place in Place::tested() {
        let first_within = if place.loops().is_some() { 1e-3 } else { 0.05 };
        let LogpGap { first, median, largest, .. } = logp_gap(&random_model(&tiny(), 8), place);
        assert!(first < first_within, "{place:?}: the first tokens are off by {first}");
        assert!(
            median < 1e-2 && largest < 0.2,
            "{place:?}: later tokens are off by {median}, at most {largest}"
        );
    }
}

/// Absolute differences of log-probabilities.
struct LogpGap {
    /// The largest among first tokens.
    first: f32,
    /// Among later tokens: the median, the 99th percentile, the largest.
    median: f32,
    most: f32,
    largest: f32,
}

fn logp_gap(weights: &Weights, place: Place) -> LogpGap {
    let decoder = Decoder::frozen(weights, place, Kind::BFloat16);
    let prompts: Vec<Vec<Token>> =
        (0..60).map(|i| (0..1 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect();
    let request = |(id, tokens)| Prompt { tokens, id: id as u32, sample: 0, limit: None };
    let requests: Vec<Prompt> = prompts.iter().map(Vec::as_slice).enumerate().map(request).collect();
    let key = Key::new(1, 2, Purpose::Rollout, 0);
    let completions = rollout(
        &decoder,
        &requests,
        &Sampling::new(1, 1.0, 12),
        key,
        MemoryBudget(usize::MAX),
        &Control::new(std::io::sink()),
    )
    .unwrap();
    let pairs = prompts.iter().zip(&completions);
    let batch = PackedBatch::new(
        pairs.map(|(prompt, completion)| (prompt.as_slice(), completion.tokens.as_slice())),
        place.device,
    );
    let trained =
        logits(decoder.place, &decoder.hidden(&batch), decoder.lm_head(), None).log_softmax(-1, Kind::Float);
    let trained = to_vec(&trained.gather(1, &batch.targets.unsqueeze(1), false));
    let mut trained = trained.iter();
    let (mut first, mut later) = (0.0f32, Vec::new());
    for completion in &completions {
        for (place, sampled) in completion.logps.iter().enumerate() {
            let apart = (trained.next().unwrap() - sampled).abs();
            if place == 0 { first = first.max(apart) } else { later.push(apart) }
        }
    }
    assert!(trained.next().is_none());
    later.sort_by(f32::total_cmp);
    let part = |part: f64| later[((later.len() - 1) as f64 * part) as usize];
    let (median, most, largest) = (part(0.5), part(0.99), part(1.0));
    println!("{place:?}: first {first:.1e}, later {median:.1e}, {most:.1e}, at most {largest:.1e}");
    LogpGap { first, median, most, largest }
}
