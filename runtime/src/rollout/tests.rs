//! Tests that completions do not depend on the others that are sampled at the same time.

mod saving;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tch::Device;

use super::continuous::{ContinuousBatch, ContinuousBatchStats};
use super::*;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::model::tests::parity::weights;
use crate::model::tests::{random_model, tiny};
use crate::model::{PackedBatch, Weights};
use crate::random::Purpose;
use crate::tokenizer::{END, PretrainedTokenizer, Tokenizer};

const ENOUGH: MemoryBudget = MemoryBudget(usize::MAX);

/// A control that nobody stops.
fn uncancellable() -> Control {
    Control::new(std::io::sink())
}

fn prompts() -> Vec<Vec<Token>> {
    (0..20).map(|i| (0..1 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect()
}

fn requests(prompts: &[Vec<Token>]) -> Vec<Prompt<'_>> {
    prompts
        .iter()
        .enumerate()
        .map(|(id, tokens)| Prompt { tokens, id: id as u32, sample: 0, limit: None })
        .collect()
}

fn sampling(n: u32, temperature: f64) -> Sampling {
    Sampling::new(n, temperature, 12)
}

/// A model that prefers the end token enough to give completions of many lengths.
fn decoder() -> Decoder {
    Decoder::frozen(&decoder_weights(2.5), Place::cpu(), Kind::Float)
}

/// Weights with the end token's row of the LM head multiplied by `liking`.
fn decoder_weights(liking: f32) -> Weights {
    let weights = random_model(&tiny(), 8);
    let width = weights.config.width;
    let mut values = weights.values().into_owned();
    for value in &mut values[END as usize * width..][..width] {
        *value *= liking;
    }
    weights.with_values(values)
}

#[test]
fn completions_do_not_depend_on_the_batch() {
    let (decoder, prompts) = (decoder(), prompts());
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let together =
        rollout(&decoder, &requests(&prompts), &sampling(3, 1.0), key, ENOUGH, &uncancellable()).unwrap();
    assert_eq!(together.len(), 60);
    let lengths: std::collections::HashSet<usize> = together.iter().map(|c| c.tokens.len()).collect();
    assert!(lengths.len() > 4, "{lengths:?}");
    for (request, group) in requests(&prompts).into_iter().zip(together.chunks(3)) {
        for (alone, completion) in
            rollout(&decoder, &[request], &sampling(3, 1.0), key, ENOUGH, &uncancellable())
                .unwrap()
                .iter()
                .zip(group)
        {
            assert_eq!(alone.tokens, completion.tokens);
        }
        // The samples of a smaller group are the first ones of a larger group.
        assert_eq!(
            rollout(&decoder, &[request], &sampling(1, 1.0), key, ENOUGH, &uncancellable()).unwrap()[0]
                .tokens,
            group[0].tokens
        );
    }
}

/// With more prompts than one prefill reads, completions are in the order of the prompts.
#[test]
fn completions_are_in_the_order_of_the_prompts() {
    let decoder = decoder();
    let prompts: Vec<Vec<Token>> =
        (0..300i64).map(|i| (0..1 + i * 7 % 11).map(|j| 97 + (3 * i + j) % 26).collect()).collect();
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let settings = Sampling { max_tokens: 2, ..sampling(2, 1.0) };
    let together = rollout(&decoder, &requests(&prompts), &settings, key, ENOUGH, &uncancellable()).unwrap();
    assert_eq!(together.len(), 600);
    for place in [0, 1, 77, 160, 298, 299] {
        let alone = rollout(&decoder, &[requests(&prompts)[place]], &settings, key, ENOUGH, &uncancellable())
            .unwrap();
        let tokens =
            |completions: &[Completion]| completions.iter().map(|c| c.tokens.clone()).collect::<Vec<_>>();
        assert_eq!(tokens(&alone), tokens(&together[2 * place..][..2]), "prompt {place}");
    }
}

#[test]
fn completions_end_at_the_end_token_or_are_cut_off() {
    let completions = rollout(
        &decoder(),
        &requests(&prompts()),
        &sampling(2, 1.0),
        Key::new(1, 2, Purpose::Rollout, 0),
        ENOUGH,
        &uncancellable(),
    )
    .unwrap();
    for completion in &completions {
        assert_eq!(completion.tokens.len(), completion.logps.len());
        let ends = completion.tokens.iter().filter(|&&token| token == END).count();
        assert_eq!(ends, usize::from(!completion.truncated));
        assert_eq!(completion.tokens.last() == Some(&END), !completion.truncated);
        assert!(
            completion.truncated == (completion.tokens.len() == 12) || completion.tokens.last() == Some(&END)
        );
    }
    assert!(completions.iter().any(|completion| completion.truncated));
    assert!(completions.iter().any(|completion| !completion.truncated));
}

/// The possible tokens and their log-probabilities equal those computed by definition from a forward pass
/// over the whole sequence. By loops, and by operators.
#[test]
fn candidates_and_log_probabilities_follow_the_settings() {
    let prompts = prompts();
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let settings =
        Sampling { top_k: Some(9), top_p: Some(0.8), repetition_penalty: Some(1.3), ..sampling(3, 0.7) };
    for kind in [Kind::Float, Kind::Double] {
        let decoder = Decoder::frozen(&decoder_weights(2.5), Place::cpu(), kind);
        let completions =
            rollout(&decoder, &requests(&prompts), &settings, key, ENOUGH, &uncancellable()).unwrap();
        let (mut tokens, mut left_out) = (0, 0);
        for (index, completion) in completions.iter().enumerate() {
            for (place, (&token, &logp)) in
                crate::zip::zip_equal(&completion.tokens, &completion.logps).enumerate()
            {
                let read: Vec<Token> =
                    prompts[index / 3].iter().chain(&completion.tokens[..place]).copied().collect();
                let batch = PackedBatch::new([(read.as_slice(), [0].as_slice())].into_iter(), Device::Cpu);
                let mut entries: Vec<(usize, f64)> = to_vec(&decoder.logits(&batch))
                    .into_iter()
                    .map(f64::from)
                    .enumerate()
                    .take(decoder.tokenizer.vocabulary())
                    .collect();
                for (entry, logit) in &mut entries {
                    if read.contains(&(*entry as Token)) {
                        *logit = if *logit > 0.0 { *logit / 1.3 } else { *logit * 1.3 };
                    }
                }
                entries.sort_by(|a, b| b.1.total_cmp(&a.1));
                entries.truncate(9);
                let weights: Vec<f64> = entries.iter().map(|(_, logit)| (logit / 0.7).exp()).collect();
                let enough = 0.8 * weights.iter().sum::<f64>();
                let mut mass = 0.0;
                let kept = weights.iter().take_while(|weight| {
                    let before = mass;
                    mass += **weight;
                    before < enough
                });
                let kept = kept.count();
                let mass: f64 = weights[..kept].iter().sum();
                let place = entries[..kept].iter().position(|(entry, _)| *entry as Token == token);
                let place = place.unwrap_or_else(|| panic!("{kind:?}: {token} is none of {entries:?}"));
                let expected = (weights[place] / mass).ln();
                assert!((f64::from(logp) - expected).abs() < 1e-4, "{kind:?}: {logp} {expected}");
                (tokens, left_out) = (tokens + 1, left_out + usize::from(kept < 9));
            }
        }
        assert!(tokens > 200 && left_out > 50, "{tokens} tokens, {left_out} times cut by top_p");
    }
}

#[test]
fn a_text_that_stops_cuts_behind_itself_and_changes_nothing_before() {
    let (decoder, prompts) = (decoder(), prompts());
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let whole =
        rollout(&decoder, &requests(&prompts), &sampling(2, 1.0), key, ENOUGH, &uncancellable()).unwrap();
    let text = |completion: &Completion| decoder.tokenizer.decode(&completion.tokens).unwrap();
    // Two letters somewhere after the beginning, as stop text.
    let mut pairs = whole.iter().flat_map(|completion| completion.tokens[1..].windows(2));
    let pair = pairs.find(|pair| pair.iter().all(|token| (32..127).contains(token))).unwrap();
    let stop = decoder.tokenizer.decode(pair).unwrap();
    let sampling = Sampling { stop: vec![stop.clone()], ..sampling(2, 1.0) };
    let cut = rollout(&decoder, &requests(&prompts), &sampling, key, ENOUGH, &uncancellable()).unwrap();
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
        let completions = rollout(
            &decoder,
            &requests(&prompts),
            &sampling(1, temperature),
            Key::new(1, 2, Purpose::Rollout, 0),
            ENOUGH,
            &uncancellable(),
        )
        .unwrap();
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
    for (prompt, completion) in prompts.iter().zip(
        rollout(&decoder, &requests(&prompts), &sampling(1, 0.0), key, ENOUGH, &uncancellable()).unwrap(),
    ) {
        let batch =
            PackedBatch::new(std::iter::once((prompt.as_slice(), completion.tokens.as_slice())), Device::Cpu);
        let logits = to_vec(&decoder.logits(&batch));
        for (token, logits) in completion.tokens.iter().zip(logits.chunks(259)) {
            let best = (0..259).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(*token, best as Token);
        }
    }
}

/// Of eight rows of the LM head, 0, 1, 4 and 5 are tokens; the other rows would have nearly all of the mass.
#[test]
fn ids_without_a_token_are_never_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = serde_json::json!({ "a": 0, "b": 1, "c": 4, "</s>": 5 });
    let end = serde_json::json!({ "id": 5, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true });
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "a" },
    });
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{ "eos_token": "</s>" }"#).unwrap();
    let tokenizer = Tokenizer::Pretrained(PretrainedTokenizer::load(folder.path()).unwrap());
    assert_eq!((tokenizer.vocabulary(), tokenizer.absent()), (6, [2, 3].as_slice()));

    let config = Config { vocabulary: 8, ..tiny() };
    let weights = random_model(&config, 8);
    let mut values = weights.values().into_owned();
    for row in [2, 3, 6, 7] {
        values[row * config.width..][..config.width].iter_mut().for_each(|value| *value *= 20.0);
    }
    let weights = Weights::new(Arc::new(config), Arc::new(tokenizer), values);
    for kind in [Kind::Float, Kind::BFloat16] {
        let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
        let prompts: Vec<Vec<Token>> = (0..9).map(|i| vec![[0, 1, 4][i % 3]; 1 + i]).collect();
        let key = Key::new(1, 2, Purpose::Rollout, 3);
        for temperature in [0.0, 0.3, 1.0, 50.0] {
            let completions = rollout(
                &decoder,
                &requests(&prompts),
                &sampling(8, temperature),
                key,
                ENOUGH,
                &uncancellable(),
            )
            .unwrap();
            let tokens: Vec<Token> =
                completions.iter().flat_map(|completion| completion.tokens.clone()).collect();
            assert!(
                tokens.iter().all(|token| [0, 1, 4, 5].contains(token)),
                "{kind:?} {temperature}: {tokens:?}"
            );
        }
    }
}

fn fly(
    decoder: &Decoder,
    prompts: &[Vec<Token>],
    sampling: &Sampling,
    budget: MemoryBudget,
) -> (Vec<Completion>, ContinuousBatchStats) {
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let request = RolloutRequest::new(&requests(prompts), sampling, key);
    ContinuousBatch::new(decoder, 1, budget).unwrap().run(request, &uncancellable(), &mut |_| Ok(())).unwrap()
}

fn made_up(length: usize, seed: usize) -> Vec<Token> {
    (0..length).map(|at| 97 + ((3 * seed + at * at) % 26) as Token).collect()
}

/// For budgets from one row to all rows: the same tokens and log-probabilities, to the bit.
#[test]
fn completions_do_not_depend_on_the_budget() {
    let weights = decoder_weights(1.5);
    for kind in [Kind::Float, Kind::BFloat16] {
        let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
        let prompts: Vec<Vec<Token>> = (0..40).map(|i| made_up(1 + i * 7 % 50, i)).collect();
        let sampling = Sampling::new(3, 1.0, 70);
        let (expected, all) = fly(&decoder, &prompts, &sampling, ENOUGH);
        let lengths: std::collections::HashSet<usize> =
            expected.iter().map(|completion| completion.tokens.len()).collect();
        assert!(lengths.len() > 20 && all.rows > 60 && all.preempted == 0, "{lengths:?} {all:?}");
        let (page, row) = (page_layout(&decoder.config, kind).bytes(), 4 * decoder.config.vocabulary);
        let mut preempted = 0;
        for pages in [0, 8, 30, 70, 100, 150, 250] {
            let budget = MemoryBudget(pages * page + 30 * row);
            let (got, took) = fly(&decoder, &prompts, &sampling, budget);
            assert!(got == expected, "{kind:?}, {pages} pages: {took:?}");
            assert!(took.rows <= all.rows && (pages > 30 || took.rows <= 31), "{pages}: {took:?}");
            preempted += took.preempted;
        }
        assert!(preempted > 0, "no budget was too small for what came");
        assert_eq!(fly(&decoder, &prompts, &sampling, MemoryBudget(0)).1.rows, 1);
    }
}

/// A request that comes while others are written has the bits that it has alone, whatever the budget, and a
/// cancelled request leaves nothing behind.
#[test]
fn requests_do_not_depend_on_each_other() {
    let weights = decoder_weights(1.5);
    for kind in [Kind::Float, Kind::BFloat16] {
        let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
        let asked: Vec<RolloutRequest> = (0..6)
            .map(|number| {
                let prompts: Vec<Vec<Token>> =
                    (0..3 + 5 * number).map(|i| made_up(1 + (i * 7 + number) % 50, i)).collect();
                let sampling = match number % 3 {
                    0 => Sampling::new(2, 1.0, 40),
                    1 => Sampling { top_p: Some(0.9), ..Sampling::new(1, 0.7, 70) },
                    _ => Sampling::new(1, 0.0, 5),
                };
                RolloutRequest::new(
                    &requests(&prompts),
                    &sampling,
                    Key::new(number as u64, 2, Purpose::Rollout, 3),
                )
            })
            .collect();
        let alone = asked.iter().map(|request| {
            let batch = ContinuousBatch::new(&decoder, 1, ENOUGH).unwrap();
            batch.run(request.clone(), &uncancellable(), &mut |_| Ok(())).unwrap().0
        });
        let alone: Vec<Vec<Completion>> = alone.collect();
        let page = page_layout(&decoder.config, kind).bytes();
        for pages in [usize::MAX / page, 60, 0] {
            let mut batch = ContinuousBatch::new(&decoder, 1, MemoryBudget(pages * page)).unwrap();
            let mut waiting: VecDeque<RolloutRequest> = asked.iter().cloned().collect();
            let (mut ids, mut found) = (Vec::new(), BTreeMap::new());
            let unwanted = batch.add(asked[5].clone());
            for step in 0.. {
                if step % 3 == 0 {
                    ids.extend(waiting.pop_front().map(|request| batch.add(request)));
                }
                if step == 7 {
                    batch.cancel(unwanted);
                }
                for (id, completions) in batch.advance() {
                    found.insert(id, completions.unwrap());
                }
                if waiting.is_empty() && batch.is_idle() {
                    break;
                }
            }
            assert_eq!(batch.held(), 0, "pages are given back");
            for (id, alone) in ids.iter().zip(&alone) {
                assert!(found[id] == *alone, "{kind:?}, {pages} pages, {id:?}");
            }
            assert!(pages < 100 || found[&ids[2]].len() == 13);
        }
    }
}

/// A short request does not wait for a long one that has prompts left to read.
#[test]
fn a_short_request_does_not_wait_for_a_long_one() {
    let decoder = Decoder::frozen(&decoder_weights(0.0), Place::cpu(), Kind::Float);
    let request = |count: usize, most: u32| {
        let prompts: Vec<Vec<Token>> = (0..count).map(|i| made_up(9, i)).collect();
        RolloutRequest::new(
            &requests(&prompts),
            &Sampling::new(1, 0.0, most),
            Key::new(1, 2, Purpose::Rollout, 3),
        )
    };
    let mut batch = ContinuousBatch::new(&decoder, 1, ENOUGH).unwrap();
    batch.add(request(1000, 40));
    batch.advance();
    let short = batch.add(request(1, 4));
    let steps = (1..).find(|_| batch.advance().iter().any(|(id, _)| *id == short)).unwrap();
    assert!(steps < 50, "{steps} steps");
}

/// A guide of another shape reads the same tokens: by loops, with little memory, and by operators.
#[test]
fn a_guide_reads_what_is_written() {
    let guide = crate::model::Config { layers: 1, ..tiny() };
    let [own, guide] = [decoder_weights(1.5), random_model(&guide, 9)]
        .map(|weights| Decoder::frozen(&weights, Place::cpu(), Kind::Float));
    let prompts: Vec<Vec<Token>> = (0..20).map(|i| made_up(1 + i * 7 % 50, i)).collect();
    let (requests, sampling) = (requests(&prompts), Sampling::new(3, 1.0, 40));
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    let page: usize = [&own, &guide].map(|one| page_layout(&one.config, Kind::Float).bytes()).iter().sum();
    let row = 4 * (own.config.vocabulary + guide.config.vocabulary);
    let alone = fly(&own, &prompts, &sampling, ENOUGH).0;
    for (guidance, nothing) in [
        (GuidanceStep::Mix { share: 0.4 }, GuidanceStep::Mix { share: 0.0 }),
        (GuidanceStep::Replace { top_k: 9 }, GuidanceStep::Replace { top_k: 300 }),
    ] {
        let by = |guidance| Author { model: &own, guide: Some(Guide { model: &guide, guidance }) };
        let fly = |guidance, budget| {
            ContinuousBatch::new(by(guidance), 1, budget)
                .unwrap()
                .run(RolloutRequest::new(&requests, &sampling, key), &uncancellable(), &mut |_| Ok(()))
                .unwrap()
        };
        let (expected, all) = fly(guidance, ENOUGH);
        assert!(expected != alone && fly(nothing, ENOUGH).0 == alone, "{guidance:?}");
        assert!(all.rows > 40 && all.preempted == 0, "{all:?}");
        let mut preempted = 0;
        for pages in [0, 30, 70] {
            let (got, took) = fly(guidance, MemoryBudget(pages * page + 30 * row));
            assert!(got == expected && took.rows <= all.rows, "{guidance:?}, {pages} pages: {took:?}");
            preempted += took.preempted;
        }
        assert!(preempted > 0, "no budget was too small for what came");
        let in_step = in_step::rollout(
            by(guidance),
            &RolloutRequest::new(&requests, &sampling, key),
            ENOUGH,
            &uncancellable(),
            &mut |_| Ok(()),
        )
        .unwrap();
        for (one, other) in crate::zip::zip_equal(&in_step, &expected) {
            assert_eq!((&one.tokens, one.truncated), (&other.tokens, other.truncated));
            assert!(one.logps.iter().zip(&other.logps).all(|(a, b)| (a - b).abs() < 1e-3));
        }
    }
}

/// One long prompt among short ones, and completions that may be long but end soon: memory follows the actual
/// tokens.
#[test]
fn memory_follows_the_tokens_that_exist() {
    let decoder = Decoder::frozen(&decoder_weights(6.0), Place::cpu(), Kind::Float);
    let prompts: Vec<Vec<Token>> =
        (0..64).map(|i| made_up(if i == 20 { 900 } else { 5 + i % 9 }, i)).collect();
    let sampling = Sampling::new(1, 1.0, 1500);
    let (completions, took) = fly(&decoder, &prompts, &sampling, ENOUGH);
    let written: Vec<usize> = completions.iter().map(|completion| completion.tokens.len()).collect();
    assert!(written.iter().max() < Some(&200), "{written:?}");
    let page = page_layout(&decoder.config, Kind::Float).bytes();
    let each = prompts.iter().zip(&written).map(|(prompt, written)| pages_of(prompt.len() + written - 1));
    assert!(took.pages <= each.sum::<usize>() * page, "{took:?}");
    assert!(took.pages * 20 < 64 * pages_of(900 + 1500) * page, "room for all that may come: {took:?}");
}

/// Predicted and actual memory agree where every completion has its largest length.
#[test]
fn predicted_memory_equals_actual_memory() {
    let decoder = Decoder::frozen(&decoder_weights(0.0), Place::cpu(), Kind::Float);
    let config = &*decoder.config;
    let (page, row) = (page_layout(config, Kind::Float).bytes(), 4 * config.vocabulary);
    for (count, n) in [(1, 1), (20, 1), (20, 5), (3, 64)] {
        let prompts: Vec<Vec<Token>> = (0..count).map(|i| made_up(1 + i * 7 % 50, i)).collect();
        let sampling = Sampling::new(n, 0.0, 60);
        let (completions, all) = fly(&decoder, &prompts, &sampling, ENOUGH);
        assert!(completions.iter().all(|completion| completion.truncated));
        let lengths = || prompts.iter().map(Vec::len);
        let predicted = |budget| memory(config, Kind::Float, lengths(), &sampling, budget);
        let between = reading(config, lengths().sum());
        assert_eq!(
            predicted(ENOUGH),
            all.pages + all.rows * row + between,
            "{count} prompts of {n}: {all:?}"
        );
        let small = MemoryBudget(all.pages / 3 + 40 * row);
        let (_, took) = fly(&decoder, &prompts, &sampling, small);
        assert!(
            took.pages + took.rows * row + between <= predicted(small),
            "{count} prompts of {n}: {took:?}"
        );
        assert!(predicted(small) <= predicted(ENOUGH) && predicted(MemoryBudget(0)) >= pages_of(60) * page);
    }
}

/// The model of [`decoder`] at every place that has operators only.
fn by_operators() -> Vec<Decoder> {
    let places = Place::tested().split_off(1);
    places.into_iter().map(|place| Decoder::frozen(&decoder_weights(2.5), place, Kind::Float)).collect()
}

/// Lockstep and continuous generation agree up to rounding.
#[test]
fn rows_in_step_write_the_same() {
    let decoder = decoder();
    let on_tensors = by_operators();
    let prompts: Vec<Vec<Token>> = (0..12).map(|i| made_up(1 + i * 7 % 50, i)).collect();
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    for settings in [Sampling::new(1, 0.0, 150), Sampling::new(4, 1.0, 150)] {
        let continuous =
            rollout(&decoder, &requests(&prompts), &settings, key, ENOUGH, &uncancellable()).unwrap();
        // With tokens drawn on the host and by operators; all rows together, and few at a time.
        let budgets = [ENOUGH, MemoryBudget(1 << 18)];
        let by_operators = on_tensors.iter().flat_map(|author| budgets.map(|budget| (author, budget)));
        for (author, budget) in std::iter::once((&decoder, ENOUGH)).chain(by_operators) {
            let in_step = in_step::rollout(
                author,
                &RolloutRequest::new(&requests(&prompts), &settings, key),
                budget,
                &uncancellable(),
                &mut |_| Ok(()),
            )
            .unwrap();
            for (one, other) in crate::zip::zip_equal(&in_step, &continuous) {
                assert_eq!((&one.tokens, one.truncated), (&other.tokens, other.truncated));
                assert!(one.logps.iter().zip(&other.logps).all(|(a, b)| (a - b).abs() < 1e-3));
            }
        }
    }
}

/// A stop ends completions of up to a million tokens within a second, in lockstep and in continuous
/// generation.
#[test]
fn stopping_ends_long_completions_within_a_second() {
    let decoder = Decoder::frozen(&decoder_weights(0.0), Place::cpu(), Kind::Float);
    let (prompts, settings) = (prompts(), Sampling::new(8, 1.0, 200_000));
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    for continuous in [true, false] {
        let control = Arc::new(Control::new(std::io::sink()));
        let from_outside = control.clone();
        let asking = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            from_outside.interrupt();
        });
        let requests = requests(&prompts);
        let outcome = match continuous {
            true => rollout(&decoder, &requests, &settings, key, ENOUGH, &control),
            false => {
                let request = RolloutRequest::new(&requests, &settings, key);
                in_step::rollout(&decoder, &request, ENOUGH, &control, &mut |_| Ok(()))
            }
        };
        assert!(matches!(outcome, Err(Error::Interrupted)));
        asking.join().unwrap();
    }
}

/// A watcher sees every completion grow to its final form, in lockstep and in continuous generation.
#[test]
fn completions_are_watched_while_they_are_written() {
    let decoder = decoder();
    let on_tensors = by_operators();
    let (prompts, settings) = (prompts(), Sampling::new(2, 1.0, 40));
    let key = Key::new(1, 2, Purpose::Rollout, 3);
    for author in std::iter::once(&decoder).chain(&on_tensors) {
        let mut seen: Vec<Vec<Completion>> = Vec::new();
        let mut watch = |completions: &[Completion]| {
            seen.push(completions.to_vec());
            Ok(())
        };
        let requests = requests(&prompts);
        let whole =
            rollout_watched(author, &requests, &settings, key, ENOUGH, &uncancellable(), &mut watch).unwrap();
        assert!(seen.len() > 1 && seen.last() == Some(&whole), "{} of {whole:?}", seen.len());
        for (before, after) in seen.iter().zip(&seen[1..]) {
            let grows = |(one, other): (&Completion, &Completion)| other.tokens.starts_with(&one.tokens);
            assert!(crate::zip::zip_equal(before, after).all(grows));
            assert_ne!(before, after);
        }
    }
}

/// Models with a state in place of keys and values are decoded by tensors: rows of a prompt share its
/// prefill, rows that end leave, and the budget changes none of the tokens.
#[test]
fn completions_with_states_do_not_depend_on_the_batch() {
    let decoder = Decoder::frozen(&weights("qwen3_5"), Place::cpu(), Kind::Float);
    let (prompts, key) = (prompts(), Key::new(3, 0, Purpose::Sample, 0));
    let all = requests(&prompts);
    let drawn = |prompts: &[Prompt], n: u32, budget: MemoryBudget| {
        rollout(&decoder, prompts, &sampling(n, 2.0), key, budget, &uncancellable()).unwrap()
    };
    let together = drawn(&all, 3, ENOUGH);
    let lengths: std::collections::BTreeSet<usize> =
        together.iter().map(|completion| completion.tokens.len()).collect();
    assert!(lengths.len() > 2, "rows leave at several steps: {lengths:?}");
    let alike = |one: &Completion, other: &Completion| {
        let apart = one.logps.iter().zip(&other.logps).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(one.tokens == other.tokens && apart < 1e-4, "{one:?} {other:?}");
    };
    for budget in [MemoryBudget(1), MemoryBudget(1 << 16)] {
        let fewer = drawn(&all, 3, budget);
        together.iter().zip(&fewer).for_each(|(one, other)| alike(one, other));
    }
    for (index, completion) in together.iter().enumerate().step_by(7) {
        let prompt = Prompt { sample: index as u32 % 3, ..all[index / 3] };
        alike(completion, &drawn(&[prompt], 1, ENOUGH)[0]);
    }
}
