//! Steps whose gradient is computed from activations that generation saved.

use super::*;

/// Loss and gradient of some steps, by a forward pass and with activations that generation saved.
fn steps(kind: Kind, micro_batch: Option<u32>, recomputed: usize) -> Vec<[Vec<f64>; 2]> {
    let (fixture, models) = (Fixture::new(), models(true));
    let rollout = Rollout::new(5, Producer::student(Sampling::new(3, 1.0, 6)));
    let execution = Execution { micro_batch, ..Execution::default() };
    let options = TrainOptions { execution, ..TrainOptions::default() };
    let train = Train { rollout, options, ..train(mopd(1.0), 1) };
    let stage = fixture.stage(&train, ROUTED, &models);
    let stage = Stage { kind, micro_batch, recomputed, ..stage };
    let mut trainer = Trainer::new(&stage).unwrap();
    let step = |step| {
        trainer.student.moved = step > 0;
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        let saved = rollouts.activations.take();
        [None, saved].map(|saved| {
            rollouts.activations.replace(saved);
            let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, step).unwrap();
            let gradient = gradient.part(0..gradient.parameters()).to_kind(Kind::Double);
            let loss = f64::from(outputs.get(train.objective.loss)[0]);
            std::iter::once(loss).chain(Vec::try_from(gradient).unwrap()).collect()
        })
    };
    (0..3).map(step).collect()
}

fn apart(saved: &[f64], forward: &[f64]) -> f64 {
    super::apart(&saved.iter().map(|number| *number as f32).collect::<Vec<_>>(), forward)
}

/// Equal up to rounding; to the bit before the weights change.
#[test]
fn a_step_on_what_generation_saved_is_that_of_a_forward_pass() {
    for (kind, within) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.1)] {
        for (step, [forward, saved]) in steps(kind, None, 0).iter().enumerate() {
            assert_eq!(forward == saved, step == 0, "{kind:?}, step {step}");
            let apart = apart(saved, forward);
            assert!(apart < within, "{kind:?}, step {step}: {apart}");
        }
    }
}

/// For recomputed layers, their inputs are saved; with micro-batches, nothing is saved.
#[test]
fn saved_activations_follow_recomputation_and_micro_batches() {
    for [forward, saved] in &steps(Kind::Float, None, usize::MAX)[1..] {
        assert!(forward != saved && apart(saved, forward) < 1e-5);
    }
    assert!(steps(Kind::Float, Some(2), 0).iter().all(|[forward, saved]| forward == saved));
}

/// A student that equals its teacher learns nothing at any step: gradients that are only rounding errors
/// would change its weights as much as any others.
#[test]
fn a_student_equal_to_its_teacher_stays_as_it_is() {
    let (fixture, own) = (Fixture::new(), models(true).remove(0));
    for objective in [mopd(1.0), direct(Support::Full, Mass::Raw)] {
        let rollout = Rollout::new(5, Producer::student(Sampling::new(3, 1.0, 6)));
        let train = Train { rollout, ..train(objective, 1) };
        let models = vec![own.clone(); 3];
        let stage = Stage { steps: 4, ..fixture.stage(&train, ROUTED, &models) };
        let finished =
            super::super::train(&stage, None).unwrap_or_else(|stopped| panic!("{}", stopped.error));
        assert!(finished.weights.values() == own.values(), "{}", train.objective.name);
    }
}
