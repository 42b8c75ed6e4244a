//! Extrapolated weights: the candidates, the choice among them, and the state that must not change.

use std::rc::Rc;

use mopd_plan::events::FailureKind;
use mopd_plan::{Evaluation, Extrapolation};
use tch::no_grad_guard;

use super::super::RestoreMode;
use super::super::hooks::{Extrapolator, SavedState, StepHook, extrapolator};
use super::*;
use crate::store::state::{HookNumbers, TrainPosition};

/// The published settings: attention and feed-forward weights, by twice their change per candidate.
pub(super) fn extrapolation(temperature: f64) -> Extrapolation {
    let sampling = Sampling::new(if temperature == 0.0 { 1 } else { 3 }, temperature, 6);
    Extrapolation {
        factor: 2.0,
        rounds: 5,
        powers_of: 2,
        judged_by: DomainId(2),
        evaluation: Evaluation { sampling, prompts: None },
        weights: vec![WeightGroup::Attention, WeightGroup::FeedForward],
    }
}

fn extrapolating(passes: u32) -> Train<Objective> {
    Train { extrapolation: Some(extrapolation(1.0)), ..train(mopd(1.0), passes) }
}

/// A trainer whose extrapolation the test calls, with scores of its own.
struct Extrapolating<'a> {
    trainer: Trainer<'a>,
    extrapolator: Rc<RefCell<Extrapolator<'a>>>,
}

/// The extrapolation as the trainer has it: only its state.
struct ByHand<'a>(Rc<RefCell<Extrapolator<'a>>>);

impl StepHook for ByHand<'_> {
    fn save(&self, numbers: &mut HookNumbers, tensors: &mut StateTensors) {
        self.0.borrow().save(numbers, tensors);
    }

    fn restore(&mut self, state: &SavedState, read: &mut Losses) -> Result<(), String> {
        self.0.borrow_mut().restore(state, read)
    }
}

impl<'a> Extrapolating<'a> {
    fn new(stage: &'a Stage<'a>) -> Extrapolating<'a> {
        let mut trainer = Trainer::new(stage).unwrap();
        let extrapolator = extrapolator(stage, &trainer.student).unwrap().expect("the stage extrapolates");
        let extrapolator = Rc::new(RefCell::new(extrapolator));
        trainer.hooks = vec![Box::new(ByHand(extrapolator.clone()))];
        Extrapolating { trainer, extrapolator }
    }
}

/// Extrapolates with `score` as the benchmark.
fn extrapolate_by(
    Extrapolating { trainer, extrapolator }: &mut Extrapolating,
    steps: u32,
    record: &mut Record,
    score: impl FnMut(&Decoder) -> Result<f64>,
) -> Result<()> {
    extrapolator.borrow_mut().extrapolate_by(&trainer.student, steps, record, score)
}

/// All parameters of the trained model, converted to double precision.
fn numbers(trainer: &Trainer) -> Vec<f64> {
    trainer.student.trained.numbers(&trainer.student.model).into_iter().map(f64::from).collect()
}

/// Runs a step, then extrapolates with these scores: first of the unchanged weights, then of the candidates.
/// Returns the weights after the update, those that were scored, and those at the end.
fn tried(
    trainer: &mut Extrapolating,
    step: u32,
    scores: &[f64],
    record: &mut Record,
) -> (Vec<f64>, Vec<Vec<f64>>, Vec<f64>) {
    trainer.trainer.step(step, record).unwrap();
    let updated = numbers(&trainer.trainer);
    let (mut seen, mut scores) = (Vec::new(), scores.iter());
    // The benchmark is given the model's own weights.
    let score = |model: &Decoder| {
        seen.push(to_vec(&model.flat().to_kind(Kind::Float)).into_iter().map(f64::from).collect());
        Ok(*scores.next().expect("no candidate more than there are scores"))
    };
    extrapolate_by(trainer, step + 1, record, score).unwrap();
    assert!(scores.next().is_none(), "a score was not asked for");
    (updated, seen, numbers(&trainer.trainer))
}

/// Candidate `n` is `2 n + 1` times the change since the last extrapolation, by the formula in double
/// precision. Weights that are not named stay as the update left them. The last better candidate is kept, to
/// the bit.
#[test]
fn extrapolation_tries_odd_multiples_and_keeps_the_last_better_one() {
    let fixture = Fixture::new();
    let models = models(false);
    let train = extrapolating(1);
    let entries = layout(&models[0].config);
    let mut moved = vec![false; models[0].values().len()];
    for entry in &entries {
        let named = entry.name.contains("attn") || entry.name.contains(".mlp.");
        moved[entry.offset..entry.offset + entry.len()].fill(named && !entry.name.contains("norm"));
    }
    // Scores, and the candidate that is kept; used for the steps 1 and 2.
    let cases: [(&[f64], u32); 5] = [
        (&[0.5, 0.5], 0),
        (&[0.5, 0.6, 0.7, 0.65], 2),
        (&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 5),
        (&[0.9, 0.1], 0),
        (&[0.0, 0.1, 0.1], 1),
    ];
    for kind in [Kind::Float, Kind::BFloat16] {
        for ((first, one), (second, two)) in cases.iter().flat_map(|a| cases.iter().map(move |b| (*a, *b))) {
            let stage = Stage { kind, ..fixture.stage(&train, ROUTED, &models) };
            let mut trainer = Extrapolating::new(&stage);
            let mut record = Record::default();
            let mut base = numbers(&trainer.trainer);
            for (step, (scores, kept)) in [(first, one), (second, two)].into_iter().enumerate() {
                let (updated, seen, end) = tried(&mut trainer, step as u32, scores, &mut record);
                let at = |multiple: f64, index: usize| match moved[index] {
                    true => base[index] + multiple * (updated[index] - base[index]),
                    false => updated[index],
                };
                assert_eq!(seen.len(), scores.len());
                // A model in half precision computes with rounded weights.
                let rounded = if kind == Kind::Float { 2e-7 } else { 4e-3 };
                for (candidate, seen) in seen.iter().enumerate() {
                    for (index, seen) in seen.iter().enumerate() {
                        let exact = at(2.0 * candidate as f64 + 1.0, index);
                        let bound = rounded * exact.abs() + 1e-6;
                        assert!((seen - exact).abs() <= bound, "{candidate} {index}: {seen} {exact}");
                    }
                }
                let multiple = f64::from(2 * kept + 1);
                for (index, end) in end.iter().enumerate() {
                    let exact = at(multiple, index);
                    assert!((end - exact).abs() <= 2e-7 * exact.abs() + 1e-6, "{index}: {end} {exact}");
                }
                if kept == 0 {
                    assert!(end == updated, "what was rolled back is as it was, to the bit");
                }
                assert!(end.iter().zip(&base).any(|(end, base)| end != base));
                for row in record.rows.iter().filter(|row| row.step == step as u32) {
                    assert_eq!(row.extrapolated, Some(multiple));
                    assert_eq!(row.judged, Some(scores[kept as usize]));
                }
                base = end;
            }
        }
    }
}

/// No extrapolation after step 3, nor a second time after the same step. The optimizer's moments and the
/// position in the data stay as the step left them.
#[test]
fn only_weights_are_extrapolated_and_only_after_powers() {
    let fixture = Fixture::new();
    let models = models(true);
    let (plain, train) = (train(mopd(1.0), 1), extrapolating(1));
    let stages = [&plain, &train].map(|train| fixture.stage(train, ROUTED, &models));
    let (mut other, mut trainer) = (Trainer::new(&stages[0]).unwrap(), Extrapolating::new(&stages[1]));
    let mut record = Record::default();
    other.step(0, &mut Record::default()).unwrap();
    let (_, seen, end) = tried(&mut trainer, 0, &[0.1, 0.2, 0.2], &mut record);
    assert_eq!(seen.len(), 3);
    extrapolate_by(&mut trainer, 1, &mut record, |_| panic!("it was done")).unwrap();
    assert!(numbers(&trainer.trainer) == end && numbers(&other) != end);
    let state = |trainer: &Trainer| {
        let state = trainer.state(1, 0.0, Record::default());
        let rest =
            state.tensors.0.into_iter().filter(|(name, _)| name != "trained" && name != "extrapolated");
        let rest: Vec<(String, Vec<f32>)> = rest.map(|(name, tensor)| (name, to_vec(&tensor))).collect();
        (rest, TrainPosition { hooks: HookNumbers::default(), ..state.position })
    };
    assert_eq!(state(&trainer.trainer), state(&other));
    // A resumed run does not extrapolate again; a fork starts its next change from these weights.
    for (from, mode) in [
        (&trainer.trainer, RestoreMode::Resume),
        (&trainer.trainer, RestoreMode::Fork),
        (&other, RestoreMode::Fork),
    ] {
        let mut again = Extrapolating::new(&stages[1]);
        again.trainer.restore(&from.state(1, 0.0, Record::default()), mode).unwrap();
        extrapolate_by(&mut again, 1, &mut record, |_| panic!("it was done before")).unwrap();
        let base = numbers(&again.trainer);
        assert!(base == numbers(from));
        let (updated, _, end) = tried(&mut again, 1, &[0.1, 0.2, 0.0], &mut Record::default());
        for ((base, updated), end) in base.iter().zip(&updated).zip(&end) {
            let near = |exact: f64| (end - exact).abs() < 1e-6;
            assert!(near(base + 3.0 * (updated - base)) || near(*updated));
        }
    }
    for step in [1, 2] {
        trainer.trainer.step(step, &mut record).unwrap();
    }
    extrapolate_by(&mut trainer, 3, &mut record, |_| panic!("3 is no power of 2")).unwrap();
    assert!(record.rows.iter().filter(|row| row.step == 2).all(|row| row.extrapolated.is_none()));
}

/// A candidate that gives numbers that are not finite is no better. If the unchanged weights can't be scored,
/// that is an error, and the weights stay.
#[test]
fn extrapolated_weights_that_cannot_be_scored_are_rejected() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = extrapolating(1);
    let stage = fixture.stage(&train, ROUTED, &models);
    let not_finite =
        || Error::new(FailureKind::NonFinite, "the model's logits are not finite while sampling");
    for (fails_at, kept) in [(0, None), (1, Some(1.0)), (3, Some(5.0))] {
        let mut trainer = Extrapolating::new(&stage);
        let mut record = Record::default();
        trainer.trainer.step(0, &mut record).unwrap();
        let updated = numbers(&trainer.trainer);
        let mut asked = 0;
        let outcome = extrapolate_by(&mut trainer, 1, &mut record, |_| {
            asked += 1;
            if asked > fails_at { Err(not_finite()) } else { Ok(f64::from(asked)) }
        });
        assert_eq!(outcome.is_err(), kept.is_none());
        assert_eq!(record.rows[0].extrapolated, kept);
        assert_eq!(numbers(&trainer.trainer) == updated, kept.is_none_or(|kept| kept == 1.0));
    }
    // An interruption at the second candidate leaves the weights as the step did; a retry gives the same.
    let mut trainer = Extrapolating::new(&stage);
    let mut record = Record::default();
    trainer.trainer.step(0, &mut record).unwrap();
    let updated = numbers(&trainer.trainer);
    let mut asked = 0;
    let outcome = extrapolate_by(&mut trainer, 1, &mut record, |_| {
        asked += 1;
        if asked == 3 { Err(Error::Interrupted) } else { Ok(f64::from(asked)) }
    });
    assert!(matches!(outcome, Err(Error::Interrupted)) && numbers(&trainer.trainer) == updated);
    assert_eq!(record.rows[0].extrapolated, None);
    extrapolate_by(&mut trainer, 1, &mut record, |_| Ok(0.0)).unwrap();
    assert_eq!(record.rows[0].extrapolated, Some(1.0));
}

/// A whole stage: after each power of two its weights are one of the candidates, chosen by the benchmark's
/// rewards with the same draws for all candidates.
#[test]
fn extrapolation_follows_the_benchmark() {
    let fixture = Fixture::new();
    let models = models(false);
    let mut moved = 0;
    for temperature in [0.0, 1.0] {
        let mut train = extrapolating(1);
        train.extrapolation = Some(extrapolation(temperature));
        let stage = fixture.stage(&train, ROUTED, &models);
        let (end, rows) = trained_to_the_end(&stage);
        // The same by hand: each candidate is computed by the formula.
        let plain = Train { extrapolation: None, ..train.clone() };
        let plain = fixture.stage(&plain, ROUTED, &models);
        let mut trainer = Trainer::new(&plain).unwrap();
        let entries = layout(&models[0].config);
        let named = |index: usize| {
            let entry =
                entries.iter().find(|entry| (entry.offset..entry.offset + entry.len()).contains(&index));
            matches!(entry.unwrap().group, WeightGroup::Attention | WeightGroup::FeedForward)
        };
        let mut base = to_vec(trainer.student.model.flat());
        for step in 0..stage.steps {
            trainer.step(step, &mut Record::default()).unwrap();
            if ![1, 2, 4].contains(&(step + 1)) {
                continue;
            }
            let updated = to_vec(trainer.student.model.flat());
            let at = |multiple: f32| -> Vec<f32> {
                let place =
                    |(index, (base, updated)): (usize, (&f32, &f32))| match named(index) && multiple > 1.0 {
                        true => base + (updated - base) * multiple,
                        false => *updated,
                    };
                base.iter().zip(&updated).enumerate().map(place).collect()
            };
            let score = |multiple: f32| {
                let weights = stage.start.with_values(at(multiple));
                let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
                let key = Key::new(stage.seed, stage.stream, Purpose::Judge, u64::from(step + 1));
                let by = &extrapolation(temperature).evaluation;
                let answers = crate::evaluate::answers(
                    &decoder,
                    &fixture.judge,
                    by,
                    key,
                    stage.budget,
                    &fixture.control,
                );
                answers.unwrap().answers.iter().map(|prompt| prompt.reward).sum::<f64>()
            };
            let mut kept = 1.0;
            for multiple in [3.0, 5.0, 7.0, 9.0, 11.0] {
                if score(multiple) <= score(kept) {
                    break;
                }
                kept = multiple;
            }
            moved += u32::from(kept > 1.0);
            let (judged, next) = (score(kept), at(kept));
            base = next;
            let _guard = no_grad_guard();
            trainer.student.model.flat().shallow_clone().copy_(&Tensor::from_slice(&base));
            let row = rows.iter().find(|row| row.step == step).unwrap();
            assert_eq!(row.extrapolated, Some(f64::from(kept)), "step {step}");
            assert_eq!(row.judged, Some(judged / score_count(&fixture, temperature)));
        }
        assert!(end == to_vec(trainer.student.model.flat()));
    }
    assert!(moved > 0, "no candidate was ever better");
}

/// The number of completions of the benchmark.
fn score_count(fixture: &Fixture, temperature: f64) -> f64 {
    let prompts = fixture.judge.tests.as_ref().unwrap().dataset.len() as f64;
    prompts * f64::from(extrapolation(temperature).evaluation.sampling.n)
}

#[test]
fn frozen_weights_are_not_extrapolated() {
    let fixture = Fixture::new();
    let models = models(true);
    let frozen = |group| Trainable::Weights { only: Some(vec![WeightFilter::Group(group)]), except: vec![] };
    let mut train = Train { trainable: frozen(WeightGroup::Norm), ..extrapolating(1) };
    let Err(stopped) = super::super::train(&fixture.stage(&train, ROUTED, &models), None) else {
        panic!("norms were extrapolated")
    };
    let message = "no trained weight is in the groups that are extrapolated";
    assert!(stopped.error.to_string().contains(message), "{}", stopped.error);
    train.trainable = frozen(WeightGroup::Attention);
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Extrapolating::new(&stage);
    let start = numbers(&trainer.trainer);
    let (updated, _, end) = tried(&mut trainer, 0, &[0.0, 1.0, 0.5], &mut Record::default());
    for entry in layout(&models[0].config) {
        for index in entry.offset..entry.offset + entry.len() {
            let exact = start[index] + 3.0 * (updated[index] - start[index]);
            assert!((end[index] - exact).abs() < 1e-6, "{}", entry.name);
            assert!(entry.group == WeightGroup::Attention || end[index] == start[index], "{}", entry.name);
        }
    }
}
