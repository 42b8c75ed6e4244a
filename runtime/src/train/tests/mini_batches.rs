//! Several updates from one batch, each from its mini-batch of the prompts, against updates in double
//! precision that are computed one after the other.

use std::collections::BTreeMap;

use super::*;
use crate::rollout::Sequence;

const RATE: f64 = 0.1;

/// A rate at which probability ratios stay near 1, so that rounding is not amplified.
const SLOW: f64 = 0.01;

/// A stage of this many mini-batches whose updates are plain gradient descent.
fn descending(objective: Objective, passes: u32, mini_batches: u32) -> Train<Objective> {
    Train {
        options: updates(passes, mini_batches),
        optimizer: plan::Optimizer::Sgd(plan::Sgd { momentum: 0.0, clip_norm: 1e9 }),
        learning_rate: Schedule::Constant { value: RATE }.into(),
        ..train(objective, passes)
    }
}

/// An update in double precision.
fn descend(student: &Reference, gradient: &[f64], rate: f64) {
    let _guard = tch::no_grad_guard();
    let mut start = 0;
    for (_, leaf) in &student.leaves {
        let count = leaf.numel();
        let change = Tensor::from_slice(&gradient[start..start + count]).view(leaf.size().as_slice());
        let mut leaf = leaf.shallow_clone();
        let _ = leaf.g_sub_(&(change * rate));
        start += count;
    }
    assert_eq!(start, gradient.len());
}

/// The largest difference of the trainer's weights from the reference's, relative to the largest change.
fn distance(trainer: &Trainer, student: &Reference, start: &Weights) -> f64 {
    let flat: Vec<Tensor> = student.leaves.iter().map(|(_, leaf)| leaf.detach().reshape([-1])).collect();
    let expected: Vec<f64> = Vec::try_from(&Tensor::cat(&flat, 0)).unwrap();
    let got = to_vec(trainer.student.model.flat());
    let start = start.values();
    assert_eq!((got.len(), start.len()), (expected.len(), expected.len()));
    let largest = |differences: &mut dyn Iterator<Item = f64>| differences.fold(0.0, f64::max);
    let moved =
        largest(&mut zip_equal(&expected, start.iter()).map(|(now, then)| (now - f64::from(*then)).abs()));
    assert!(moved > 1e-4, "it learns: {moved:e}");
    largest(&mut zip_equal(&expected, &got).map(|(now, got)| (now - f64::from(*got)).abs())) / moved
}

/// The numbers of the prompts of a batch, by source.
fn prompts(list: &[Sequence]) -> BTreeMap<(usize, usize), usize> {
    let mut counts = BTreeMap::new();
    list.iter().for_each(|sequence| *counts.entry((sequence.source, sequence.record)).or_default() += 1);
    counts
}

/// Two batches of 7 prompts, in 3 mini-batches each: every loss is normalised by its own mini-batch.
#[test]
fn each_update_is_that_of_its_mini_batch() {
    let fixture = Fixture::new();
    let models = models(true);
    for (objective, terms) in objectives() {
        let name = objective.name.clone();
        let train = descending(objective, 1, 3);
        let stage = Stage { steps: 6, ..fixture.stage(&train, ROUTED, &models) };
        let whole = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let student = Reference::new(&models[0]);
        let undivided = Train { options: updates(1, 1), ..train.clone() };
        let one = Stage { train: &undivided, ..whole };
        let mut all = Trainer::new(&one).unwrap();
        let mut record = Record::default();
        for batch in 0..2 {
            let mut list = Vec::new();
            for step in 3 * batch..3 * batch + 3 {
                let rollouts = trainer.rollouts_of(step).unwrap();
                let sequences = &rollouts[0].sequences;
                assert_eq!(sequences.layout.groups, if step % 3 == 0 { 3 } else { 2 }, "{name}");
                assert_eq!(sequences.draws.len(), sequences.list.len(), "{name}");
                for (draw, sequence) in zip_equal(&sequences.draws, &sequences.list) {
                    assert_eq!((draw.source, draw.record), (sequence.source, sequence.record), "{name}");
                }
                list.extend(sequences.list.clone());
                let (loss, gradient) = expected_of(&student, &stage, sequences, &models, terms);
                trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
                descend(&student, &gradient, RATE);
                let got = record.rows.last().unwrap().loss;
                assert!((got - loss).abs() < 1e-5 * loss.abs().max(1.0), "{name}: {got} {loss}");
            }
            let drawn = all.rollouts_of(batch).unwrap();
            assert_eq!(prompts(&list), prompts(&drawn[0].sequences.list), "{name}: each prompt once");
        }
        let distance = distance(&trainer, &student, &models[0]);
        println!("{name}: weights within {distance:.1e} of their change");
        assert!(distance < 1e-4, "{name}: {distance:e}");
    }
}

/// Gives `to` the weights of `from`.
fn copy(from: &Reference, to: &Reference) {
    let _guard = tch::no_grad_guard();
    for ((_, from), (_, to)) in zip_equal(&from.leaves, &to.leaves) {
        to.shallow_clone().copy_(from);
    }
}

/// The student's completions in two passes over two mini-batches: advantages are of a prompt's samples, the
/// ratio is to the student before the first of these updates, also for the mini-batch whose turn comes later,
/// and whatever numbers the sampler recorded. Later batches are drawn by weights that have moved, so
/// activations that generation saved would be those of other weights.
#[test]
fn the_ratio_is_to_the_student_before_the_batch() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = Train {
        rollout: Rollout::new(5, Producer::student(Sampling::new(4, 1.0, 8))),
        learning_rate: Schedule::Constant { value: SLOW }.into(),
        ..descending(grpo(), 2, 2)
    };
    let stage = Stage { steps: 8, ..fixture.stage(&train, ROUTED, &models) };
    assert!(!stage.saves_activations);
    let mut trainer = Trainer::new(&stage).unwrap();
    let (student, before) = (Reference::new(&models[0]), Reference::new(&models[0]));
    let mut record = Record::default();
    let mut lists: Vec<Vec<Sequence>> = Vec::new();
    let mut furthest: f64 = 0.0;
    for step in 0..8 {
        let mut rollouts = trainer.rollouts_of(step).unwrap();
        if step % 4 == 0 {
            copy(&student, &before);
        }
        let list = &mut rollouts[0].sequences.list;
        for (index, sequence) in list.iter_mut().enumerate() {
            sequence.reward = Some([1.0, 0.0, 0.5, 0.25, 0.75][(index + 2 * (step as usize % 2)) % 5]);
            if step % 4 < 2 {
                // The sampler's engine is far from the trainer.
                let far = sequence.completion.logps().unwrap().iter().map(|logp| logp - 0.3).collect();
                sequence.completion = sampled(&sequence.completion, far, None);
            }
        }
        let taken_logps = |of: &Reference, sequence: &Sequence| {
            let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
            let logps = of.logps(sequence.prompt(&stage.sources), &sequence.completion);
            logps.gather(1, &taken, false).squeeze_dim(1)
        };
        let losses: Vec<Tensor> = list
            .chunks(4)
            .flat_map(|group| {
                let rewards: Vec<f64> = group.iter().map(|sequence| sequence.reward.unwrap()).collect();
                let mean = rewards.iter().sum::<f64>() / 4.0;
                let squares = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>();
                let deviation = (squares / 3.0).sqrt() + 1e-6;
                let (student, before, taken_logps) = (&student, &before, &taken_logps);
                group.iter().zip(rewards).map(move |(sequence, reward)| {
                    let ratio =
                        (taken_logps(student, sequence) - taken_logps(before, sequence).detach()).exp();
                    let advantage = (reward - mean) / deviation;
                    let clipped = ratio.clamp(0.8, 1.28) * advantage;
                    -(ratio * advantage).minimum(&clipped).mean(Kind::Double)
                })
            })
            .collect();
        let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
        for sequence in &*list {
            let [now, then] = [&student, &before]
                .map(|of| to_vec(&taken_logps(of, sequence).detach().to_kind(Kind::Float)));
            let apart = zip_equal(&now, &then).map(|(now, then)| f64::from((now - then).abs()));
            furthest = furthest.max(apart.fold(0.0, f64::max));
        }
        let gradient = student.gradient(&loss);
        lists.push(list.clone());
        trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
        descend(&student, &gradient, SLOW);
        let (got, loss) = (record.rows.last().unwrap().loss, loss.double_value(&[]));
        assert!((got - loss).abs() < 1e-4, "step {step}: {got} {loss}");
    }
    assert!(furthest > 1e-3, "the policy moves: {furthest}");
    assert_eq!((&lists[0], &lists[1]), (&lists[2], &lists[3]), "the same mini-batches in every pass");
    assert!(lists[0] != lists[1] && lists[0] != lists[4]);
    let distance = distance(&trainer, &student, &models[0]);
    println!("weights within {distance:.1e} of their change");
    assert!(distance < 2e-3, "{distance:e}");
}

/// Fewer prompts than mini-batches are left: an update of none changes nothing, and the stage goes on.
#[test]
fn a_mini_batch_may_be_empty() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = Train { rollout: Rollout::new(2, Producer::data("answer")), ..descending(mopd(1.0), 1, 3) };
    let stage = Stage { steps: 3, ..fixture.stage(&train, ROUTED, &models) };
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut record = Record::default();
    let mut weights = Vec::new();
    for step in 0..3 {
        trainer.step(step, &mut record).unwrap();
        weights.push(to_vec(trainer.student.model.flat()));
    }
    assert!(weights[0] != weights[1] && weights[1] == weights[2]);
}
