//! Private steps.

use mopd_plan::Private;

use super::super::privacy::{Privacy, copies, draws};
use super::*;
use crate::rollout::Sequence;

fn private(mut train: Train<Objective>) -> Train<Objective> {
    train.options.private = Some(Private { clip: 0.05, epsilon: 3.0, delta: 1e-3 });
    train
}

/// Without noise, the gradient is the sum of the clipped gradients of all prompts, divided by the expected
/// number of prompts. Each is evaluated as a batch of its own, in double precision.
#[test]
fn every_prompt_is_clipped_by_itself() {
    let (fixture, models) = (Fixture::new(), models(true));
    for (objective, terms) in objectives().into_iter().take(3) {
        let mut train = private(train(objective, 1));
        train.rollout = Rollout::new(5, Producer::student(Sampling::new(2, 1.0, 6)));
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let step =
            (0..20).find(|step| draws(stage.train, &stage.sources, stage.secret, *step).len() > 3).unwrap();
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        let all = trainer.evaluate_all(std::slice::from_ref(&rollouts), step);
        let all = all.unwrap();
        assert!(all.each[0].is_some() && all.gradient.is_none(), "nobody reads the gradient of the batch");
        let prompts: Vec<&[Sequence]> = rollouts.sequences.list.chunks(2).collect();
        let of: Vec<Vec<f64>> = prompts
            .iter()
            .map(|list| expected(&stage, &Sequences::new(list.to_vec(), 2, 2), &models, terms).1)
            .collect();
        let norm = |of: &[f64]| of.iter().map(|value| value * value).sum::<f64>().sqrt();
        let mut norms: Vec<f64> = of.iter().map(|of| norm(of)).collect();
        norms.sort_by(f64::total_cmp);
        // Some gradients are clipped, others are not.
        let clip = (norms[0] + norms[norms.len() - 1]) / 2.0;
        let mut sum = vec![0.0; of[0].len()];
        for of in &of {
            let scale = (clip / norm(of)).min(1.0);
            zip_equal(&mut sum, of).for_each(|(sum, of)| *sum += scale * of / 5.0);
        }
        let quiet = Privacy { clip, noise: 0.0, ..Privacy::of_stage(&stage).unwrap().unwrap() };
        let got = trainer.private_gradient(&quiet, &rollouts, step).unwrap();
        let apart = apart(&to_vec(&got.part(0..got.parameters())), &sum);
        assert!(apart < 2e-5, "{apart:e}");
    }
}

/// The noise is normal, with the given standard deviation, and the same for the same step. Records are drawn
/// as often as the accountant assumes.
#[test]
fn noise_and_draws_are_as_the_accountant_has_them() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = private(train(direct(Support::Full, Mass::Raw), 1));
    let stage = fixture.stage(&train, ROUTED, &models);
    let trainer = Trainer::new(&stage).unwrap();
    let privacy = Privacy::of_stage(&stage).unwrap().unwrap();
    let nobody = Rollouts::new(Sequences::new(Vec::new(), 1, 2), stage.step(0));
    let noise = |step: u32| {
        let gradient = trainer.private_gradient(&privacy, &nobody, step).unwrap();
        to_vec(&gradient.part(0..gradient.parameters()))
    };
    let (one, other) = (noise(0), noise(1));
    assert!(one == noise(0) && one != other);
    let count = one.len() as f64;
    let moment = |of: &[f32], power: i32| of.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / count;
    let deviation = privacy.noise * privacy.clip / f64::from(train.rollout.groups);
    assert!(moment(&one, 1).abs() < 4.0 * deviation / count.sqrt());
    assert!((moment(&one, 2) / deviation.powi(2) - 1.0).abs() < 4.0 * (2.0 / count).sqrt());
    assert!((moment(&one, 4) / deviation.powi(4) - 3.0).abs() < 4.0 * (96.0 / count).sqrt());

    let records: Vec<usize> = stage.sources.iter().map(|source| source.tokens.len()).collect();
    let steps = 2_000;
    let mut drawn = [0; 2];
    for step in 0..steps {
        draws(stage.train, &stage.sources, stage.secret, step)
            .iter()
            .for_each(|draw| drawn[draw.source] += 1);
    }
    for (drawn, records) in zip_equal(drawn, records) {
        let rate = f64::from(train.rollout.groups) / 2.0 / records as f64;
        let mean = f64::from(steps) * records as f64 * rate;
        assert!((f64::from(drawn) - mean).abs() < 4.0 * mean.sqrt(), "{drawn} {mean}");
    }
}

/// Two stages that differ in anything, or two stores, have independent noise. With the same noise, two models
/// trained with different clips or budgets would reveal the gradient that the noise hides.
#[test]
fn noise_and_draws_of_two_stages_are_independent() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = private(train(direct(Support::Full, Mass::Raw), 1));
    let secrets = [(7, "student"), (7, "the same with another budget"), (8, "student")];
    let drawn = secrets.map(|(store, key)| {
        let secret = Some(NoiseSecret::new(&[store; 32], key));
        let stage = Stage { secret, ..fixture.stage(&train, ROUTED, &models) };
        let (trainer, privacy) = (Trainer::new(&stage).unwrap(), Privacy::of_stage(&stage).unwrap().unwrap());
        let nobody = Rollouts::new(Sequences::new(Vec::new(), 1, 2), stage.step(0));
        let gradient = trainer.private_gradient(&privacy, &nobody, 0).unwrap();
        let records: Vec<bool> = (0..200)
            .flat_map(|step| {
                let drawn = draws(stage.train, &stage.sources, stage.secret, step);
                (0..7).map(move |record| drawn.iter().any(|draw| (draw.source, draw.record) == (0, record)))
            })
            .collect();
        (to_vec(&gradient.part(0..gradient.parameters())), records)
    });
    let cosine = |one: &[f64], other: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| zip_equal(a, b).map(|(a, b)| a * b).sum::<f64>();
        dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
    };
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let noise =
            [one, other].map(|stage| drawn[stage].0.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let close = cosine(&noise[0], &noise[1]).abs();
        assert!(close < 4.0 / (noise[0].len() as f64).sqrt(), "noise {one} {other}: {close}");
        let there = [one, other].map(|stage| {
            let all = &drawn[stage].1;
            let mean = all.iter().filter(|there| **there).count() as f64 / all.len() as f64;
            all.iter().map(|there| f64::from(u8::from(*there)) - mean).collect::<Vec<_>>()
        });
        let close = cosine(&there[0], &there[1]).abs();
        assert!(close < 4.0 / (there[0].len() as f64).sqrt(), "records {one} {other}: {close}");
    }
}

/// Neither a record's gradient nor its completions depend on other records.
#[test]
fn completions_of_a_record_are_the_same_whoever_is_in_the_step() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = private(train(direct(Support::Full, Mass::Raw), 1));
    train.rollout = Rollout::new(5, Producer::student(Sampling::new(2, 1.0, 6)));
    let mut known = HashMap::new();
    let mut moved = 0;
    for store in 0..8 {
        let secret = Some(NoiseSecret::new(&[store; 32], "student"));
        let stage = Stage { secret, ..fixture.stage(&train, ROUTED, &models) };
        let rollouts = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0);
        for (place, group) in rollouts.sequences.groups().enumerate() {
            let of = (group[0].source, group[0].record);
            let completions: Vec<Vec<i64>> =
                group.iter().map(|sequence| sequence.completion.to_vec()).collect();
            let (before, same) = known.entry(of).or_insert((place, completions.clone()));
            assert_eq!(*same, completions, "{of:?}");
            moved += usize::from(*before != place);
        }
    }
    assert!(moved > 0, "no record stood elsewhere in two steps");
}

/// The noise changes the weights even if no record is drawn, so the step has a row for each domain.
#[test]
fn a_step_without_a_record_has_rows() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = private(train(direct(Support::Full, Mass::Raw), 1));
    train.rollout.groups = 1;
    let stage = fixture.stage(&train, ROUTED, &models);
    let step =
        (0..100).find(|step| draws(stage.train, &stage.sources, stage.secret, *step).is_empty()).unwrap();
    let (mut trainer, mut record) = (Trainer::new(&stage).unwrap(), Record::default());
    trainer.step(step, &mut record).unwrap();
    assert!(to_vec(trainer.student.model.flat()) != *models[0].values());
    let names: Vec<(&str, u32)> = record.rows.iter().map(|row| (row.domain.as_str(), row.step)).collect();
    assert_eq!(names, [("copy", step), ("flip", step)]);
    for row in &record.rows {
        assert_eq!((row.token_share, row.tokens, row.loss), (0.0, None, 0.0));
        assert!(row.gradient_norm > 0.0 && row.learning_rate > 0.0);
    }
    assert!(record.moved(), "or a later step would take the weights for those of the start");
}

/// The expected bounds were computed by a separate program. From the exact distribution of the number of
/// copies in a batch, the privacy loss is 2.832.
#[test]
fn duplicate_prompts_have_their_own_privacy_bound() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |name: &str, prompts: &[&str]| {
        let line = |prompt: &&str| format!("{{\"prompt\": \"{prompt}\", \"answer\": \"a\"}}\n");
        let path = folder.path().join(name);
        std::fs::write(&path, prompts.iter().map(line).collect::<String>()).unwrap();
        load(&path)
    };
    let one = rows("one.jsonl", &["p", "q", "r", "q"]);
    let other = rows("other.jsonl", &["s", "q", "t", "p", "u"]);
    let privacy = Privacy {
        clip: 1.0,
        noise: 4.0,
        records: 2.0,
        rates: vec![0.25, 0.2],
        steps: 10,
        budget: Private { clip: 1.0, epsilon: 1.0, delta: 1e-5 },
    };
    let found = copies(&privacy, &[&one.dataset, &other.dataset]).unwrap();
    assert_eq!((found.rows, found.first, found.most), (5, (0, 0), vec![2, 1]));
    assert!((found.epsilon - 3.1932601048965417).abs() < 1e-9, "{}", found.epsilon);
    assert!((privacy.epsilon() - 0.9042864657367962).abs() < 1e-9, "of one");
    // If every batch has every row, three copies are one row with three times the clip.
    let all = Privacy { noise: 30.0, rates: vec![1.0], steps: 1, ..privacy };
    let three = copies(&all, &[&rows("three.jsonl", &["q", "q", "q"]).dataset]).unwrap();
    let privacy = Privacy { noise: 10.0, ..all };
    assert_eq!((three.epsilon, three.most), (privacy.epsilon(), vec![3]));
    assert!(copies(&privacy, &[&rows("apart.jsonl", &["p", "q"]).dataset]).is_none());
}

/// A budget that the steps exceed, a batch beyond the data, and a fork are refused.
#[test]
fn stages_beyond_the_privacy_budget_are_refused() {
    let (fixture, models) = (Fixture::new(), models(true));
    let refused = |change: &dyn Fn(&mut Train<Objective>)| {
        let mut train = private(train(direct(Support::Full, Mass::Raw), 1));
        change(&mut train);
        let stage = fixture.stage(&train, ROUTED, &models);
        Trainer::new(&stage).err().expect("it is refused").to_string()
    };
    let budget = |train: &mut Train<Objective>| {
        train.options.private = Some(Private { clip: 1.0, epsilon: 1e-6, delta: 1e-9 });
    };
    let said = refused(&budget);
    assert!(said.contains("is spent before the last of 4 steps"), "{said}");
    let said = refused(&|train| train.rollout.groups = 1_000);
    assert!(said.contains("1000 prompts per step are more than a domain has"), "{said}");

    let train = private(train(direct(Support::Full, Mass::Raw), 1));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let state = trainer.state(2, 0.0, Record::default());
    let said = trainer.restore(&state, RestoreMode::Fork).unwrap_err();
    assert!(said.contains("privacy budget"), "{said}");
}
