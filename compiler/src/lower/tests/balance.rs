//! `by domain` against the formula of Open-MOPD (arXiv:2608.19098), written out in f64.

use mopd_expr::batch::{Domains, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::Program;
use mopd_expr::testing::Random;

use super::objectives::lowered;
use super::*;

/// The reduction from tokens to one number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mean {
    OfTokens,
    OfSequences,
}

/// The inputs of the formula, token by token.
struct Tokens {
    domain: Vec<usize>,
    sequence: Vec<usize>,
    selected: Vec<bool>,
    value: Vec<f64>,
    /// Share of the prompts, by domain.
    prompts: Vec<f64>,
}

impl Tokens {
    fn counted(&self) -> impl Iterator<Item = usize> {
        (0..self.value.len()).filter(|token| self.selected[*token])
    }

    /// The share of each token in the loss, before domains are balanced.
    fn parts(&self, mean: Mean) -> Vec<f64> {
        let sequences: std::collections::BTreeSet<usize> =
            self.counted().map(|token| self.sequence[token]).collect();
        let part = |token: usize| match mean {
            _ if !self.selected[token] => 0.0,
            Mean::OfTokens => 1.0 / self.counted().count() as f64,
            Mean::OfSequences => {
                let own = self.counted().filter(|other| self.sequence[*other] == self.sequence[token]);
                1.0 / own.count() as f64 / sequences.len() as f64
            }
        };
        (0..self.value.len()).map(part).collect()
    }

    /// w_d for each domain; 0 where the batch has none of it.
    fn factors(&self, mean: Mean, balance: &Balance) -> Vec<f64> {
        let parts = self.parts(mean);
        let domains = self.prompts.len();
        let of = |domain: usize| self.counted().filter(move |token| self.domain[*token] == domain);
        let share = |domain: usize| of(domain).map(|token| parts[token]).sum::<f64>();
        let target = |domain: usize| balance.target.unwrap_or(self.prompts[domain]);
        let present: Vec<usize> = (0..domains).filter(|domain| of(*domain).count() > 0).collect();
        let size = |domain: usize| {
            of(domain).map(|token| parts[token] * self.value[token].abs()).sum::<f64>() / share(domain)
        };
        let targets: f64 = present.iter().map(|domain| target(*domain)).sum();
        let usual = present.iter().map(|domain| target(*domain) * size(*domain)).sum::<f64>() / targets;
        let gap = |domain: usize| {
            let gap = (size(domain) / usual).powf(balance.follow_gap);
            balance.clamp.map_or(gap, |(low, high)| gap.clamp(low, high))
        };
        // The loss keeps its size: the sum of its parts is unchanged.
        let raw = |domain: usize| target(domain) / share(domain) * gap(domain);
        let total: f64 = parts.iter().sum();
        let scale = total / present.iter().map(|domain| raw(*domain) * share(*domain)).sum::<f64>();
        let whole: f64 = (0..domains).map(target).sum();
        (0..domains)
            .map(|domain| if present.contains(&domain) { whole * scale * raw(domain) } else { 0.0 })
            .collect()
    }
}

fn balanced(mean: Mean, balance: &Balance) -> Objective {
    let divergence = Live::Divergence(divergence(DivergenceKind::Kl, Support::Full));
    let reduce = match mean {
        Mean::OfTokens => token_mean(),
        Mean::OfSequences => sequence_mean(),
    };
    let value = apply(Function::Multiply, [&number(3.0), &live(divergence)]);
    Objective {
        select: Some(apply(Function::Greater, [&logp(Role::Teacher), &number(-1.5)])),
        ..objective(value, Reduce { balance: Some(balance.clone()), ..reduce })
    }
}

#[test]
fn domains_have_their_shares_of_loss_and_gradient() {
    let (mut absent, mut bound) = (0, 0);
    for seed in 0..600 {
        let mut random = Random(seed);
        let mut layout: Layout = random.layout();
        (layout.turns, layout.blocks) = (None, None);
        let count = 3;
        let of_group: Vec<u32> = (0..layout.groups).map(|_| random.below(count) as u32).collect();
        layout.domains = Some(Domains { of_group: of_group.clone(), count: count as u32 });
        let mean = random.pick(&[Mean::OfTokens, Mean::OfSequences]);
        let balance = Balance {
            target: random.pick(&[None, Some(1.0 / 3.0), Some(0.5)]),
            follow_gap: random.pick(&[0.0, 1.0, 0.5, -1.0]),
            clamp: random.pick(&[None, Some((0.05, 20.0)), Some((0.9, 1.1))]),
            observe: random.below(4) == 0,
            origin: HERE,
        };
        let mut batch = random.batch(layout, 1, |random| random.number().abs() + 0.125);
        let (_, teacher) = &mut batch.signals[0];
        teacher.iter_mut().for_each(|logp| *logp = -*logp);
        let group = |sequence: u32| batch.layout.group_of_sequence[sequence as usize];
        let sequences = &batch.layout.sequence_of_token;
        let tokens = Tokens {
            domain: sequences.iter().map(|sequence| of_group[group(*sequence) as usize] as usize).collect(),
            sequence: sequences.iter().map(|sequence| *sequence as usize).collect(),
            selected: teacher_selects(&batch.signals[0].1),
            value: batch.live[0].iter().map(|value| 3.0 * f64::from(*value)).collect(),
            prompts: (0..count as u32)
                .map(|domain| {
                    of_group.iter().filter(|of| **of == domain).count() as f64 / of_group.len() as f64
                })
                .collect(),
        };
        if tokens.counted().count() == 0 {
            continue;
        }
        let factors = tokens.factors(mean, &balance);
        absent += usize::from(factors.contains(&0.0));
        let plain = Balance { clamp: None, ..balance.clone() };
        bound += usize::from(factors != tokens.factors(mean, &plain));
        let applied = |token: usize| if balance.observe { 1.0 } else { factors[tokens.domain[token]] };
        let parts = tokens.parts(mean);
        let loss: f64 =
            tokens.counted().map(|token| parts[token] * applied(token) * tokens.value[token]).sum();

        let objective = lowered(&balanced(mean, &balance));
        let outputs = objective.outputs();
        let reference = interpret(&objective.graph, &outputs, &batch).expect("the batch has everything");
        let compiled = Program::compile(&objective.graph, &outputs).expect("compiles");
        let compiled = compiled.run(&batch).expect("the batch has everything");
        let weights = objective.domain_weight.expect("it is balanced");
        let same = |node, index: usize, expected: f64, what: &str| {
            let (found, compiled) = (reference.get(node)[index], f64::from(compiled.get(node)[index]));
            let bound = 1e-10 * (1.0 + expected.abs());
            assert!((found - expected).abs() < bound, "{seed}, {what} {index}: {found} is not {expected}");
            assert!((compiled - expected).abs() < 1e5 * bound, "{seed}, {what} {index}: {compiled}");
        };
        same(objective.loss, 0, loss, "loss");
        for token in 0..tokens.value.len() {
            let gradient = 3.0 * parts[token] * applied(token);
            same(objective.live[0].adjoint, token, gradient, "d loss / d divergence");
            same(weights, token, factors[tokens.domain[token]], "weight");
        }
    }
    assert!(absent > 50 && bound > 10, "{absent} batches lack a domain, {bound} are at a bound");
}

fn teacher_selects(logps: &[f32]) -> Vec<bool> {
    logps.iter().map(|logp| *logp > -1.5).collect()
}

/// Where student and teachers agree, there is no gap to follow, and nothing is divided by 0.
#[test]
fn without_a_signal_the_targets_alone_decide() {
    for follow_gap in [1.0, -1.0] {
        let balance = Balance { target: Some(0.5), follow_gap, clamp: None, observe: false, origin: HERE };
        let objective = lowered(&balanced(Mean::OfTokens, &balance));
        let layout = Layout {
            sequence_of_token: vec![0, 0, 0, 1],
            group_of_sequence: vec![0, 1],
            groups: 2,
            domains: Some(Domains { of_group: vec![0, 1], count: 2 }),
            ..Layout::default()
        };
        let batch = |of_first: f32| mopd_expr::batch::Batch {
            layout: layout.clone(),
            signals: vec![(
                plan::Signal::Of { role: plan::Role::TEACHER, part: plan::ModelSignal::Logp },
                vec![-1.0; 4],
            )],
            live: vec![vec![of_first, of_first, of_first, 0.0]],
            steps: 1,
            ..Default::default()
        };
        let weights = |of_first: f32| {
            let outputs = objective.outputs();
            let values = interpret(&objective.graph, &outputs, &batch(of_first)).expect("all is there");
            assert!(values.get(objective.loss)[0].is_finite());
            let weights = values.get(objective.domain_weight.expect("it is balanced"));
            [weights[0], weights[3]].map(|weight| (weight * 1e9).round() / 1e9)
        };
        assert_eq!(weights(0.0), [0.666_666_667, 2.0]);
        // Only one domain has a signal: it gets the whole loss, whose size is unchanged.
        assert_eq!(weights(1.0), [1.333_333_333, 0.0]);
    }
}
