//! The CPU's own loops against libtorch's operators, which a GPU runs: every family, in every precision that
//! models compute in. `--nocapture` prints the table of the book's page on devices.

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::parity::{CASES, batch_at, gradient, references, weights};
use crate::machine::place::Place;
use crate::model::*;
use crate::tokenizer::Token;

/// The distance of two tensors, as a part of the length of the second.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let [a, b] = [a, b].map(|tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double).reshape([-1]));
    ((a - &b).norm() / b.norm()).double_value(&[])
}

/// The logits after prompts and then after a few made-up tokens, by the place's generator.
fn generated(decoder: &Decoder, prompts: &[&[Token]]) -> Tensor {
    let tokens = |step: usize| -> Vec<Token> {
        (0..prompts.len()).map(|row| (17 * step + 5 * row + 40) as Token % 256).collect()
    };
    let mut all = Vec::new();
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap() + 6;
    let generator = PagedGenerator::new(decoder, longest);
    let expected = decoder.place.loops().is_some() && decoder.config.runs_on(FastPath::DecodingLoops);
    assert_eq!(generator.is_some(), expected);
    if let Some(mut generator) = generator {
        let mut rows = generator.read(prompts);
        all.push(Tensor::from_slice(generator.logits()));
        for step in 0..5 {
            generator.step(rows.iter_mut(), &tokens(step));
            all.push(Tensor::from_slice(generator.logits()));
        }
    } else {
        let mut generator = Generator::start(decoder, prompts, 6);
        all.push(generator.logits_on_device().reshape([-1]).copy());
        for step in 0..5 {
            generator.step(&tokens(step));
            all.push(generator.logits_on_device().reshape([-1]).copy());
        }
    }
    Tensor::cat(&all, 0)
}

#[test]
fn operators_compute_what_the_loops_do() {
    println!("| family | place | precision | last hidden states | gradient | logits of generation |");
    println!("|---|---|---|---:|---:|---:|");
    for (kind, name, bounds) in [
        (Kind::Float, "float32", [2e-6, 2e-5, 5e-6]),
        // libtorch's operators round to three digits after each operation of a layer; the loops keep more.
        (Kind::BFloat16, "bfloat16", [3e-2, 1e-1, 5e-2]),
    ] {
        for case in CASES {
            let (weights, references) = (weights(case), references(case));
            let prompts: Vec<&[Token]> =
                references.iter().map(|reference| &reference.tokens[..reference.tokens.len() / 2]).collect();
            let computed = |place: Place| {
                let decoder = Decoder::trainable(&weights, place, kind);
                let batch = batch_at(&references, place);
                let gradient = gradient(&decoder, &batch, 1);
                let _guard = no_grad_guard();
                [decoder.hidden(&batch), gradient, generated(&decoder, &prompts)]
            };
            let loops = computed(Place::cpu());
            for place in &Place::tested()[1..] {
                let operators = computed(*place);
                let apart: Vec<f64> = loops.iter().zip(&operators).map(|(a, b)| apart(b, a)).collect();
                let place = place.name();
                println!(
                    "| {case} | {place} | {name} | {:.1e} | {:.1e} | {:.1e} |",
                    apart[0], apart[1], apart[2]
                );
                for (apart, bound) in apart.iter().zip(bounds) {
                    // Mixtures of experts: a rounding may choose another expert for a token.
                    let bound = if case.contains("moe") && kind == Kind::BFloat16 { 0.5 } else { bound };
                    assert!(*apart < bound, "{case} in {name}, {place}: {apart:.1e}, not {bound:.0e}");
                }
            }
        }
    }
}

/// A prompt's logits have the same bits alone, with other prompts, in passes that split prompts, and token by
/// token; they are near those of the tensors.
#[test]
fn prompts_that_are_read_as_rows_do_not_depend_on_each_other() {
    let _guard = no_grad_guard();
    for case in CASES {
        let decoder = Decoder::frozen(&weights(case), Place::cpu(), Kind::Float);
        let own: Vec<Vec<Token>> = references(case).into_iter().map(|of| of.tokens).collect();
        let longest = own.iter().map(Vec::len).max().unwrap();
        let Some(mut generator) = PagedGenerator::new(&decoder, longest + 1) else {
            assert!(!decoder.config.runs_on(FastPath::DecodingLoops), "{case}");
            continue;
        };
        if !generator.reads_rows(1) {
            assert!(case.contains("moe"), "{case}");
            continue;
        }
        // More tokens than fit in one pass.
        let prompts: Vec<&[Token]> = own.iter().map(Vec::as_slice).cycle().take(300 / own.len()).collect();
        assert!(prompts.iter().map(|prompt| prompt.len()).sum::<usize>() > 256, "{case}");
        let vocabulary = decoder.config.vocabulary;
        let together = generator.read_rows(&prompts);
        let logits = generator.logits().to_vec();
        for (prompt, expected) in prompts.iter().zip(logits.chunks(vocabulary)).take(own.len()) {
            let alone = generator.read_rows(&[prompt]).pop().unwrap();
            assert_eq!(generator.logits(), expected, "{case}");
            let mut rows = generator.read_rows(&[&prompt[..1]]);
            for token in &prompt[1..] {
                generator.step(rows.iter_mut(), &[*token]);
            }
            assert_eq!(generator.logits(), expected, "{case}, token by token");
            rows.into_iter().chain([alone]).for_each(|row| generator.pages().end(row));
            let row = generator.read(&[prompt]).pop().unwrap();
            let [rows, tensors] = [expected, generator.logits()].map(Tensor::from_slice);
            assert!(apart(&rows, &tensors) < 5e-6, "{case}: {}", apart(&rows, &tensors));
            generator.pages().end(row);
        }
        // Steps after the prompts give equal bits, too.
        let mut together = together;
        let next = vec![65; together.len()];
        generator.step(together.iter_mut(), &next);
        let logits = generator.logits().to_vec();
        let mut alone = generator.read_rows(&prompts[..1]);
        generator.step(alone.iter_mut(), &[65]);
        assert_eq!(generator.logits(), &logits[..vocabulary], "{case}");
    }
}
