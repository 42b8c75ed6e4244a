//! Training of single elements: which ones are trained, their updates, and the bits of all others.

use std::time::Instant;

use mopd_plan::ChangedElements;

use super::super::RestoreMode;
use super::super::trained::TrainedParameters;
use super::*;
use crate::model::{EntryKind, Gradient};
use crate::random::Purpose;

/// The elements' changes: none, the bound exactly (twice), a little more (twice), less, and much more. All
/// sums are exact.
const CHANGES: [f32; 7] =
    [0.0, 0.0625, -0.0625, 0.0625 + 1.0 / 65536.0, -0.0625 - 1.0 / 65536.0, 1.0 / 512.0, 1.0];
const BEYOND: f64 = 0.0625;
const AFTER: ModelId = ModelId(3);
const BEFORE: ModelId = ModelId(4);

fn kind_of_change(index: usize) -> usize {
    (index * 5 + index / 11) % CHANGES.len()
}

fn is_changed(index: usize) -> bool {
    matches!(kind_of_change(index), 3 | 4 | 6)
}

/// The student's start, its teachers, and two models whose difference is known.
fn known_change() -> Vec<Arc<Weights>> {
    let mut models = models(false);
    let then = |index: usize| (index % 7) as f32 / 64.0;
    let length = models[0].values().len();
    let after = (0..length).map(|index| then(index) + CHANGES[kind_of_change(index)]).collect();
    let before = (0..length).map(then).collect();
    for values in [after, before] {
        models.push(Arc::new(models[0].with_values(values)));
    }
    models
}

fn changed(after: ModelId, before: ModelId, beyond: f64) -> WeightFilter {
    WeightFilter::Changed(ChangedElements { after, before, beyond })
}

fn only(filters: &[WeightFilter]) -> Trainable {
    Trainable::Weights { only: Some(filters.to_vec()), except: Vec::new() }
}

/// The indices of the trained elements, in the order of the trained vector.
fn places(stage: &Stage) -> Result<Vec<usize>> {
    let model = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let key = Key::new(1, 2, Purpose::Initialise, 1);
    let trained = TrainedParameters::new(&stage.train.trainable, &stage.start, &stage.models, &model, key)?;
    let numbers = Tensor::arange(model.flat().numel() as i64, (Kind::Float, Device::Cpu));
    let gradient = trained.gradient(Gradient::whole(numbers, Place::cpu()));
    Ok(to_vec(&gradient.part(0..gradient.parameters())).into_iter().map(|place| place as usize).collect())
}

/// Training against AdamW in double precision on the changed elements alone, with the norm of their gradient,
/// in single and half precision. All other elements keep their bits, also in the average.
#[test]
fn training_changed_elements_equals_masked_adamw() {
    let fixture = Fixture::new();
    let mut models = known_change();
    // Sums would turn a negative zero into a positive one.
    let mut start = models[0].values().into_owned();
    start.iter_mut().enumerate().filter(|(index, _)| index % 5 == 0).for_each(|(_, value)| *value = -0.0);
    models[0] = Arc::new(models[0].with_values(start.clone()));
    let mask: Vec<bool> = (0..start.len()).map(is_changed).collect();
    let share = mask.iter().filter(|trains| **trains).count() as f64 / mask.len() as f64;
    assert!(share > 0.2 && share < 0.8, "{share}");
    let mut decays = vec![false; start.len()];
    for entry in layout(&models[0].config) {
        decays[entry.offset..entry.offset + entry.len()].fill(entry.kind == EntryKind::Matrix);
    }
    for (kind, clip_norm) in [(Kind::Float, 1e9), (Kind::Float, 0.05), (Kind::BFloat16, 0.05)] {
        let settings = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm };
        let mut train = train(mopd(1.0), 1);
        train.optimizer = plan::Optimizer::AdamW(settings);
        train.trainable = only(&[changed(AFTER, BEFORE, BEYOND)]);
        train.options.ema = Some(0.5);
        let stage = Stage { kind, ..fixture.stage(&train, ROUTED, &models) };
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut expected: Vec<f64> = start.iter().map(|value| f64::from(*value)).collect();
        let (mut mean, mut square) = (vec![0.0; start.len()], vec![0.0; start.len()]);
        for step in 0..4u32 {
            let rollouts = trainer.rollouts_of(step).unwrap();
            let evaluated = trainer.evaluate(0, &rollouts[0], step);
            let EvaluatedBatch { gradient, .. } = evaluated.unwrap();
            let gradient = to_vec(&gradient.part(0..gradient.parameters()));
            let masked = |place: usize| if mask[place] { f64::from(gradient[place]) } else { 0.0 };
            let norm = (0..mask.len()).map(|place| masked(place).powi(2)).sum::<f64>().sqrt();
            let whole = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm < 0.95 * whole, "{norm} {whole}");
            let (rate, scale) = (1e-2, (clip_norm / norm).min(1.0));
            for place in (0..mask.len()).filter(|place| mask[*place]) {
                let gradient = masked(place) * scale;
                mean[place] = 0.9 * mean[place] + 0.1 * gradient;
                square[place] = 0.95 * square[place] + 0.05 * gradient * gradient;
                let steps = step as i32 + 1;
                let (mean, square) =
                    (mean[place] / (1.0 - 0.9f64.powi(steps)), square[place] / (1.0 - 0.95f64.powi(steps)));
                let decay = if decays[place] { 0.1 * expected[place] } else { 0.0 };
                expected[place] -= rate * (mean / (square.sqrt() + 1e-8) + decay);
            }
            let mut record = Record::default();
            let updated = trainer.update(rollouts, Instant::now(), step, &mut record);
            updated.unwrap();
            for row in &record.rows {
                assert!((row.gradient_norm - norm).abs() < 1e-6 * norm, "{} {norm}", row.gradient_norm);
                assert_eq!(row.trained_share, Some(share));
            }
            let numbers = trainer.student.trained.numbers(&trainer.student.model);
            for (place, (got, expected)) in numbers.iter().zip(&expected).enumerate() {
                match mask[place] {
                    true => assert!((f64::from(*got) - expected).abs() < 2e-6, "{place}: {got} {expected}"),
                    false => assert_eq!(got.to_bits(), start[place].to_bits(), "{place}"),
                }
            }
            // The model's own weights are the same, rounded.
            let own = to_vec(trainer.student.model.flat());
            let rounding = if kind == Kind::Float { 0.0 } else { 1.0 / 256.0 };
            assert!(own.iter().zip(&numbers).all(|(own, all)| (own - all).abs() <= rounding * all.abs()));
        }
        // The optimizer has no state for elements that are not trained.
        let state = trainer.state(4, 0.0, Record::default());
        let count = mask.iter().filter(|trains| **trains).count();
        for name in ["trained", "optimizer.mean", "optimizer.square"] {
            assert_eq!(state.tensors.get(name).unwrap().numel(), count, "{name}");
        }
        let (end, _) = trained_to_the_end(&stage);
        let moved = (0..mask.len()).filter(|place| end[*place] != start[*place]).count();
        assert!(moved > count * 9 / 10 && moved <= count, "{moved} of {count}");
        for place in (0..mask.len()).filter(|place| !mask[*place]) {
            assert_eq!(end[place].to_bits(), start[place].to_bits(), "{place}");
        }
    }
}

/// An element is trained if `train_only` names it or its parameter and `freeze` does not. The scalar head is
/// always trained.
#[test]
fn filters_name_elements_and_parameters() {
    let fixture = Fixture::new();
    let models = known_change();
    let norm = WeightFilter::Group(WeightGroup::Norm);
    let embedding = WeightFilter::Group(WeightGroup::Embedding);
    let last = WeightFilter::Layers { first: 1, last: 1 };
    let known = changed(AFTER, BEFORE, BEYOND);
    let other = changed(ModelId(1), ModelId(2), 0.3);
    let any = changed(AFTER, BEFORE, 0.0);
    let cases = [
        (Some(vec![known]), vec![]),
        (None, vec![known]),
        (Some(vec![norm, known]), vec![last]),
        (Some(vec![known]), vec![embedding]),
        (Some(vec![other, known, last]), vec![norm, any]),
        (Some(vec![any]), vec![other]),
        (Some(vec![norm]), vec![other, last]),
    ];
    let values: Vec<Vec<f32>> = models.iter().map(|model| model.values().into_owned()).collect();
    for ((only, except), head) in cases.iter().flat_map(|case| [false, true].map(|head| (case, head))) {
        let mut train = train(mopd(1.0), 1);
        train.trainable = Trainable::Weights { only: only.clone(), except: except.clone() };
        let mut stage = fixture.stage(&train, ROUTED, &models);
        if head {
            stage.start = stage.start.with_scalar_head();
        }
        let mut expected = Vec::new();
        let plain = layout(&models[0].config);
        for entry in layout(&stage.start.config) {
            let own = plain.iter().find(|known| known.name == entry.name);
            for place in 0..entry.len() {
                let Some(own) = own else {
                    expected.push(entry.offset + place);
                    continue;
                };
                let at = own.offset + place;
                let named = |filters: &[WeightFilter]| {
                    filters.iter().any(|filter| match filter {
                        WeightFilter::Group(group) => entry.group == *group,
                        WeightFilter::Layers { .. } => entry.name.contains("layers.1."),
                        WeightFilter::Changed(ChangedElements { after: AFTER, beyond: 0.0, .. }) => {
                            CHANGES[kind_of_change(at)] != 0.0
                        }
                        WeightFilter::Changed(ChangedElements { after: AFTER, .. }) => is_changed(at),
                        WeightFilter::Changed(ChangedElements { beyond, .. }) => {
                            (f64::from(values[1][at]) - f64::from(values[2][at])).abs() > *beyond
                        }
                    })
                };
                if only.as_deref().is_none_or(named) && !named(except) {
                    expected.push(entry.offset + place);
                }
            }
        }
        assert_eq!(places(&stage).unwrap(), expected, "{only:?} {except:?} {head}");
    }
}

#[test]
fn filters_that_select_nothing_are_errors() {
    let fixture = Fixture::new();
    let models = known_change();
    let known = changed(AFTER, BEFORE, BEYOND);
    let cases = [
        (
            only(&[changed(AFTER, BEFORE, 1.0)]),
            "no element changed by more than 1e0 (the largest change is 1e0)",
        ),
        (only(&[known, changed(AFTER, AFTER, 0.0)]), "no element changed by more than 0e0"),
        (Trainable::Weights { only: Some(vec![known]), except: vec![known] }, "no weight is left to train"),
    ];
    for (trainable, said) in cases {
        let train = Train { trainable, ..train(mopd(1.0), 1) };
        let error = places(&fixture.stage(&train, ROUTED, &models)).expect_err("nothing is named");
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// A state with equally many, but different elements.
#[test]
fn a_state_of_other_elements_is_refused() {
    let fixture = Fixture::new();
    let mut models = known_change();
    let (one, other) = (0..100).zip(1..).find(|(one, other)| is_changed(*one) != is_changed(*other)).unwrap();
    for id in [AFTER, BEFORE] {
        let mut values = models[id.0 as usize].values().into_owned();
        values.swap(one, other);
        models.push(Arc::new(models[0].with_values(values)));
    }
    let trains = [(AFTER, BEFORE), (ModelId(5), ModelId(6))].map(|(after, before)| Train {
        trainable: only(&[changed(after, before, BEYOND)]),
        ..train(mopd(1.0), 1)
    });
    let stages = trains.each_ref().map(|train| fixture.stage(train, ROUTED, &models));
    let [first, mut second] = stages.each_ref().map(|stage| Trainer::new(stage).unwrap());
    let state = first.state(1, 0.0, Record::default());
    for mode in [RestoreMode::Resume, RestoreMode::Fork] {
        let problem = second.restore(&state, mode).expect_err("other elements");
        assert!(problem.contains("of other elements"), "{problem}");
    }
    Trainer::new(&stages[0]).unwrap().restore(&state, RestoreMode::Resume).unwrap();
}
