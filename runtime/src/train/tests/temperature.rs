//! A sampling temperature that changes during training.

use mopd_plan::{ScheduleLength, Temperature};

use super::producers::lists;
use super::*;

const STEPS: u32 = 4;

/// Far apart from step to step, so that a number at the temperature of another step differs clearly.
pub(super) fn cools() -> Temperature {
    Schedule::Linear { from: 2.0, to: 0.4, over: ScheduleLength::Run }.into()
}

fn at(step: u32) -> f64 {
    cools().at(mopd_plan::StageStep { step, steps: STEPS })
}

/// The student's completions, whose policy is trained at the temperature of sampling.
pub(super) fn at_temperature(objective: Objective, temperature: &Temperature) -> Train<Objective> {
    let mut train = train(objective, 1);
    train.rollout = Rollout::new(4, Producer::student(Sampling::new(4, temperature.clone(), 8)));
    train.objective.temperature = temperature.clone();
    train
}

fn graded(rollouts: &mut Rollouts) {
    for (index, sequence) in rollouts.sequences.list.iter_mut().enumerate() {
        sequence.reward = Some([1.0, 0.0, 0.5, 0.25, 0.75][index % 5]);
    }
}

/// The largest difference of the student's log-probabilities from those at sampling.
fn apart(batch: &Batch, rollouts: &Rollouts) -> f32 {
    let recorded = rollouts.sequences.sampled_logps().unwrap();
    zip_equal(&batch.live[0], &recorded).map(|(now, then)| (now - then).abs()).fold(0.0, f32::max)
}

/// Completions, with their log-probabilities, are those of a run at the temperature of the step.
#[test]
fn each_step_draws_at_its_temperature() {
    let moving = lists(Producer::student(Sampling::new(2, cools(), 6)), STEPS);
    for step in 0..STEPS {
        let alone = lists(Producer::student(Sampling::new(2, at(step), 6)), STEPS);
        assert!(moving[step as usize] == alone[step as usize], "step {step}");
        let next = (step + 1) % STEPS;
        assert!(moving[next as usize] != alone[next as usize], "step {step}");
    }
}

/// The student is scored at the temperature of its completions: loss and gradient of a step are those of a
/// stage at that temperature. Those are compared with double precision in `ratio.rs`.
#[test]
fn each_step_is_scored_at_its_temperature() {
    let fixture = Fixture::new();
    let models = models(true);
    let moving = at_temperature(grpo(), &cools());
    let stage = Stage { steps: STEPS, ..fixture.stage(&moving, ROUTED, &models) };
    let mut trainer = Trainer::new(&stage).unwrap();
    for step in 0..STEPS {
        let mut rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        graded(&mut rollouts);
        let scored = trainer.evaluate(0, &rollouts, step).unwrap();
        let difference = self::apart(&scored.batch, &rollouts);
        assert!(difference < 1e-3, "step {step}: {difference}");

        let constant = at_temperature(grpo(), &at(step).into());
        let stage = Stage { steps: STEPS, ..fixture.stage(&constant, ROUTED, &models) };
        let alone = Trainer::new(&stage).unwrap().evaluate(0, &rollouts, step).unwrap();
        let loss = |of: &EvaluatedBatch| of.outputs.get(moving.objective.loss)[0];
        assert_eq!(loss(&scored), loss(&alone), "step {step}");
        let values = |of: &EvaluatedBatch| to_vec(&of.gradient.part(0..of.gradient.parameters()));
        assert!(values(&scored) == values(&alone), "step {step}");
        assert!(values(&scored).iter().any(|value| *value != 0.0), "step {step}");
    }
}

/// Every update from a batch scores it at the temperature at which it was drawn: as long as the weights do
/// not change, the ratio stays 1 in later passes and mini-batches.
#[test]
fn later_updates_score_at_the_temperature_of_the_draw() {
    let fixture = Fixture::new();
    let models = models(true);
    for (passes, mini_batches) in [(2, 1), (1, 2), (2, 2)] {
        let train = Train { options: updates(passes, mini_batches), ..at_temperature(grpo(), &cools()) };
        let updates = passes * mini_batches;
        let stage = Stage { steps: 2 * updates, ..fixture.stage(&train, ROUTED, &models) };
        let mut trainer = Trainer::new(&stage).unwrap();
        for step in 0..2 * updates {
            let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
            assert_eq!(rollouts.drawn.step, step - step % updates);
            let EvaluatedBatch { batch, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
            let difference = self::apart(&batch, &rollouts);
            assert!(difference < 1e-3, "{passes} {mini_batches}, step {step}: {difference}");
            trainer.parts[0].rollouts.extend((passes > 1).then_some(rollouts));
        }
    }
}

/// The step's metrics have the temperature of its completions, in every update from them.
#[test]
fn metrics_have_the_temperature() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = Train { options: updates(2, 1), ..at_temperature(grpo(), &cools()) };
    let stage = Stage { steps: STEPS, ..fixture.stage(&train, ROUTED, &models) };
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut record = Record::default();
    for step in 0..STEPS {
        trainer.step(step, &mut record).unwrap();
        assert_eq!(record.rows.last().unwrap().temperature, Some(at(step - step % 2)), "step {step}");
    }
}
