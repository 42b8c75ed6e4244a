//! Steps in half precision: models compute in bf16, trained parameters stay in f32.

use super::*;

/// The same weights, rounded to half precision: those of a published checkpoint.
pub(super) fn rounded(weights: &Arc<Weights>) -> Arc<Weights> {
    Arc::new(weights.with_values(to_vec(&weights.flat(Kind::BFloat16, Device::Cpu))))
}

fn norm(of: &[f64]) -> f64 {
    of.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// The norm of the difference to an exact gradient, relative to that gradient's norm.
pub(super) fn relative(got: &[f32], exact: &[f64]) -> f64 {
    let apart: Vec<f64> = zip_equal(got, exact).map(|(got, exact)| f64::from(*got) - exact).collect();
    norm(&apart) / norm(exact)
}

/// bf16 has 8 significant bits: the gradient loses about two percent of its norm on the way through two
/// layers. The loss is more accurate, because everything after the last hidden states is in single precision.
#[test]
fn loss_and_gradient_are_near_the_reference_however_the_batch_is_divided() {
    let fixture = Fixture::new();
    for tied in [false, true] {
        let models: Vec<Arc<Weights>> = models(tied).iter().map(rounded).collect();
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let mut stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, ROUTED, &models) };
            let (_, _, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            for micro_batch in [None, Some(1), Some(3), Some(100)] {
                stage.micro_batch = micro_batch;
                stage.recomputed = micro_batch.unwrap_or(0) as usize % 3;
                let (got_loss, got, _) = first_step(&stage);
                assert!(
                    (got_loss - loss).abs() < 2e-2 * loss.abs().max(1.0),
                    "{name}, {micro_batch:?}: {got_loss} {loss}"
                );
                let relative = relative(&got, &gradient);
                assert!(relative < 8e-2, "{name}, {micro_batch:?}, tied {tied}: {relative:e}");
            }
        }
    }
}

/// Models with equal weights give the same values in half precision too: the same bits for the same batch.
#[test]
fn a_student_that_is_its_teacher_does_not_diverge() {
    let fixture = Fixture::new();
    // Weights that have to be rounded; both models must round them alike.
    let models = models(true);
    let train = train(direct(Support::Full, Mass::Raw), 1);
    let own = [Teacher::Model(ModelId(0)), Teacher::Model(ModelId(0))];
    for (micro_batch, bound) in [(None, 0.0), (Some(2), 1e-4)] {
        let mut stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, own.clone(), &models) };
        stage.micro_batch = micro_batch;
        let (loss, gradient, _) = first_step(&stage);
        assert!(loss.abs() <= bound, "{micro_batch:?}: {loss}");
        let largest = gradient.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(f64::from(largest) <= 1e-6 + bound.sqrt(), "{micro_batch:?}: {largest}");
    }
}

#[test]
fn one_teacher_is_the_same_however_it_is_reached() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(direct(Support::Full, Mass::Raw), 1);
    let half = |teachers, models| Stage { kind: Kind::BFloat16, ..fixture.stage(&train, teachers, models) };
    let single = half([Teacher::Model(ModelId(1)), Teacher::Model(ModelId(1))], &models[..2]);
    let (expected, _) = trained_to_the_end(&single);
    let shared = [models[0].clone(), models[1].clone(), models[1].clone()];
    assert_eq!(trained_to_the_end(&half(ROUTED, &shared)).0, expected);
    let mut fetched = half(ROUTED, &shared);
    fetched.models_fit = Some(false);
    assert_eq!(trained_to_the_end(&fetched).0, expected);
}

/// Updates below the precision of bf16 are not lost: after thirty of them the weights have changed as much as
/// in single precision.
#[test]
fn updates_below_bf16_precision_accumulate() {
    let fixture = Fixture::new();
    let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
    let mut train = train(mopd(1.0), 1);
    train.learning_rate = Schedule::Constant { value: 1e-6 }.into();
    let start = models[0].values().into_owned();
    let moved = |kind| {
        let mut stage = Stage { kind, ..fixture.stage(&train, ROUTED, &models) };
        stage.steps = 30;
        let (end, _) = trained_to_the_end(&stage);
        end.iter().zip(&start).map(|(end, start)| f64::from(end - start)).collect::<Vec<f64>>()
    };
    let (half, single) = (moved(Kind::BFloat16), moved(Kind::Float));
    assert!((norm(&half) / norm(&single) - 1.0).abs() < 0.05, "{} {}", norm(&half), norm(&single));
    let product: f64 = half.iter().zip(&single).map(|(a, b)| a * b).sum();
    assert!(product > 0.9 * norm(&half) * norm(&single));
}

/// Averages are in single precision, both as a stage's result and as a teacher.
#[test]
fn weight_averages_are_in_single_precision() {
    let fixture = Fixture::new();
    let models = models(true);
    let mut train = train(mopd(1.0), 1);
    train.options.ema = Some(0.9);
    train.learning_rate = Schedule::Constant { value: 1e-5 }.into();
    let stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, [averages(0), averages(1)], &models) };
    let mut trainer = Trainer::new(&stage).unwrap();
    let mut expected = [
        to_vec(&trainer.student.trained.to_f32(&trainer.student.model)),
        to_vec(&trainer.student.trained.to_f32(&trainer.student.model)),
    ];
    for step in 0..4 {
        // The student equals its copies at first, so nothing would change: the first change is made by hand.
        if step == 0 {
            let (mut master, _) = trainer.student.trained.parameters(&trainer.student.model);
            master.set(&(master.to_f32() + 1e-5));
        }
        trainer.step(step, &mut Default::default()).unwrap();
        let now = to_vec(&trainer.student.trained.to_f32(&trainer.student.model));
        for (expected, rate) in expected.iter_mut().zip([0.75, 0.9]) {
            expected
                .iter_mut()
                .zip(&now)
                .for_each(|(average, now)| *average = rate * *average + (1.0 - rate) * now);
        }
    }
    let apart = |got: &[f32], expected: &[f32]| {
        got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let state = trainer.state(4, 0.0, Record::default());
    assert!(apart(&to_vec(state.tensors.get("average").unwrap()), &expected[1]) < 1e-6);
    let copy = trainer.models.model(Role::TEACHER, 0).unwrap();
    let teacher = trainer.models.decoder(copy).unwrap();
    let rounded = Tensor::from_slice(&expected[0]).to_kind(Kind::BFloat16);
    let differ =
        teacher.flat().ne_tensor(&rounded).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!(differ < 0.01, "{differ}");
}

/// Frozen weights keep their digits in the result, even though the model rounds them.
#[test]
fn frozen_weights_keep_their_precision_in_bf16_training() {
    let fixture = Fixture::new();
    let models = models(false);
    let start = models[0].values().into_owned();
    let adapter = Adapter { targets: vec![Projection::Query], ..super::adapter(AdapterKind::Lora) };
    let only = Some(vec![WeightFilter::Group(WeightGroup::Norm)]);
    for trainable in [Trainable::Weights { only, except: Vec::new() }, Trainable::Adapter(adapter)] {
        let mut train = train(mopd(1.0), 1);
        let adapted = matches!(trainable, Trainable::Adapter(_));
        train.trainable = trainable;
        let stage = Stage { kind: Kind::BFloat16, ..fixture.stage(&train, ROUTED, &models) };
        let (end, _) = trained_to_the_end(&stage);
        for entry in layout(&models[0].config) {
            let range = entry.offset..entry.offset + entry.len();
            let chosen = if adapted { entry.name.contains("q_proj") } else { entry.name.contains("norm") };
            assert_eq!(end[range.clone()] != start[range], chosen, "{}", entry.name);
        }
    }
}
