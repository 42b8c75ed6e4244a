//! Terms with completions of their own: steps with several parts, and what is drawn for each part.

use mopd_plan::{OwnData, Producer};

use super::mixes::drawn;
use super::*;
use crate::compiled;

fn sampled(n: u32) -> Rollout {
    Rollout::new(7, Producer::student(Sampling::new(n, 1.0, 6)))
}

/// A step's loss is the sum of the parts' formulas on their own completions, in double precision; the weights
/// follow the gradient of that sum.
#[test]
fn parts_add_up_to_the_reference() {
    let (fixture, models) = (Fixture::new(), models(true));
    for (first, second) in [(0, 1), (1, 0), (2, 0)] {
        let mut all = objectives();
        let terms = [all[first].1, all[second].1];
        let own = all[second].0.clone();
        let mut train = train(all.swap_remove(first).0, 1);
        train.rollout = sampled(2);
        train.own_data = vec![OwnData { rollout: Rollout::new(5, Producer::data("answer")), objective: own }];
        for micro_batch in [None, Some(2)] {
            let mut stage = fixture.stage(&train, ROUTED, &models);
            stage.micro_batch = micro_batch;
            let own = train.own_parts();
            let stages = stage.parts(&own);
            let mut trainer = Trainer::with(&stages, None, None).unwrap();
            let rollouts = trainer.rollouts_of(0).unwrap();
            let sizes = rollouts.iter().map(|rollouts| rollouts.sequences.list.len());
            assert_eq!(sizes.collect::<Vec<_>>(), [14, 5]);
            let of_part =
                |(rollouts, terms): (&Rollouts, Terms)| expected(&stage, &rollouts.sequences, &models, terms);
            let [(one, gradient), (other, more)] =
                [(&rollouts[0], terms[0]), (&rollouts[1], terms[1])].map(of_part);
            let sum: Vec<f64> = zip_equal(gradient, more).map(|(one, other)| one + other).collect();
            let mut record = Record::default();
            trainer.update(rollouts, Instant::now(), 0, &mut record).unwrap();

            let loss = one + other;
            let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            for row in &record.rows {
                assert!((row.loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{} {loss}", row.loss);
                assert!((row.gradient_norm / norm - 1.0).abs() < 1e-5, "{} {norm}", row.gradient_norm);
            }
            // AdamW's first update changes every weight by the learning rate, against its gradient's sign.
            let largest = sum.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let moved = to_vec(trainer.student.model.flat());
            let mut clear = 0;
            for ((end, start), gradient) in zip_equal(zip_equal(moved, models[0].values().iter()), &sum) {
                if gradient.abs() > 1e-3 * largest {
                    let step = f64::from(end - start);
                    assert!((step + 1e-2 * gradient.signum()).abs() < 1e-4, "{step} {gradient}");
                    clear += 1;
                }
            }
            assert!(clear > 100, "{clear}");
        }
    }
}

/// Each part has its own rows, which name its terms.
#[test]
fn rows_are_of_the_terms_of_one_set_of_completions() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    let alone = trained_to_the_end(&fixture.stage(&train, ROUTED, &models)).1;
    assert!(alone.iter().all(|row| row.terms.is_none()));
    let mut own = mopd(1.0);
    own.terms[0].name = "imitate".to_owned();
    train.own_data = vec![OwnData { rollout: sampled(1), objective: own }];
    let rows = trained_to_the_end(&fixture.stage(&train, ROUTED, &models)).1;
    assert_eq!(rows.len(), 2 * alone.len());
    for terms in ["distill", "imitate"] {
        let first: Vec<&StepMetrics> =
            rows.iter().filter(|row| row.step == 0 && row.terms.as_deref() == Some(terms)).collect();
        let sum = |of: fn(&StepMetrics) -> f64| first.iter().map(|row| of(row)).sum::<f64>();
        assert!((sum(|row| row.prompt_share) - 1.0).abs() < 1e-12, "{terms}");
        assert!((sum(|row| row.token_share) - 1.0).abs() < 1e-12, "{terms}");
        // Only sampled completions are judged.
        assert_eq!(first.iter().all(|row| row.reward.is_some()), terms == "imitate");
    }
}

/// All parts of a step have the same prompts. Everything else is drawn separately for each part, without an
/// effect on the first.
#[test]
fn a_part_draws_for_itself() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = sampled(2);
    let lists = |train: &Train<Objective>| {
        let stage = fixture.stage(train, ROUTED, &models);
        let own = train.own_parts();
        let stages = stage.parts(&own);
        let mut trainer = Trainer::with(&stages, None, None).unwrap();
        let step = |step| {
            let rollouts = trainer.rollouts_of(step).unwrap().into_iter();
            rollouts.map(|rollouts| rollouts.sequences.list).collect::<Vec<_>>()
        };
        (0..4).map(step).collect::<Vec<_>>()
    };
    let alone = lists(&train);
    let own = || OwnData { rollout: sampled(2), objective: mopd(1.0) };
    train.own_data = vec![own(), own()];
    let together = lists(&train);
    let mut different = [0; 3];
    for (alone, together) in zip_equal(&alone, &together) {
        let [first, second, third] = together.as_slice() else { panic!("three parts") };
        for (at, known) in alone[0].iter().enumerate() {
            assert_eq!(drawn(known), drawn(&first[at]));
            let prompt = |of: &crate::rollout::Sequence| (of.source, of.record);
            assert_eq!([prompt(&second[at]), prompt(&third[at])], [prompt(known); 2]);
            for (count, (one, other)) in
                different.iter_mut().zip([(first, second), (second, third), (first, third)])
            {
                *count += usize::from(one[at].completion != other[at].completion);
            }
        }
    }
    assert!(different.iter().all(|count| *count > 40), "{different:?} of 56");
}

/// DistiLLM-2 (arXiv:2503.07067) with its skew chosen for each sequence, by the catalogue's formula:
/// `(2 - beta) * KL(T || a T + (1 - a) S)` on the teacher's texts, `beta * KL(S || sg(b S + (1 - b) T))` on
/// the student's, `a = clip(1 - (1 - most) * usual / (p_T - p_S), 0.01, most)` with the geometric means of
/// the probabilities, `b` the same with the sides exchanged.
#[test]
fn distillm2_equals_the_reference() {
    let text = r#"
use std.distillm.distillm2
experiment "distillm2" { seed = 1 }
domain copy { prompts = "copy.jsonl", reward = exact_match }
model base = llama { layers = 2, width = 8, heads = 2, context = 64, tokenizer = bytes }
teacher big = base
route { else -> big }
model student = distill(base) {
  objective = distillm2(
    theirs: data(answer), ours: sample(n: 2, temperature: 1, max_tokens: 6), usual_teacher: USUAL, usual_student: USUAL, most: 0.4,
  )
  rollout = sample(n: 1, temperature: 1, max_tokens: 16)
  prompts = 7
  steps   = 4
  lr      = 1e-2
}
"#;
    let (fixture, models) = (Fixture::new(), models(true));
    let mut bounds = [0; 3];
    for usual in [-1e-3, -3e-4, -1e-4, -3e-5, 3e-5, 1e-4, 3e-4, 1e-3] {
        let plan = compiled::plan(text.replace("USUAL", &usual.to_string()));
        let train = compiled::train(&plan, "student").clone();
        assert!(matches!(&train.rollout.producer, Producer::Data(_)) && train.own_data.len() == 1);
        let stage = fixture.stage(&train, ROUTED, &models);
        let own = train.own_parts();
        let stages = stage.parts(&own);
        let mut trainer = Trainer::with(&stages, None, None).unwrap();
        let rollouts = trainer.rollouts_of(0).unwrap();
        for (part, rollouts) in rollouts.iter().enumerate() {
            let inside = std::cell::Cell::new(false);
            // `beta` after a quarter of the run; it rises over the first half.
            let ramp = 1.25;
            let (student, teachers) =
                (Reference::new(&models[0]), [Reference::new(&models[1]), Reference::new(&models[2])]);
            let losses: Vec<Tensor> = rollouts
                .sequences
                .list
                .iter()
                .map(|sequence| {
                    let of = |model: &Reference| {
                        model.logps(sequence.prompt(&stage.sources), &sequence.completion)
                    };
                    let (s, t) = (of(&student), of(&teachers[sequence.source]).detach());
                    let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                    let chance = |logps: &Tensor| {
                        logps.gather(1, &taken, false).mean(Kind::Double).exp().double_value(&[])
                    };
                    let lead = if part == 0 { chance(&t) - chance(&s) } else { chance(&s) - chance(&t) };
                    let free = 1.0 - (1.0 - 0.4) * usual / lead;
                    let skew = free.clamp(0.01, 0.4);
                    bounds[if free < 0.01 {
                        0
                    } else if free > 0.4 {
                        1
                    } else {
                        2
                    }] += 1;
                    inside.set(inside.get() || free == skew);
                    let (own, mixed, weight) = if part == 0 {
                        (&t, skew * t.exp() + (1.0 - skew) * s.exp(), 2.0 - ramp)
                    } else {
                        (&s, (skew * s.exp() + (1.0 - skew) * t.exp()).detach(), ramp)
                    };
                    let each = (own.exp() * (own - mixed.log())).sum_dim_intlist(
                        [-1].as_slice(),
                        false,
                        Kind::Double,
                    );
                    weight * each.mean(Kind::Double)
                })
                .collect();
            let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
            let gradient = student.gradient(&loss);
            let EvaluatedBatch { outputs, gradient: got, .. } = trainer.evaluate(part, rollouts, 1).unwrap();
            let (loss, got_loss) =
                (loss.double_value(&[]), f64::from(outputs.get(stages[part].train.objective.loss)[0]));
            // The difference of two nearly equal numbers in single precision has fewer digits than these
            // numbers, and so has a skew that is not clipped.
            let bound = if inside.get() { 5e-5 } else { 5e-6 };
            assert!((got_loss - loss).abs() < bound * loss.abs(), "{part}, {usual}: {got_loss} {loss}");
            let apart = apart(&to_vec(&got.part(0..got.parameters())), &gradient);
            assert!(apart < 4.0 * bound, "{part}, {usual}: {apart:e}");
        }
    }
    assert!(bounds.iter().all(|count| *count > 0), "{bounds:?}");
}
