//! Every family against the reference library: small checkpoints with its outputs for them in float64, made
//! by `tests/fixtures/architectures.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor, no_grad_guard};

use crate::formats::huggingface;
use crate::machine::place::Place;
use crate::model::attention::cap;
use crate::model::*;
use crate::tokenizer::{Token, Tokenizer};

pub(super) const CASES: [&str; 24] = [
    "llama",
    "llama_tied",
    "llama_bias",
    "llama_rope_llama3",
    "llama_rope_linear",
    "llama_rope_yarn",
    "granite",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_unnormalised",
    "qwen3_5",
    "qwen3_5_untied",
    "smollm3",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "lfm2",
    "lfm2_bias",
    "phi3",
    "phi3_longrope",
    "gemma",
    "gemma2",
    "gemma3_text",
];

const VOCABULARY: usize = 272;

fn folder(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(case)
}

/// The numbers of a file, by name.
pub fn read(file: &Path) -> HashMap<String, Vec<f64>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |(name, view): (String, safetensors::tensor::TensorView)| {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::BF16 => {
                data.chunks(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f64()).collect()
            }
            Dtype::F32 => {
                data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            other => panic!("{name} is {other:?}"),
        };
        (name, values)
    };
    tensors.tensors().into_iter().map(numbers).collect()
}

pub fn weights(case: &str) -> Weights {
    load(&folder(case))
}

pub fn load(folder: &Path) -> Weights {
    huggingface::weights(folder, Arc::new(Tokenizer::Bytes)).unwrap()
}

fn with_config(weights: &Weights, change: impl FnOnce(&mut Config)) -> Weights {
    let mut config = (*weights.config).clone();
    change(&mut config);
    Weights::new(Arc::new(config), weights.tokenizer.clone(), weights.values().into_owned())
}

pub(super) struct Reference {
    pub tokens: Vec<Token>,
    /// The logits after each of the last tokens, eight at most.
    logits: Vec<f64>,
    greedy: Vec<Token>,
}

pub(super) fn references(case: &str) -> Vec<Reference> {
    let mut stored = read(&folder(case).join("reference.safetensors"));
    let mut of = |what: &str, index: usize| stored.remove(&format!("{what}.{index}")).unwrap();
    let tokens = |values: Vec<f64>| values.into_iter().map(|value| value as Token).collect();
    (0..3)
        .map(|index| Reference {
            tokens: tokens(of("tokens", index)),
            logits: of("logits", index),
            greedy: tokens(of("greedy", index)),
        })
        .collect()
}

impl Reference {
    /// A sequence whose predicted positions are those with known logits. The last token is only predicted.
    pub(super) fn sequence(&self) -> (Vec<Token>, Vec<Token>) {
        let known = self.logits.len() / VOCABULARY;
        let (prompt, rest) = self.tokens.split_at(self.tokens.len() + 1 - known);
        (prompt.to_vec(), rest.iter().copied().chain([0]).collect())
    }
}

/// Sequences of different lengths, all in one batch.
pub(super) fn batch(references: &[Reference]) -> PackedBatch {
    batch_at(references, Place::cpu())
}

pub(super) fn batch_at(references: &[Reference], place: Place) -> PackedBatch {
    super::batch_at(&references.iter().map(Reference::sequence).collect::<Vec<_>>(), place)
}

fn expected(references: &[Reference]) -> Vec<f64> {
    references.iter().flat_map(|reference| reference.logits.clone()).collect()
}

fn largest_difference(tensor: &Tensor, expected: &[f64]) -> f64 {
    let got = Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap();
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f64::max)
}

#[test]
fn logits_equal_the_reference() {
    let _guard = no_grad_guard();
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let (batch, expected) = (batch(&references), expected(&references));
        let difference = |kind| {
            let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
            largest_difference(&decoder.logits(&batch), &expected)
        };
        let (single, double) = (difference(Kind::Float), difference(Kind::Double));
        println!("{case}: {single:.1e} in f32, {double:.1e} in f64");
        assert!(single < 5e-5, "{case}: {single}");
        // What remains is the rounding of the stored logits, and of the rotary tables.
        assert!(double < 2e-6, "{case}: {double}");
    }
}

/// Every sequence of a case by the generator, all in one batch.
#[test]
fn greedy_tokens_equal_the_reference() {
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
        let prompts: Vec<&[Token]> = references.iter().map(|reference| reference.tokens.as_slice()).collect();
        for mut generator in super::generators(&decoder, &prompts, 64) {
            for step in 0..64 {
                let logits = Tensor::from_slice(generator.logits()).view([prompts.len() as i64, -1]);
                let tokens: Vec<Token> = Vec::try_from(logits.argmax(1, false)).unwrap();
                for (row, (token, reference)) in tokens.iter().zip(&references).enumerate() {
                    assert_eq!(*token, reference.greedy[step], "{case}: row {row}, step {step}");
                }
                generator.step(&tokens);
            }
        }
    }
}

#[test]
fn generation_equals_the_forward_pass() {
    let _guard = no_grad_guard();
    for (case, way) in CASES.into_iter().flat_map(|case| [(case, 0), (case, 1)]) {
        let (weights, references) = (weights(case), references(case));
        let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
        let prompts: Vec<&[Token]> =
            references.iter().map(|reference| &reference.tokens[..reference.tokens.len() / 2]).collect();
        let Some(mut generator) = super::generators(&decoder, &prompts, 30).into_iter().nth(way) else {
            continue;
        };
        // Rows leave, and several rows continue the same prompt.
        let mut rows = vec![2, 0, 2, 1];
        generator.select(&[2, 0, 2, 1]);
        for step in 0..20 {
            let tokens: Vec<Token> =
                (0..rows.len()).map(|place| (17 * step + 5 * place + 40) as Token % 256).collect();
            if step == 12 {
                generator.select(&[3, 0]);
                rows = vec![1, 2];
            }
            let tokens = &tokens[..rows.len()];
            generator.step(tokens);
            let got = Tensor::from_slice(generator.logits());
            let sequence = |place: usize| {
                // The index that this row had before the others left.
                let written = |step: usize| {
                    let place = if step < 12 && rows.len() == 2 { [3, 0][place] } else { place };
                    (17 * step + 5 * place + 40) as Token % 256
                };
                let prompt: Vec<Token> =
                    prompts[rows[place]].iter().copied().chain((0..step).map(written)).collect();
                (prompt.into_iter().chain([tokens[place]]).collect(), vec![0])
            };
            let sequences: Vec<_> = (0..rows.len()).map(sequence).collect();
            let expected = Vec::<f64>::try_from(
                decoder.logits(&super::batch(&sequences)).to_kind(Kind::Double).reshape([-1]),
            );
            let difference = largest_difference(&got, &expected.unwrap());
            assert!(difference < 5e-5, "{case}: step {step}: {difference}");
        }
    }
}

/// The parity of a fixture tests a feature only if the fixture's logits depend on it.
#[test]
fn every_feature_changes_the_logits() {
    let _guard = no_grad_guard();
    type Change = fn(&mut Config);
    let no_scaling: Change = |config| config.rope.scaling = RopeScaling::None;
    let no_window: Change = |config| config.attention.iter_mut().for_each(|layer| layer.window = None);
    let wider: Change = |config| {
        config.attention.iter_mut().for_each(|layer| layer.window = layer.window.map(|window| window + 1))
    };
    let default_scale: Change = |config| config.attention_scale = 1.0 / (config.head_dim as f64).sqrt();
    let unscaled: Change = |config| config.embedding_scale = EmbeddingScale::Exact(1.0);
    let cases: [(&str, &str, Change); 36] = [
        ("llama", "theta", |config| config.rope.theta = 10_000.0),
        ("llama_rope_llama3", "scaling", no_scaling),
        ("llama_rope_linear", "scaling", no_scaling),
        ("llama_rope_yarn", "scaling", no_scaling),
        ("llama_rope_yarn", "attention factor", |config| {
            if let RopeScaling::Yarn { attention, .. } = &mut config.rope.scaling {
                *attention = 1.0;
            }
        }),
        ("granite", "embedding scale", unscaled),
        ("granite", "attention scale", default_scale),
        ("granite", "logit scale", |config| config.logit_scale = 1.0),
        ("mistral", "window", no_window),
        ("mistral", "window's width", wider),
        ("qwen2", "window", no_window),
        ("qwen3", "epsilon", |config| config.norm.epsilon = 0.01),
        ("qwen3_moe", "normalised", |config| {
            config.experts.iter_mut().for_each(|experts| experts.normalised = false)
        }),
        ("qwen3_moe", "top-k", |config| config.experts.iter_mut().for_each(|experts| experts.per_token = 1)),
        ("qwen3_moe_unnormalised", "normalised", |config| {
            config.experts.iter_mut().for_each(|experts| experts.normalised = true);
        }),
        ("qwen3_5", "offset", |config| config.norm.offset = 0.0),
        ("qwen3_5", "heads rotated in part", |config| config.rotary_dim = None),
        ("smollm3", "no positions", |config| {
            config.attention.iter_mut().for_each(|layer| layer.rotary = true)
        }),
        ("gpt_oss", "window", no_window),
        ("gpt_oss", "factor of the gate", |config| {
            let unit = config.experts.as_mut().and_then(|experts| experts.clamped.as_mut());
            unit.unwrap().alpha = 1.702;
        }),
        ("gpt_oss", "limit", |config| {
            let unit = config.experts.as_mut().and_then(|experts| experts.clamped.as_mut());
            unit.unwrap().limit = 7.0;
        }),
        ("lfm2_bias", "epsilon", |config| config.norm.epsilon = 1e-6),
        ("phi3", "window", no_window),
        ("phi3_longrope", "scaling", no_scaling),
        ("phi3_longrope", "attention factor", |config| {
            if let RopeScaling::LongRope { attention, .. } = &mut config.rope.scaling {
                *attention = 1.0;
            }
        }),
        ("phi3_longrope", "short factors", |config| {
            if let RopeScaling::LongRope { short, long, .. } = &mut config.rope.scaling {
                std::mem::swap(short, long);
            }
        }),
        ("gemma", "embedding scale", unscaled),
        ("gemma", "offset", |config| config.norm.offset = 0.0),
        ("gemma", "activation", |config| config.activation = Activation::Silu),
        ("gemma2", "attention scale", default_scale),
        ("gemma2", "attention cap", |config| config.attention_softcap = None),
        ("gemma2", "logit cap", |config| config.logit_softcap = None),
        ("gemma2", "window", no_window),
        ("gemma3_text", "attention scale", default_scale),
        ("gemma3_text", "local rope", |config| config.local_rope = None),
        ("gemma3_text", "window", no_window),
    ];
    for (case, feature, change) in cases {
        let references = references(case);
        let decoder = Decoder::frozen(&with_config(&weights(case), change), Place::cpu(), Kind::Float);
        let difference = largest_difference(&decoder.logits(&batch(&references)), &expected(&references));
        assert!(difference > 1e-2, "{case} can't tell its {feature}: {difference}");
    }
}

/// The median is bounded, not the largest: rounding may choose another expert for a token.
#[test]
fn bf16_differs_by_rounding() {
    let _guard = no_grad_guard();
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let batch = batch(&references);
        let logps = |kind| {
            let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
            decoder.logits(&batch).log_softmax(-1, Kind::Float)
        };
        let (single, half) = (logps(Kind::Float), logps(Kind::BFloat16));
        let divergences = (single.exp() * (single - half)).sum_dim_intlist(-1, false, Kind::Float);
        let divergence = divergences.median().double_value(&[]);
        println!("{case}: {divergence:.1e}");
        assert!(divergence > 1e-7, "{case} is not in half precision");
        assert!(divergence < 3e-3, "{case}: {divergence}");
    }
}

/// A teacher that equals the student gives the same bits, so that their divergence is 0 and nothing is learnt
/// from it.
#[test]
fn equal_weights_give_equal_bits() {
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let batch = batch(&references);
        for kind in [Kind::Float, Kind::BFloat16] {
            let student = Decoder::trainable(&weights, Place::cpu(), kind);
            let teacher = Decoder::frozen(&weights.clone(), Place::cpu(), kind);
            for recomputed in [0, 1] {
                assert!(
                    student.trace(&batch, recomputed).hidden.equal(&teacher.hidden(&batch)),
                    "{case} in {kind:?}"
                );
            }
        }
    }
}

/// A loss of logits, and d loss / d parameters by [`Decoder::gradient_of`].
pub fn loss_and_gradient(
    decoder: &Decoder,
    batch: &PackedBatch,
    recomputed: usize,
    loss: impl Fn(&Tensor) -> Tensor,
) -> (f64, Tensor) {
    gradient_of_trace(decoder, decoder.trace(batch, recomputed), loss)
}

/// The same with the activations that a forward pass saved.
pub fn gradient_of_trace(
    decoder: &Decoder,
    trace: SavedActivations,
    loss: impl Fn(&Tensor) -> Tensor,
) -> (f64, Tensor) {
    let hidden = trace.hidden.detach().set_requires_grad(true);
    let matrix = decoder.lm_head().detach().set_requires_grad(true);
    let loss = loss(&cap(hidden.linear::<&Tensor>(&matrix, None), decoder.config.logit_softcap));
    let [grad_hidden, grad_lm_head] =
        Tensor::run_backward(&[&loss], &[&hidden, &matrix], false, false).try_into().unwrap();
    // Sums of half-precision products are in single precision.
    let grad_lm_head = match decoder.kind() {
        Kind::BFloat16 => grad_lm_head.to_kind(Kind::Float),
        _ => grad_lm_head,
    };
    let gradient = decoder.gradient_of(trace, &grad_hidden, LmHeadGrad::whole(grad_lm_head).into());
    (loss.double_value(&[]), gradient.part(0..gradient.parameters()))
}

/// The gradient of the mean log-probability of the batch's targets.
pub(super) fn gradient(decoder: &Decoder, batch: &PackedBatch, recomputed: usize) -> Tensor {
    loss_and_gradient(decoder, batch, recomputed, |logits| mean_logp(logits, batch)).1
}

pub(super) fn mean_logp(logits: &Tensor, batch: &PackedBatch) -> Tensor {
    logits.log_softmax(-1, None::<Kind>).gather(1, &batch.targets.unsqueeze(1), false).mean(None::<Kind>)
}

/// Against difference quotients in f64, exact to many digits, for the largest component of every parameter.
#[test]
fn gradient_equals_difference_quotients() {
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let batch = batch(&references);
        let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Double);
        let gradient = gradient(&decoder, &batch, 0);
        let single = gradient_in_f32(&weights, &batch);
        let relative =
            ((&single.to_kind(Kind::Double) - &gradient).norm() / gradient.norm()).double_value(&[]);
        assert!(relative < 2e-5, "{case}: {relative} in f32");
        let _guard = no_grad_guard();
        for entry in layout(&weights.config) {
            let part = gradient.narrow(0, entry.offset as i64, entry.len() as i64);
            let index = entry.offset as i64 + part.abs().argmax(0, false).int64_value(&[]);
            let expected = gradient.double_value(&[index]);
            let mut parameter = decoder.flat().narrow(0, index, 1);
            let step = 1e-5;
            let mut at = |delta: f64| {
                let _ = parameter.g_add_scalar_(delta);
                mean_logp(&decoder.logits(&batch), &batch).double_value(&[])
            };
            let (above, below) = (at(step), at(-2.0 * step));
            at(step);
            let numeric = (above - below) / (2.0 * step);
            let error = (numeric - expected).abs();
            // An expert that no token of the batch uses has no gradient.
            assert!(
                expected != 0.0 || entry.name.contains("experts"),
                "{case}: {} has no gradient",
                entry.name
            );
            assert!(error < 1e-8 + 1e-6 * expected.abs(), "{case}: {}: {numeric} {expected}", entry.name);
        }
    }
}

fn gradient_in_f32(weights: &Weights, batch: &PackedBatch) -> Tensor {
    gradient(&Decoder::trainable(weights, Place::cpu(), Kind::Float), batch, 0)
}

#[test]
fn layers_run_again_give_the_same_gradient() {
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let batch = batch(&references);
        let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Float);
        let plain = gradient(&decoder, &batch, 0);
        // A number above that of the layers means all.
        for recomputed in 1..=weights.config.layers + 1 {
            assert!(plain.equal(&gradient(&decoder, &batch, recomputed)), "{case}: {recomputed} layers");
        }
    }
}

#[test]
fn expert_load_is_counted() {
    let weights = weights("qwen3_moe");
    let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Float);
    assert_eq!(decoder.take_expert_load(), None);
    let references = references("qwen3_moe");
    // Recomputing layers for the gradient does not count their tokens again.
    let gradient = gradient(&decoder, &batch(&references), 3);
    assert_eq!(gradient.numel(), weights.values().len());
    let load = decoder.take_expert_load().unwrap();
    let tokens: usize = references.iter().map(|reference| reference.tokens.len()).sum();
    let predictors: usize = references.iter().map(|reference| reference.logits.len() / VOCABULARY).sum();
    // Two experts for each token; the last layer only sees the tokens whose predictions matter. The layer
    // between has none.
    let totals: Vec<i64> = load.counts.iter().map(|counts| counts.iter().sum()).collect();
    assert_eq!(totals, [2 * tokens as i64, 2 * predictors as i64]);
    assert!(load.shares().iter().all(|shares| (shares.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    assert_eq!(decoder.take_expert_load(), None);

    let even = ExpertLoad { counts: vec![vec![5; 4]] };
    assert_eq!((even.largest_share(), even.entropy()), (0.25, 1.0));
    let collapsed = ExpertLoad { counts: vec![vec![0, 9, 0]] };
    assert_eq!((collapsed.largest_share(), collapsed.entropy()), (1.0, 0.0));
    // One expert takes half of a layer's tokens: (1.5 ln 2) / ln 4 there, 1 in the other.
    let half = ExpertLoad { counts: vec![vec![4, 2, 2, 0], vec![2, 2, 2, 2]] };
    assert!((half.entropy() - 0.875).abs() < 1e-12);
    assert_eq!(half.largest_share(), 0.5);
}
