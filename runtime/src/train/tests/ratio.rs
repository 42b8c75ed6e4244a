//! The ratio of the student to the policy that sampled.

use super::*;

/// Later passes over a batch measure how far the student is from the policy that sampled; a new batch starts
/// at 0.
#[test]
fn later_passes_have_a_ratio() {
    let fixture = Fixture::new();
    let models = models(true);
    let sampling = Sampling::new(4, 1.0, 8);
    let mut train = train(grpo(), 2);
    train.rollout = Rollout::new(4, Producer::student(sampling));
    // The rewards differ, because equal ones would leave the weights unchanged.
    let mut stage = fixture.stage(&train, ROUTED, &models);
    stage.steps = 4;
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut lists = Vec::new();
    for step in 0..4 {
        let mut rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        for (index, sequence) in rollouts.sequences.list.iter_mut().enumerate() {
            sequence.reward = Some((index % 3) as f64 / 2.0);
        }
        let EvaluatedBatch { batch, gradient, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
        let sampler = batch.signal(&Signal::Logp { role: Role::Sampler }).unwrap();
        let apart =
            batch.live[0].iter().zip(sampler).map(|(now, then)| (now - then).abs()).fold(0.0, f32::max);
        // Rounding in the first pass, the update in the second one.
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
        let mut train = train(grpo(), 1);
        train.rollout = Rollout::new(4, Producer::student(Sampling::new(4, temperature, 8)));
        train.objective.temperature = temperature.into();
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut rollouts = trainer.rollouts_of(0).unwrap().remove(0);
        for (index, sequence) in rollouts.sequences.list.iter_mut().enumerate() {
            sequence.reward = Some([1.0, 0.0, 0.5, 0.25, 0.75][index % 5]);
        }
        let EvaluatedBatch { batch, outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
        let sampler = batch.signal(&Signal::Logp { role: Role::Sampler }).unwrap();
        let ratios = batch.live[0].iter().zip(sampler).map(|(now, then)| (now - then).exp());
        let furthest = ratios.map(|ratio| (ratio - 1.0).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-3, "at {temperature}: {furthest}");
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
                    let logits = student.logps(sequence.prompt(stage), &sequence.completion) / temperature;
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
