//! The gradient from activations that generation saved, against that of a forward pass and against float64.

use tch::{Kind, Tensor, no_grad_guard};

use super::parity::{CASES, batch_at, gradient, gradient_of_trace, mean_logp, references, weights};
use crate::machine::place::Place;
use crate::model::*;
use crate::tokenizer::Token;

/// Activations saved while prompts are read, as `rows` or by tensors, and completions token by token.
fn generated(
    decoder: &Decoder,
    sequences: &[(Vec<Token>, Vec<Token>)],
    rows: bool,
    recomputed: usize,
) -> GeneratedActivations {
    let mut activations = GeneratedActivations::new(recomputed);
    let longest = sequences.iter().map(|(prompt, completion)| prompt.len() + completion.len()).max().unwrap();
    let mut generator = PagedGenerator::new(decoder, longest).unwrap();
    generator.save(&mut activations);
    let prompts: Vec<&[Token]> = sequences.iter().map(|(prompt, _)| prompt.as_slice()).collect();
    let mut pages = if rows { generator.read_rows(&prompts) } else { generator.read(&prompts) };
    let mut just_read = generator.activations().unwrap().just_read().to_vec().into_iter();
    let mut saved: Vec<Vec<_>> =
        prompts.iter().map(|prompt| just_read.by_ref().take(prompt.len()).collect()).collect();
    for place in 0.. {
        // The last token of a completion is never read.
        let on: Vec<usize> = (0..sequences.len()).filter(|row| place + 1 < sequences[*row].1.len()).collect();
        if on.is_empty() {
            break;
        }
        let tokens: Vec<Token> = on.iter().map(|row| sequences[*row].1[place]).collect();
        let of = pages.iter_mut().enumerate().filter(|(row, _)| on.contains(row)).map(|(_, pages)| pages);
        generator.step(of, &tokens);
        let just_read = generator.activations().unwrap().just_read().to_vec();
        on.iter().zip(just_read).for_each(|(row, token)| saved[*row].push(token));
    }
    for ((prompt, completion), saved) in sequences.iter().zip(saved) {
        activations.insert([prompt, &completion[..completion.len() - 1]].concat(), saved);
    }
    activations
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let [a, b] = [a, b].map(|tensor| tensor.to_kind(Kind::Double).reshape([-1]));
    ((a - &b).norm() / b.norm()).double_value(&[])
}

/// In float32, both are equally close to float64; in bfloat16, generation rounds less often.
#[test]
fn the_gradient_of_generation_is_that_of_a_forward_pass() {
    let mut tried = Vec::new();
    for case in CASES {
        let (weights, references) = (weights(case), references(case));
        let batch = batch_at(&references, Place::cpu());
        let sequences: Vec<_> = references.iter().map(super::parity::Reference::sequence).collect();
        let exact = gradient(&Decoder::trainable(&weights, Place::cpu(), Kind::Double), &batch, 0);
        for (kind, rows, recomputed) in [
            (Kind::Float, true, 0),
            (Kind::Float, false, 0),
            (Kind::Float, true, 1),
            (Kind::BFloat16, false, 0),
            (Kind::BFloat16, false, usize::MAX),
        ] {
            let decoder = Decoder::trainable(&weights, Place::cpu(), kind);
            if !decoder.saves_activations() {
                continue;
            }
            let trace =
                generated(&decoder, &sequences, rows, recomputed).into_trace(&decoder, &batch).unwrap();
            let forward = apart(&trace.hidden, &decoder.hidden(&batch));
            let (_, found) = gradient_of_trace(&decoder, trace, |logits| mean_logp(logits, &batch));
            let [from_exact, of_pass] = [&found, &gradient(&decoder, &batch, 0)].map(|of| apart(of, &exact));
            println!("{case} {kind:?} {rows} {recomputed}: {forward:.1e}, {from_exact:.1e} ({of_pass:.1e})");
            let within = if kind == Kind::Float { [2e-6, 2e-5] } else { [3e-2, 1e-1] };
            assert!(
                forward < within[0] && from_exact < within[1],
                "{case}, {kind:?}: {forward}, {from_exact}"
            );
            assert!(from_exact < 2.0 * of_pass, "{case}, {kind:?}: {from_exact} where a pass has {of_pass}");
            tried.push(case);
        }
    }
    tried.dedup();
    let others: Vec<&str> = CASES.into_iter().filter(|case| !tried.contains(case)).collect();
    // Not supported: biases in units, experts, layers without attention, heads rotated in part, and
    // normalisations after the parts of a layer.
    let expected = ["llama_bias", "qwen3_moe", "qwen3_moe_unnormalised", "qwen3_5", "qwen3_5_untied"];
    assert_eq!(
        others,
        [
            &expected[..],
            &["gpt_oss", "gpt_oss_mxfp4", "lfm2", "lfm2_bias", "phi3_longrope", "gemma2", "gemma3_text"]
        ]
        .concat()
    );
}

/// A sequence that was not generated, or that is trained on with other tokens, has no activations.
#[test]
fn sequences_that_were_not_generated_have_no_activations() {
    let weights = weights("llama");
    let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::Float);
    let references = references("llama");
    let sequences: Vec<_> = references.iter().map(super::parity::Reference::sequence).collect();
    let mut others = sequences.clone();
    others[1].1[0] += 1;
    let _guard = no_grad_guard();
    let trace = |of: &[(Vec<Token>, Vec<Token>)], batch: &[(Vec<Token>, Vec<Token>)]| {
        generated(&decoder, of, true, 0).into_trace(&decoder, &super::batch(batch))
    };
    assert!(trace(&sequences, &others).is_none() && trace(&sequences[1..], &sequences).is_none());
    // The token after the last one that was read does not matter, and a batch may omit sequences.
    others[1] = sequences[1].clone();
    *others[2].1.last_mut().unwrap() += 1;
    let found = trace(&sequences, &others[1..]).unwrap().hidden;
    assert!(apart(&found, &decoder.hidden(&super::batch(&others[1..]))) < 2e-6);
}
