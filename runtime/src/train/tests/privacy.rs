//! Private steps.

use mopd_compiler::plan::Private;

use super::super::privacy::{Privacy, draws};
use super::*;
use crate::rollout::Sequence;

fn private(mut train: Train<Objective>) -> Train<Objective> {
    train.private = Some(Private { clip: 0.05, epsilon: 3.0, delta: 1e-3 });
    train
}

/// Without its noise: the sum of every prompt's own gradient in double precision, each as if the batch were
/// it alone, clipped, over the expected number of prompts.
#[test]
fn every_prompt_is_clipped_by_itself() {
    let (fixture, models) = (Fixture::new(), models(true));
    for (objective, terms) in objectives().into_iter().take(3) {
        let mut train = private(train(objective, 1));
        train.rollout = Rollout::new(5, Producer::student(Sampling::new(2, 1.0, 6)));
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let step = (0..20).find(|step| draws(&stage, *step).len() > 3).unwrap();
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        let prompts: Vec<&[Sequence]> = rollouts.sequences.list.chunks(2).collect();
        let of: Vec<Vec<f64>> = prompts
            .iter()
            .map(|list| expected(&stage, &Sequences::new(list.to_vec(), 2, 2), &models, terms).1)
            .collect();
        let norm = |of: &[f64]| of.iter().map(|value| value * value).sum::<f64>().sqrt();
        let mut norms: Vec<f64> = of.iter().map(|of| norm(of)).collect();
        norms.sort_by(f64::total_cmp);
        // Some are clipped and some are not.
        let clip = (norms[0] + norms[norms.len() - 1]) / 2.0;
        let mut sum = vec![0.0; of[0].len()];
        for of in &of {
            let scale = (clip / norm(of)).min(1.0);
            zip_equal(&mut sum, of).for_each(|(sum, of)| *sum += scale * of / 5.0);
        }
        let quiet = Privacy { clip, noise: 0.0, ..Privacy::of_stage(&stage).unwrap().unwrap() };
        let got = quiet.gradient(&trainer, &rollouts, step).map_err(|(error, _)| error).unwrap();
        let apart = apart(&to_vec(&got.part(0..got.parameters())), &sum);
        assert!(apart < 2e-5, "{apart:e}");
    }
}

/// Normal, of the deviation that is asked for, the same for the same step; and a record is drawn as often as
/// the accountant has it.
#[test]
fn noise_and_draws_are_as_the_accountant_has_them() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = private(train(direct(Support::Full, Mass::Raw), 1));
    let stage = fixture.stage(&train, ROUTED, &models);
    let trainer = Trainer::new(&stage).unwrap();
    let privacy = Privacy::of_stage(&stage).unwrap().unwrap();
    let nobody = Rollouts::new(&stage, Sequences::new(Vec::new(), 1, 2));
    let noise = |step: u32| {
        let gradient = privacy.gradient(&trainer, &nobody, step).map_err(|(error, _)| error).unwrap();
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
        draws(&stage, step).iter().for_each(|draw| drawn[draw.source] += 1);
    }
    for (drawn, records) in zip_equal(drawn, records) {
        let rate = f64::from(train.rollout.groups) / 2.0 / records as f64;
        let mean = f64::from(steps) * records as f64 * rate;
        assert!((f64::from(drawn) - mean).abs() < 4.0 * mean.sqrt(), "{drawn} {mean}");
    }
}

/// A budget that the steps exceed, a batch beyond the data, and a fork are refused.
#[test]
fn what_no_budget_covers_is_refused() {
    let (fixture, models) = (Fixture::new(), models(true));
    let refused = |change: &dyn Fn(&mut Train<Objective>)| {
        let mut train = private(train(direct(Support::Full, Mass::Raw), 1));
        change(&mut train);
        let stage = fixture.stage(&train, ROUTED, &models);
        Trainer::new(&stage).err().expect("it is refused").to_string()
    };
    let budget = |train: &mut Train<Objective>| {
        train.private = Some(Private { clip: 1.0, epsilon: 1e-6, delta: 1e-9 });
    };
    let said = refused(&budget);
    assert!(said.contains("is spent before the last of 4 steps"), "{said}");
    let said = refused(&|train| train.rollout.groups = 1_000);
    assert!(said.contains("1000 prompts a step are more than a domain has"), "{said}");

    let train = private(train(direct(Support::Full, Mass::Raw), 1));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let state = trainer.state(2, 0.0, Record::default());
    let said = trainer.restore(&state, RestoreMode::Fork).unwrap_err();
    assert!(said.contains("privacy budget"), "{said}");
}
