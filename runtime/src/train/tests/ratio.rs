//! The ratio of the student to what it was before the updates from a batch.

use mopd_plan::{Axis, Function, Live, Reduction};

use super::super::objective::objectives::objective;
use super::half::rounded;
use super::*;

const OLD: Signal = Signal::Of { role: Role::Old, part: ModelSignal::Logp };

/// A training of four completions of each prompt.
fn sampled(objective: Objective, steps: u32, temperature: f64) -> Train<Objective> {
    let rollout = Rollout::new(4, Producer::student(Sampling::new(4, temperature, 8)));
    Train { rollout, ..train(objective, steps) }
}

/// The rollouts of a step, with other rewards than equal ones, which would leave the weights unchanged.
fn rewarded(trainer: &mut Trainer, step: u32, rewards: &[f64]) -> Rollouts {
    let mut rollouts = trainer.rollouts_of(step).unwrap().remove(0);
    for (sequence, reward) in rollouts.sequences.list.iter_mut().zip(rewards.iter().cycle()) {
        sequence.reward = Some(*reward);
    }
    rollouts
}

const THREE: [f64; 3] = [0.0, 0.5, 1.0];
const FIVE: [f64; 5] = [1.0, 0.0, 0.5, 0.25, 0.75];

/// GSPO: the mean log-ratio of a sequence to `role`, clipped at its published bounds if `bounded`. Which
/// tokens are clipped is an output of its own.
fn gspo(role: Role, bounded: bool) -> Objective {
    objective("gspo", Live::Logp, |graph, logp| {
        let reward = graph.signal(PlainSignal::Reward);
        let mean = graph.reduce(Reduction::Mean, reward, Axis::Group, None);
        let advantage = graph.apply(Function::Subtract, &[reward, mean]);
        let before = graph.signal(Signal::Of { role, part: ModelSignal::Logp });
        let difference = graph.apply(Function::Subtract, &[logp, before]);
        let drift = graph.reduce(Reduction::Mean, difference, Axis::Sequence, None);
        let ratio = graph.apply(Function::Exp, &[drift]);
        let (low, high) = (graph.constant(Axis::Run, 1.0 - 3e-4), graph.constant(Axis::Run, 1.0 + 4e-4));
        let clipped = graph.apply(Function::Clip, &[ratio, low, high]);
        let plain = graph.apply(Function::Multiply, &[ratio, advantage]);
        let limited = graph.apply(Function::Multiply, &[clipped, advantage]);
        let value = if bounded { graph.apply(Function::Minimum, &[plain, limited]) } else { plain };
        let loss = graph.apply(Function::Negate, &[value]);
        let at_bound = graph.apply(Function::NotEqual, &[ratio, clipped]);
        (graph.broadcast(loss, Axis::Token), Some(graph.broadcast(at_bound, Axis::Token)))
    })
}

/// A step in half precision of a batch in which rewards differ: the share of tokens that are clipped, the
/// gradient, the live log-probabilities, and those of `role`.
fn half_step(objective: Objective, role: Role) -> (f32, Vec<f32>, Vec<f32>, Vec<f32>) {
    let fixture = Fixture::new();
    let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
    let train = sampled(objective, 1, 1.0);
    let stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, ROUTED, &models) };
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = rewarded(&mut trainer, 0, &FIVE);
    let EvaluatedBatch { batch, outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let clipped = outputs.get(train.objective.clipped.unwrap());
    let share = clipped.iter().sum::<f32>() / clipped.len() as f32;
    let before = batch.signal(&Signal::Of { role, part: ModelSignal::Logp }).unwrap().to_vec();
    (share, to_vec(&gradient.part(0..gradient.parameters())), batch.live[0].clone(), before)
}

/// Generation and training round differently in half precision: by more than GSPO's published bounds allow.
/// The ratio to the student as it was is exactly 1, so the first update is that without a clip.
#[test]
fn the_first_update_clips_nothing_however_narrow_the_bounds() {
    let (clipped, gradient, now, old) = half_step(gspo(Role::Old, true), Role::Old);
    assert_eq!(
        now.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        old.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
    assert_eq!(clipped, 0.0);
    let (_, free, ..) = half_step(gspo(Role::Old, false), Role::Old);
    assert_eq!(gradient, free);
    assert!(gradient.iter().any(|value| *value != 0.0));
    let (clipped, sampled, now, recorded) = half_step(gspo(Role::Sampler, true), Role::Sampler);
    let furthest = zip_equal(&now, &recorded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("to the sampler's numbers: {:.0}% clipped, at most {furthest} nats apart", 100.0 * clipped);
    assert!(clipped > 0.1 && sampled != gradient, "{clipped}");
}

/// In half precision too, every token's ratio is exactly 1 in the first pass over a batch, and not in a later
/// one.
#[test]
fn the_ratio_starts_at_exactly_1() {
    let fixture = Fixture::new();
    let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
    let train = sampled(grpo(), 2, 1.0);
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut stage = Stage { kind, ..fixture.stage(&train, ROUTED, &models) };
        stage.steps = 4;
        let mut trainer = Trainer::new(&stage).unwrap();
        for step in 0..4 {
            let rollouts = rewarded(&mut trainer, step, &THREE);
            let EvaluatedBatch { batch, gradient, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
            let old = batch.signal(&OLD).unwrap();
            let same = batch.live[0].iter().zip(old).filter(|(now, then)| now.to_bits() == then.to_bits());
            match step % 2 {
                0 => assert_eq!(same.count(), old.len(), "{kind:?}, step {step}"),
                _ => assert!(same.count() < old.len() / 2, "{kind:?}, step {step}"),
            }
            trainer.parts[0].rollouts.push_back(rollouts);
            trainer.student.optimizer.step(
                &mut Master::whole(trainer.student.model.flat()),
                gradient,
                1.0,
                1e-2,
            );
        }
    }
}

/// A later mini-batch is scored before the first update: with a rate of 0 its ratio is exactly 1 as well.
#[test]
fn a_later_mini_batch_starts_at_exactly_1() {
    let fixture = Fixture::new();
    let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
    for (rate, moves) in [(0.0, false), (1e-2, true)] {
        let mut train = sampled(grpo(), 1, 1.0);
        train.options.mini_batches = 2;
        train.learning_rate = Schedule::Constant { value: rate }.into();
        let mut stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, ROUTED, &models) };
        stage.steps = 2;
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut record = Record::default();
        for step in 0..2 {
            let rollouts = rewarded(&mut trainer, step, &THREE);
            let EvaluatedBatch { batch, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
            let same = batch.live[0].as_slice() == batch.signal(&OLD).unwrap();
            assert_eq!(same, step == 0 || !moves, "rate {rate}, step {step}");
            trainer.update(vec![rollouts], Instant::now(), step, &mut record).unwrap();
        }
    }
}

/// Later passes over a batch measure how far the student is from what it was; a new batch starts at 0.
#[test]
fn later_passes_have_a_ratio() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = sampled(grpo(), 2, 1.0);
    let mut stage = fixture.stage(&train, ROUTED, &models);
    stage.steps = 4;
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut lists = Vec::new();
    for step in 0..4 {
        let rollouts = rewarded(&mut trainer, step, &THREE);
        let EvaluatedBatch { batch, gradient, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
        let old = batch.signal(&OLD).unwrap();
        let apart = batch.live[0].iter().zip(old).map(|(now, then)| (now - then).abs()).fold(0.0, f32::max);
        assert_eq!(apart > 1e-4, step % 2 == 1, "step {step}: {apart}");
        lists.push(rollouts.sequences.list.clone());
        trainer.parts[0].rollouts.push_back(rollouts);
        trainer.student.optimizer.step(&mut Master::whole(trainer.student.model.flat()), gradient, 1.0, 1e-2);
    }
    assert_eq!((&lists[0], &lists[2]), (&lists[1], &lists[3]));
    assert_ne!(lists[0], lists[2]);
}

/// The first step on fresh completions is on-policy at every temperature: the ratio is 1. Loss and gradient
/// are those of the clipped surrogate in double precision, with the student at the temperature of sampling.
#[test]
fn the_ratio_starts_at_1_at_any_temperature() {
    let fixture = Fixture::new();
    let models = models(true);
    for temperature in [0.6, 1.0, 1.7] {
        let mut train = sampled(grpo(), 1, temperature);
        train.objective.temperature = temperature.into();
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let rollouts = rewarded(&mut trainer, 0, &FIVE);
        let EvaluatedBatch { batch, outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
        assert_eq!(batch.live[0].as_slice(), batch.signal(&OLD).unwrap(), "at {temperature}");
        let clipped = outputs.get(train.objective.clipped.unwrap());
        assert!(clipped.iter().all(|clipped| *clipped == 0.0), "at {temperature}: {clipped:?}");

        let student = Reference::new(&models[0]);
        let losses: Vec<Tensor> = rollouts
            .sequences
            .list
            .chunks(4)
            .flat_map(|group| {
                let rewards: Vec<f64> = group.iter().map(|sequence| sequence.reward.unwrap()).collect();
                let mean = rewards.iter().sum::<f64>() / 4.0;
                let deviation =
                    (rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
                let student = &student;
                let stage = &stage;
                group.iter().zip(rewards).map(move |(sequence, reward)| {
                    let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                    let logits =
                        student.logps(sequence.prompt(&stage.sources), &sequence.completion) / temperature;
                    let logps = logits.log_softmax(-1, Kind::Double).gather(1, &taken, false).squeeze_dim(1);
                    let ratio = (&logps - logps.detach()).exp();
                    -(ratio.mean(Kind::Double) * ((reward - mean) / (deviation + 1e-6)))
                })
            })
            .collect();
        let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
        let got = f64::from(outputs.get(train.objective.loss)[0]);
        assert!((got - loss.double_value(&[])).abs() < 1e-4, "at {temperature}: {got} {loss:?}");
        let gradient = to_vec(&gradient.part(0..gradient.parameters()));
        let apart = apart(&gradient, &student.gradient(&loss));
        assert!(apart < 1e-3, "at {temperature}: {apart:e}");
    }
}
