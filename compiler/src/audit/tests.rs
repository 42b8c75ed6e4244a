//! Gradients of toy models against sums that are written out over all outcomes, with probabilities and scores
//! and nothing else of the audit.

use mopd_experiment::formula::{FormulaKind, Role};
use mopd_experiment::{Objective, StageStep};
use mopd_lang::source::SourceFile;

use super::bounds::never_positive;
use super::expectation::{ALL, CompiledTerm};
use super::judge::Query;
use super::leaves::length;
use super::lengths::TokenShares;
use super::sampler::Sampler;
use super::teachers::Teachers;
use super::toy_model::{RunNumbers, ToyModel, ToyMoment, Variation};
use super::view::{SampleFilter, TermView};

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
    let view = TermView::new(objective, &objective.terms[0], SampleFilter::default());
    let moment =
        ToyMoment { step: StageStep { step: 0, steps: 1 }, run: RunNumbers::AtStep, longest: f64::INFINITY };
    let query = Query::new(view, &Sampler::ON_POLICY, &Teachers::default(), moment).expect("a toy model");
    let compiled = CompiledTerm::new(&query.view, ALL).expect("a graph");
    let toys = query.spec.toys(Variation::Usual);
    let of = |toy: ToyModel| {
        let gradient = compiled.expectation(&toy, ALL).expect("it can be enumerated").gradient;
        (toy, gradient)
    };
    toys.into_iter().map(of).collect()
}

/// The factor of a token's score, from the group, the index of the completion, and that of the token.
type Factor<'a> = dyn Fn(&[Vec<usize>], usize, usize) -> f64 + 'a;

/// The sum over all outcomes of their probability, a factor of each token and the token's score, per token
/// that follows a prefix. For one prompt.
fn enumerated(toy: &ToyModel, factor: &Factor) -> Vec<f64> {
    let size = toy.size;
    assert_eq!(size.prompts, 1);
    let student = |prefix: usize| toy.logp(&Role::Student, prefix).expect("a student");
    let mut gradient = vec![0.0; size.logits()];
    let mut visits = vec![0.0; size.prefixes()];
    for completions in size.outcomes() {
        let mut probability = 1.0;
        for completion in &completions {
            for at in 0..completion.len() {
                probability *= student(size.prefix(0, &completion[..at]))[completion[at]].exp();
            }
        }
        for (sample, completion) in completions.iter().enumerate() {
            for at in 0..completion.len() {
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
    let mean = |(at, partial): (usize, &f64)| match visits[at / size.vocabulary] {
        0.0 => 0.0,
        visits => partial / visits,
    };
    gradient.iter().enumerate().map(mean).collect()
}

fn close(found: &[f64], known: &[f64]) {
    assert_eq!(found.len(), known.len());
    let largest = known.iter().fold(0.0f64, |most, known| most.max(known.abs()));
    assert!(largest > 1e-3, "there is something to compare");
    for (found, known) in found.iter().zip(known) {
        assert!((found - known).abs() <= 1e-12 * largest, "{found} is not {known}");
    }
}

/// The score of a token is multiplied with numbers of all tokens of its completion, also of later ones.
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
        toy.size.completions().iter().map(|completion| length(toy, 0, completion)).collect()
    };
    for (toy, gradient) in gradients(&objective("term t = length * live student.logp")) {
        let known = lengths(&toy);
        assert!(known.iter().any(|length| *length != known[0]), "{known:?}");
        let factor = |completions: &[Vec<usize>], sample: usize, _: usize| {
            length(&toy, 0, &completions[sample]) as f64
        };
        close(&gradient, &enumerated(&toy, &factor));
    }
    // After the last token nothing remains; before it, the rest of the length.
    for (toy, gradient) in gradients(&objective("term t = remaining * live student.logp")) {
        assert_eq!(toy.size.length, 2);
        let factor = |completions: &[Vec<usize>], sample: usize, at: usize| match at {
            0 => length(&toy, 0, &completions[sample]) as f64 - 100.0,
            _ => 0.0,
        };
        close(&gradient, &enumerated(&toy, &factor));
    }
}

/// All tokens of a rollout are scored at the temperature of its policy, also those that an earlier student
/// drew, or both sides of a mixture.
#[test]
fn every_token_of_a_rollout_is_scored_at_its_policy_s_temperature() {
    const STAGE: &str = "experiment \"e\" { seed = 1 }
domain sort { prompts = \"sort.jsonl\", reward = exact_match }
model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }
model big  = llama { layers = 2, width = 16, heads = 2, context = 64, tokenizer = bytes }
teacher one = big { origin = foreign }
route { else -> one }
objective o {
  term gap = -(teacher.logp - student.logp) * live student.logp
  reduce   = mean(token, over: batch)
}
model student = distill(base) { objective = o, rollout = ROLLOUT, prompts = 2, steps = 1, lr = 1e-3 }
";
    let sampled = "sample(n: 1, temperature: 0.5, max_tokens: 6)";
    for (rollout, samplers) in [
        (format!("replay({sampled}, capacity: 8, share: 0.5)"), 2),
        (format!("mix(0.5, {sampled}, snapshot(big, {sampled}))"), 2),
        (format!("token_mix(0.3, {sampled})"), 1),
    ] {
        let text = STAGE.replace("ROLLOUT", &rollout);
        let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
        let experiment = analysis.experiment.unwrap_or_else(|| panic!("{:?}", analysis.diagnostics));
        let (_, train) = super::trained(&experiment).pop().expect("the student is trained");
        let usage = super::ObjectiveUse::from_stage(&experiment, train);
        assert_eq!(usage.samplers.len(), samplers, "{rollout}");
        for sampler in &usage.samplers {
            let objective = &train.objective;
            let view = TermView::new(objective, &objective.terms[0], SampleFilter::default());
            let view = view.of_policy(usage.policy_temperature.clone());
            let moment = ToyMoment {
                step: StageStep { step: 0, steps: 1 },
                run: RunNumbers::AtStep,
                longest: f64::INFINITY,
            };
            let query = Query::new(view, sampler, &usage.casts[0], moment).expect("a toy model");
            let compiled = CompiledTerm::new(&query.view, ALL).expect("a graph");
            for toy in query.spec.toys(Variation::Usual) {
                assert_eq!((toy.size.length, toy.size.samples), (1, 1));
                let gradient = compiled.expectation(&toy, ALL).expect("it can be enumerated").gradient;
                close(&gradient, &at_half(&toy, sampler));
            }
        }
    }
}

/// The sum over the tokens that a sampler draws after the prompt of their factor and their score, where the
/// policy and the teacher are at temperature 0.5.
fn at_half(toy: &ToyModel, sampler: &Sampler) -> Vec<f64> {
    let mut gradient = vec![0.0; toy.size.logits()];
    for prefix in 0..toy.size.prefixes() {
        let halved = |role: &Role| -> Vec<f64> {
            let squares =
                toy.logp(role, prefix).expect("both are known").iter().map(|logp| (2.0 * logp).exp());
            let squares: Vec<f64> = squares.collect();
            let sum: f64 = squares.iter().sum();
            squares.into_iter().map(|square| square / sum).collect()
        };
        let (student, teacher) = (halved(&Role::Student), halved(&Role::Teacher));
        for taken in 0..toy.size.vocabulary {
            let drawn = match sampler {
                Sampler::Student { .. } => student[taken],
                Sampler::Mixture { .. } => 0.3 * teacher[taken] + 0.7 * student[taken],
                elsewhere => elsewhere.after(toy, prefix)[taken].exp(),
            };
            let factor = student[taken].ln() - teacher[taken].ln();
            for entry in 0..toy.size.vocabulary {
                let score = (if entry == taken { 1.0 } else { 0.0 } - student[entry]) / 0.5;
                gradient[prefix * toy.size.vocabulary + entry] += drawn * factor * score;
            }
        }
    }
    gradient
}

/// Leaving a factor out of a product keeps the factor's sign. A factor that is always 0 has none.
#[test]
fn a_factor_s_sign_is_known_where_it_has_one() {
    for (factor, negative) in [
        ("student.logp", true),
        ("-student.entropy", true),
        ("relu(student.logp)", false),
        ("student.entropy", false),
        ("(student.logp - teacher.logp)", false),
    ] {
        let of = objective(&format!("term t = {factor} * live student.logp"));
        let FormulaKind::Apply { operands, .. } = &of.terms[0].value.0.kind else { panic!("a product") };
        assert_eq!(never_positive(&operands[0]), negative, "{factor}");
    }
}

/// `mean(token) then mean(sequence)` where completions have lengths of their own: each token of a completion
/// counts 1 / length, written out over all outcomes.
#[test]
fn a_mean_over_tokens_divides_by_the_length_that_was_drawn() {
    let term = "term t = (student.logp - teacher.logp) * live student.logp";
    let text = format!("objective o {{\n{term}\nreduce = mean(token) then mean(sequence)\n}}\n");
    let entry = SourceFile { path: "o.mopd".into(), text };
    let objective = mopd_lang::analyse(entry, &|_| None).objectives.remove(0).objective;
    let view = TermView::new(&objective, &objective.terms[0], SampleFilter::default());
    let shares = TokenShares::new(view.reduce.expect("it has one")).expect("a mean of means");
    let moment =
        ToyMoment { step: StageStep { step: 0, steps: 1 }, run: RunNumbers::AtStep, longest: f64::INFINITY };
    let query = Query::new(view, &Sampler::ON_POLICY, &Teachers::default(), moment).expect("a toy model");
    let several = query.of_several_lengths().expect("it is small");
    let compiled = CompiledTerm::new(&several.view, ALL).expect("a graph").reduced(shares);
    for toy in several.toys() {
        assert!(toy.size.ends && toy.size.length == 3);
        let gap = |completion: &[usize], at: usize| {
            let prefix = toy.size.prefix(0, &completion[..at]);
            let of = |role: &Role| toy.logp(role, prefix).expect("both are known")[completion[at]];
            of(&Role::Student) - of(&Role::Teacher)
        };
        let factor = |completions: &[Vec<usize>], sample: usize, at: usize| {
            gap(&completions[sample], at) / completions[sample].len() as f64
        };
        let gradient = compiled.expectation(&toy, ALL).expect("it can be enumerated").gradient;
        close(&gradient, &enumerated(&toy, &factor));
    }
}
