//! Gradients of toy models against sums that are written out: over all that can be drawn, with probabilities
//! and scores and nothing else of the audit.

use mopd_lang::experiment::Objective;
use mopd_lang::formula::Role;
use mopd_lang::source::SourceFile;

use super::expectation::{ALL, CompiledTerm};
use super::judge::Query;
use super::leaves::length;
use super::sampler::Sampler;
use super::teachers::Teachers;
use super::toy_model::{RunNumbers, ToyModel, ToyMoment, Variation};
use super::view::{Left, TermView};

fn objective(body: &str) -> Objective {
    let text = format!("objective o {{\n{body}\nreduce = mean(token, over: batch)\n}}\n");
    let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
    match analysis.objectives.into_iter().next() {
        Some(named) => named.objective,
        None => panic!("{body}: {:?}", analysis.diagnostics),
    }
}

/// The toy models of the objective's one term, and its expected gradient in each.
fn gradients(objective: &Objective) -> Vec<(ToyModel, Vec<f64>)> {
    let view = TermView::of(objective, &objective.terms[0], Left::default());
    let moment = ToyMoment { step: (0, 1), run: RunNumbers::AtStep, longest: f64::INFINITY };
    let query = Query::of(view, &Sampler::ON_POLICY, &Teachers::default(), moment).expect("a toy model");
    let compiled = CompiledTerm::of(&query.view, ALL).expect("a graph");
    let toys = query.spec.toys(Variation::Usual);
    let of = |toy: ToyModel| {
        let gradient = compiled.expectation(&toy, ALL).expect("it can be enumerated").gradient;
        (toy, gradient)
    };
    toys.into_iter().map(of).collect()
}

/// What a completion's score is multiplied with: the group, which of its completions, which token of that.
type Factor<'a> = dyn Fn(&[Vec<usize>], usize, usize) -> f64 + 'a;

/// The sum over all drawings of their probability, a factor of each token and the token's score, per token
/// that follows a prefix. Of one prompt.
fn enumerated(toy: &ToyModel, factor: &Factor) -> Vec<f64> {
    let size = toy.size;
    assert_eq!(size.prompts, 1);
    let student = |prefix: usize| toy.logp(&Role::Student, prefix).expect("a student");
    let mut gradient = vec![0.0; size.logits()];
    let mut visits = vec![0.0; size.prefixes()];
    for tokens in size.outcomes() {
        let completions: Vec<Vec<usize>> = tokens.chunks(size.length).map(<[usize]>::to_vec).collect();
        let mut probability = 1.0;
        for completion in &completions {
            for at in 0..size.length {
                probability *= student(size.prefix(0, &completion[..at]))[completion[at]].exp();
            }
        }
        for (sample, completion) in completions.iter().enumerate() {
            for at in 0..size.length {
                let prefix = size.prefix(0, &completion[..at]);
                visits[prefix] += probability;
                for entry in 0..size.vocabulary {
                    let taken = if entry == completion[at] { 1.0 } else { 0.0 };
                    let score = taken - student(prefix)[entry].exp();
                    gradient[prefix * size.vocabulary + entry] +=
                        probability * factor(&completions, sample, at) * score;
                }
            }
        }
    }
    gradient.iter().enumerate().map(|(at, partial)| partial / visits[at / size.vocabulary]).collect()
}

fn close(found: &[f64], known: &[f64]) {
    assert_eq!(found.len(), known.len());
    let largest = known.iter().fold(0.0f64, |most, known| most.max(known.abs()));
    assert!(largest > 1e-3, "there is something to compare");
    for (found, known) in found.iter().zip(known) {
        assert!((found - known).abs() <= 1e-12 * largest, "{found} is not {known}");
    }
}

/// A token's score meets the numbers of all tokens of its completion, those behind it included.
#[test]
fn a_mean_over_the_group_of_token_numbers_is_of_whole_completions() {
    let term = objective(
        "let gap = teacher.logp - student.logp\nterm t = -mean(gap, over: group) * live student.logp",
    );
    for (toy, gradient) in gradients(&term) {
        assert_eq!((toy.size.samples, toy.size.length), (2, 2));
        let gap = |completion: &[usize], at: usize| {
            let prefix = toy.size.prefix(0, &completion[..at]);
            let of = |role: &Role| toy.logp(role, prefix).expect("both are known")[completion[at]];
            of(&Role::Teacher) - of(&Role::Student)
        };
        let mean = |completions: &[Vec<usize>], _: usize, _: usize| {
            -completions.iter().map(|own| gap(own, 0) + gap(own, 1)).sum::<f64>() / 4.0
        };
        close(&gradient, &enumerated(&toy, &mean));
    }
}

#[test]
fn completions_have_lengths_of_their_own() {
    let lengths = |toy: &ToyModel| -> Vec<usize> {
        toy.size.completions().map(|completion| length(toy, 0, &completion)).collect()
    };
    for (toy, gradient) in gradients(&objective("term t = length * live student.logp")) {
        let known = lengths(&toy);
        assert!(known.iter().any(|length| *length != known[0]), "{known:?}");
        let factor = |completions: &[Vec<usize>], sample: usize, _: usize| {
            length(&toy, 0, &completions[sample]) as f64
        };
        close(&gradient, &enumerated(&toy, &factor));
    }
    // After the last token nothing remains; before it, what makes up the length.
    for (toy, gradient) in gradients(&objective("term t = remaining * live student.logp")) {
        assert_eq!(toy.size.length, 2);
        let factor = |completions: &[Vec<usize>], sample: usize, at: usize| match at {
            0 => length(&toy, 0, &completions[sample]) as f64 - 100.0,
            _ => 0.0,
        };
        close(&gradient, &enumerated(&toy, &factor));
    }
}
