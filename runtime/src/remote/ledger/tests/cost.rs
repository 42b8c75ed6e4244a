//! What the ledger costs, for the book: `ledger::tests::cost --ignored --nocapture`. Requests of the canary
//! are one token in a thousand by construction.

use std::time::Instant;

use super::super::draws::{ALPHA, DrawTest};
use super::super::gap::{self, ComparedCompletion, ROUNDED};
use super::super::prefixes::{PrefixNumbers, SequenceNumbers};
use crate::random::{Key, Purpose};
use crate::tokenizer::Token;

const SEQUENCES: usize = 64;
const TOKENS: usize = 256;
const STEPS: usize = 50;

/// The time of a step's checks for each token, in nanoseconds.
fn per_token(mut step: impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    (0..STEPS).for_each(&mut step);
    begun.elapsed().as_nanos() as f64 / (STEPS * SEQUENCES * TOKENS) as f64
}

#[test]
#[ignore = "measures, and asserts nothing"]
fn time_for_each_token() {
    let mut random = Key::new(67, 1, Purpose::Sample, 1).row(0, 0);
    let mut sequence = |_| {
        let tokens: Vec<Token> = (0..TOKENS).map(|_| (random.uniform() * 49_152.0) as Token).collect();
        let logps: Vec<f32> = (0..TOKENS).map(|_| random.uniform().ln() as f32).collect();
        (tokens, logps)
    };
    let sequences: Vec<(Vec<Token>, Vec<f32>)> = (0..SEQUENCES).map(&mut sequence).collect();
    let completions: Vec<ComparedCompletion> = (sequences.iter().enumerate())
        .map(|(index, (tokens, logps))| ComparedCompletion {
            index,
            group: index as u32 / 8,
            tokens: tokens.clone(),
            trainer: logps.clone(),
            sampler: logps.clone(),
            same_weights: true,
        })
        .collect();
    let rollouts = per_token(|_| gap::check(&completions, ROUNDED).expect("equal numbers"));
    let (mut prefixes, mut draws) = (PrefixNumbers::default(), DrawTest::new(ALPHA));
    let teacher = per_token(|step| {
        for (tokens, logps) in &sequences {
            // Other prompts in each step, as in a run.
            let numbers = SequenceNumbers {
                prompt: &[step as Token; TOKENS],
                completion: tokens,
                scored: None,
                of_tokens: logps.clone(),
                of_prefixes: logps.clone(),
            };
            prefixes.compare(&numbers);
            assert_eq!(draws.add(logps, logps), None);
        }
    });
    println!("rollouts {rollouts:.0} ns, a teacher's answers {teacher:.0} ns for each token");
}
