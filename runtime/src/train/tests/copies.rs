//! Copies of the student as its teacher, and averages of its weights as the result.

use super::*;

/// Copies of the student that are its teachers follow it as declared.
#[test]
fn copies_of_the_student_follow_it() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(direct(Support::Full, Mass::Raw), 1);
    let mut stage = fixture.stage(&train, [averages(0), averages(1)], &models);
    // Apart from the copies, an objective that changes the student.
    let pull = self::train(mopd(1.0), 1);
    stage.train = &pull;
    let mut trainer = Trainer::new(&stage).unwrap();
    let start: Vec<f32> = models[0].values().into_owned();
    let (mut average, mut copied) = (start.clone(), start);
    for step in 0..4 {
        // The student equals its copies at first, so nothing would change: the first change is made by hand.
        if step == 0 {
            let _guard = tch::no_grad_guard();
            let mut flat = trainer.student.model.flat().shallow_clone();
            let _ = flat.g_add_scalar_(0.01);
        }
        trainer.step(step, &mut Record::default()).unwrap();
        let student = to_vec(trainer.student.model.flat());
        for (average, student) in average.iter_mut().zip(&student) {
            *average = 0.75 * *average + 0.25 * student;
        }
        if (step + 1) % 2 == 0 {
            copied = student;
        }
        let of = |source: usize| {
            let model_ref = trainer.models.model(Role::TEACHER, source).unwrap();
            to_vec(trainer.models.decoder(model_ref).unwrap().flat())
        };
        assert_eq!(of(1), copied);
        let apart = of(0).iter().zip(&average).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-6, "{apart}");
    }
}

/// The average of the weights, which is the stage's result, against its definition.
#[test]
fn a_stage_may_answer_the_average_of_its_weights() {
    let fixture = Fixture::new();
    let models = models(true);
    let plain = train(mopd(1.0), 1);
    let mut averaged = train(mopd(1.0), 1);
    averaged.options.ema = Some(0.5);
    let mut expected = models[0].values().into_owned();
    let stage = fixture.stage(&plain, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    for step in 0..stage.steps {
        trainer.step(step, &mut Record::default()).unwrap();
        for (average, now) in expected.iter_mut().zip(to_vec(trainer.student.model.flat())) {
            *average = 0.5 * *average + 0.5 * now;
        }
    }
    let (got, _) = trained_to_the_end(&fixture.stage(&averaged, ROUTED, &models));
    let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-6, "{apart}");
}
