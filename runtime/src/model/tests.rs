//! The forward pass against an independent one in f64, written from the papers' formulas.

use std::sync::Arc;

use mopd_kernels::pages::PagedSequence;
use mopd_plan::{self as plan, Architecture};
use tch::{Kind, Tensor, no_grad_guard};

use super::*;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::random::{Key, Purpose};
use crate::tokenizer::{BEGIN, END, Token, Tokenizer};

mod adapted;
mod generated;
pub mod parity;
mod places;
mod steps;

pub fn tiny() -> Config {
    of_family(plan::Family::Llama)
}

/// Two key-value heads for four heads, so that grouping matters.
pub fn of_family(family: plan::Family) -> Config {
    Config::new(&Architecture {
        family,
        layers: 2,
        width: 16,
        heads: 4,
        key_value_heads: 2,
        intermediate_size: 24,
        context: 32,
        tokenizer: plan::TokenizerSpec::Bytes,
        tied: true,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        initial_deviation: 0.02,
    })
}

/// Weights large enough that attention and the gates are far from linear, and scales other than 1.
/// A model with a random adapter of its query and down projections.
pub fn random_adapter(base: &Arc<Weights>, rank: usize) -> Weights {
    let key = Key::new(7, rank as u64, Purpose::Initialise, 0);
    let mut numbers = key.row(0, 0);
    let mut random =
        |count: usize| (0..count).map(|_| (numbers.uniform() - 0.5) as f32).collect::<Vec<f32>>();
    let adapters = layout(&base.config)
        .into_iter()
        .filter(|entry| ["q_proj.weight", "down_proj.weight"].iter().any(|end| entry.name.ends_with(end)))
        .map(|entry| {
            let (a, b) = (random(rank * entry.shape[1]), random(entry.shape[0] * rank));
            MatrixAdapter { entry, rank, alpha: 3.0, a, b, magnitude: None }
        });
    let adapters = adapters.collect();
    Weights::merged(Merged::new(base.clone(), adapters))
}

pub fn random_model(config: &Config, seed: u64) -> Weights {
    let weights = Weights::initialise(Arc::new(config.clone()), Arc::new(Tokenizer::Bytes), seed, 0);
    let values = weights.values().into_owned().into_iter().enumerate();
    weights.with_values(
        values
            .map(|(index, value)| if value == 1.0 { 0.7 + 0.01 * (index % 60) as f32 } else { value * 15.0 })
            .collect(),
    )
}

/// Logits at every position by the definitions, in scalar code.
fn reference(weights: &Weights, tokens: &[Token]) -> Vec<Vec<f64>> {
    let sizes = &*weights.config;
    let entries = layout(sizes);
    let matrix = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name == format!("{name}.weight")).unwrap();
        let values = weights.of(entry).iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        let columns = *entry.shape.last().unwrap();
        values.chunks(columns).map(<[f64]>::to_vec).collect::<Vec<_>>()
    };
    let times = |matrix: &[Vec<f64>], x: &[f64]| -> Vec<f64> {
        matrix.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |x: &[f64], scale: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().zip(scale).map(|(x, scale)| x / (mean + sizes.norm.epsilon).sqrt() * scale).collect()
    };
    let rope = |x: &[f64], position: usize| -> Vec<f64> {
        let half = x.len() / 2;
        let mut out = x.to_vec();
        for pair in 0..half {
            let angle = position as f64 / sizes.rope.theta.powf(pair as f64 / half as f64);
            out[pair] = x[pair] * angle.cos() - x[pair + half] * angle.sin();
            out[pair + half] = x[pair + half] * angle.cos() + x[pair] * angle.sin();
        }
        out
    };
    let add = |x: &mut Vec<f64>, y: &[f64]| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);

    let embedding = matrix("model.embed_tokens");
    let mut streams: Vec<Vec<f64>> = tokens.iter().map(|&token| embedding[token as usize].clone()).collect();
    for layer in 0..sizes.layers {
        let part = |name: &str| matrix(&format!("model.layers.{layer}.{name}"));
        let (query, key, value) =
            (part("self_attn.q_proj"), part("self_attn.k_proj"), part("self_attn.v_proj"));
        let output = part("self_attn.o_proj");
        let (gate, up, down) = (part("mlp.gate_proj"), part("mlp.up_proj"), part("mlp.down_proj"));
        let (before, after) = (part("input_layernorm"), part("post_attention_layernorm"));
        let d = sizes.head_dim;
        let normed: Vec<Vec<f64>> = streams.iter().map(|x| norm(x, &before.concat())).collect();
        let heads = |matrix: &[Vec<f64>], rotated: bool| -> Vec<Vec<Vec<f64>>> {
            normed
                .iter()
                .enumerate()
                .map(|(t, x)| {
                    let all = times(matrix, x);
                    all.chunks(d).map(|head| if rotated { rope(head, t) } else { head.to_vec() }).collect()
                })
                .collect()
        };
        let (queries, keys, values) = (heads(&query, true), heads(&key, true), heads(&value, false));
        for (t, stream) in streams.iter_mut().enumerate() {
            let mut attended = Vec::new();
            for (head, query) in queries[t].iter().enumerate() {
                let group = head / (sizes.heads / sizes.key_value_heads);
                let score = |s: usize| {
                    query.iter().zip(&keys[s][group]).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
                };
                let weights: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
                let total: f64 = weights.iter().sum();
                let component =
                    |i: usize| (0..=t).map(|s| weights[s] / total * values[s][group][i]).sum::<f64>();
                attended.extend((0..d).map(component));
            }
            add(stream, &times(&output, &attended));
            let normed = norm(stream, &after.concat());
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let inner: Vec<f64> = times(&gate, &normed)
                .iter()
                .zip(times(&up, &normed))
                .map(|(gate, up)| silu(*gate) * up)
                .collect();
            add(stream, &times(&down, &inner));
        }
    }
    let head = if sizes.tied { embedding } else { matrix("lm_head") };
    let scale = matrix("model.norm").concat();
    streams.iter().map(|x| times(&head, &norm(x, &scale))).collect()
}

/// Prompts and completions of different lengths.
fn sequences() -> Vec<(Vec<Token>, Vec<Token>)> {
    [("sort: cab", "abc"), ("x", "hello wor"), ("reverse: ab", ""), ("12+34", "46")]
        .iter()
        .map(|(prompt, completion)| {
            (Tokenizer::Bytes.prompt(prompt).unwrap(), Tokenizer::Bytes.completion("", completion).unwrap())
        })
        .collect()
}

fn batch(sequences: &[(Vec<Token>, Vec<Token>)]) -> PackedBatch {
    batch_at(sequences, Place::cpu())
}

fn batch_at(sequences: &[(Vec<Token>, Vec<Token>)], place: Place) -> PackedBatch {
    PackedBatch::new(
        sequences.iter().map(|(prompt, completion)| (prompt.as_slice(), completion.as_slice())),
        place.device,
    )
}

/// The key of a loaded model includes its configuration.
#[test]
fn a_new_feature_leaves_the_keys_of_models_without_it() {
    let written = serde_json::to_value(tiny()).unwrap();
    assert_eq!((&written["embedding_scale"], written.get("logit_scale")), (&serde_json::json!(1.0), None));
}

#[test]
fn forward_equals_the_reference() {
    for (tied, key_value_heads) in [(true, 2), (false, 4), (false, 1)] {
        let weights = random_model(&Config { tied, key_value_heads, ..tiny() }, 3);
        let sequences = sequences();
        let logits = to_vec(&Decoder::frozen(&weights, Place::cpu(), Kind::Float).logits(&batch(&sequences)));
        let mut rows = logits.chunks(259);
        let mut largest = 0.0f64;
        for (prompt, completion) in &sequences {
            let tokens = [prompt.as_slice(), &completion[..completion.len() - 1]].concat();
            for expected in &reference(&weights, &tokens)[prompt.len() - 1..] {
                for (got, expected) in rows.next().unwrap().iter().zip(expected) {
                    largest = largest.max(expected.abs());
                    assert!((f64::from(*got) - expected).abs() < 2e-4, "{got} {expected}");
                }
            }
        }
        assert!(rows.next().is_none());
        assert!(largest > 1.0, "the case is too easy: {largest}");
    }
}

/// Rows that are generated token by token.
pub trait Rows {
    fn logits(&mut self) -> &[f32];
    fn step(&mut self, tokens: &[Token]);
    fn select(&mut self, rows: &[i64]);
}

impl Rows for Generator<'_> {
    fn logits(&mut self) -> &[f32] {
        self.logits()
    }

    fn step(&mut self, tokens: &[Token]) {
        self.step(tokens);
    }

    fn select(&mut self, rows: &[i64]) {
        self.select(rows);
    }
}

struct InPages<'a> {
    generator: PagedGenerator<'a>,
    rows: Vec<PagedSequence>,
}

impl Rows for InPages<'_> {
    fn logits(&mut self) -> &[f32] {
        self.generator.logits()
    }

    fn step(&mut self, tokens: &[Token]) {
        self.generator.step(self.rows.iter_mut(), tokens);
    }

    fn select(&mut self, rows: &[i64]) {
        let before = std::mem::take(&mut self.rows);
        let pages = self.generator.pages();
        self.rows = rows.iter().map(|&row| pages.share(&before[row as usize])).collect();
        before.into_iter().for_each(|row| pages.end(row));
    }
}

/// The generator with tensors, and the one with pages where it supports the model.
pub fn generators<'a>(decoder: &'a Decoder, prompts: &[&[Token]], most: usize) -> Vec<Box<dyn Rows + 'a>> {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap() + most;
    let mut all: Vec<Box<dyn Rows + 'a>> = vec![Box::new(Generator::start(decoder, prompts, most))];
    let generator = PagedGenerator::new(decoder, longest);
    assert_eq!(generator.is_some(), decoder.config.runs_on(FastPath::DecodingLoops));
    if let Some(mut generator) = generator {
        let rows = generator.read(prompts);
        all.push(Box::new(InPages { generator, rows }));
    }
    all
}

#[test]
fn generation_equals_the_forward_pass() {
    for (key_value_heads, way) in [1, 2, 4].into_iter().flat_map(|heads| [(heads, 0), (heads, 1)]) {
        let weights = random_model(&Config { key_value_heads, ..tiny() }, 4);
        let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
        let sequences = sequences();
        let prompts: Vec<&[Token]> = sequences.iter().map(|(prompt, _)| prompt.as_slice()).collect();
        let mut generator = generators(&decoder, &prompts, 9).into_iter().nth(way).unwrap();
        let mut rows: Vec<usize> = (0..prompts.len()).collect();
        for step in 0..9 {
            for (row, got) in rows.iter().zip(generator.logits().chunks(259)) {
                // The same made-up completion for all, so that rows differ only by their prompts.
                let completion: Vec<Token> = (0..=step as Token).map(|i| 97 + i).collect();
                let expected = decoder.logits(&batch(&[(sequences[*row].0.clone(), completion)]));
                let expected = to_vec(&expected);
                for (got, expected) in got.iter().zip(&expected[step * 259..]) {
                    assert!((got - expected).abs() < 1e-4, "step {step} row {row}: {got} {expected}");
                }
            }
            // Rows can leave and repeat without an effect on others.
            if step == 2 {
                generator.select(&[3, 1, 2]);
                rows = vec![3, 1, 2];
            }
            generator.step(&vec![97 + step as Token; rows.len()]);
        }
    }
}

#[test]
fn gradient_equals_finite_differences() {
    for tied in [true, false] {
        let weights = random_model(&Config { tied, ..tiny() }, 5);
        let sequences = sequences();
        let batch = batch(&sequences);
        let loss = |logits: &Tensor| {
            logits
                .log_softmax(-1, Kind::Float)
                .gather(1, &batch.targets.unsqueeze(1), false)
                .mean(Kind::Float)
        };
        let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Float);
        let trace = decoder.trace(&batch, 0);
        let hidden = trace.hidden.shallow_clone();
        let logits = hidden.linear::<&Tensor>(&decoder.lm_head().detach(), None).set_requires_grad(true);
        let [grad_logits] =
            Tensor::run_backward(&[loss(&logits)], &[&logits], false, false).try_into().unwrap();
        let (grad_hidden, grad_lm_head) =
            (grad_logits.mm(decoder.lm_head()).detach(), grad_logits.tr().mm(&hidden).detach());
        let gradient = decoder.gradient_of(trace, &grad_hidden, LmHeadGrad::whole(grad_lm_head).into());
        let gradient = to_vec(&gradient.part(0..gradient.parameters()));
        assert_eq!(gradient.len(), weights.values().len());
        for entry in layout(&weights.config) {
            // The largest component of every parameter: a mixed-up order would show.
            let part = &gradient[entry.offset..entry.offset + entry.len()];
            let (index, expected) = part
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
                .map(|(i, g)| (entry.offset + i, *g))
                .unwrap();
            let at = |delta: f32| {
                let mut moved = weights.values().into_owned();
                moved[index] += delta;
                loss(&Decoder::frozen(&weights.with_values(moved), Place::cpu(), Kind::Float).logits(&batch))
                    .double_value(&[])
            };
            let numeric = (at(2e-3) - at(-2e-3)) / 4e-3;
            let error = (numeric - f64::from(expected)).abs();
            assert!(error < 2e-3 + 0.02 * numeric.abs(), "{}: {numeric} {expected}", entry.name);
        }
    }
}

#[test]
fn weights_survive_the_device() {
    let weights = random_model(&tiny(), 6);
    assert_eq!(to_vec(Decoder::trainable(&weights, Place::cpu(), Kind::Float).flat()), *weights.values());
    let _guard = no_grad_guard();
    let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Float);
    let before = to_vec(&decoder.logits(&batch(&[(vec![BEGIN, 97], vec![98, END])])));
    // The flat vector is the model: changing it changes the outputs.
    let _ = decoder.flat().shallow_clone().fill_(0.0);
    let after = to_vec(&decoder.logits(&batch(&[(vec![BEGIN, 97], vec![98, END])])));
    assert_ne!(before, after);
    assert!(after.iter().all(|&logit| logit == 0.0));
}
