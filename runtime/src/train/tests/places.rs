//! Steps by libtorch's operators in small pieces, as on a GPU, against the reference in double precision and
//! against our own loops; and the bytes that a step transfers between host and device.

use super::half::{relative, rounded};
use super::*;
use crate::machine::transfer::transferred;

#[test]
fn loss_and_gradient_by_operators_are_the_references() {
    let fixture = Fixture::new();
    println!("| place | objective | precision | loss apart | gradient apart |\n|---|---|---|---:|---:|");
    let kinds = [(Kind::Float, 1e-5, 1e-5), (Kind::BFloat16, 2e-2, 8e-2)];
    let places = Place::tested().split_off(1);
    for (place, (kind, loss_within, gradient_within)) in
        places.into_iter().flat_map(|place| kinds.map(|kind| (place, kind)))
    {
        let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let mut stage = Stage { kind, place, ..fixture.stage(&train, ROUTED, &models) };
            let (_, _, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            for micro_batch in [None, Some(3)] {
                stage.micro_batch = micro_batch;
                let (got_loss, got, _) = first_step(&stage);
                let (loss_apart, apart) =
                    ((got_loss - loss).abs() / loss.abs().max(1.0), relative(&got, &gradient));
                let what = format!("{}, {name}, {kind:?}, {micro_batch:?}", place.name());
                println!("| {} | {name} | {kind:?} | {loss_apart:.1e} | {apart:.1e} |", place.name());
                assert!(loss_apart < loss_within, "{what}: {got_loss} {loss}");
                assert!(apart < gradient_within, "{what}: {apart:e}");
            }
        }
    }
}

/// All weights and adapters, over steps that sample. A different token is drawn only where a uniform number
/// falls on the border between two tokens.
#[test]
fn training_by_operators_ends_where_the_loops_do() {
    let fixture = Fixture::new();
    let models = models(true);
    let kinds = [AdapterKind::Lora, AdapterKind::Dora].map(|kind| Trainable::Adapter(adapter(kind)));
    for trainable in [Trainable::default()].into_iter().chain(kinds) {
        let mut train = train(mopd(5.0), 1);
        train.rollout = Rollout::new(7, Producer::student(Sampling::new(2, 1.0, 6)));
        train.trainable = trainable;
        let end = |place| trained_to_the_end(&Stage { place, ..fixture.stage(&train, ROUTED, &models) }).0;
        let exact: Vec<f64> = end(Place::cpu()).iter().map(|value| f64::from(*value)).collect();
        for place in &Place::tested()[1..] {
            let apart = relative(&end(*place), &exact);
            assert!(apart < 1e-4, "{:?}, {}: {apart:e}", train.trainable, place.name());
        }
    }
}

/// Signals and derivatives are a few numbers per token, and sampling returns only the token. The vocabulary
/// has 259 entries: a row of logits would be 1,036 bytes.
#[test]
fn little_crosses_between_host_and_device_in_a_step() {
    let fixture = Fixture::new();
    let models = models(true);
    for (what, trainable) in [
        ("all weights", Trainable::default()),
        ("an adapter", Trainable::Adapter(adapter(AdapterKind::Lora))),
    ] {
        let mut train = train(mopd(5.0), 1);
        train.rollout = Rollout::new(7, Producer::student(Sampling::new(2, 1.0, 12)));
        train.trainable = trainable;
        for place in Place::tested() {
            let stage = Stage { place, models_fit: Some(true), ..fixture.stage(&train, ROUTED, &models) };
            let mut trainer = Trainer::new(&stage).unwrap();
            let mut record = Record::default();
            // The first step loads the teachers.
            trainer.step(0, &mut record).unwrap();
            let before = transferred();
            let Event::Step { tokens, .. } = trainer.step(1, &mut record).unwrap() else {
                panic!("a step says that it was one")
            };
            let transferred = transferred() - before;
            let bytes = (transferred.to_device + transferred.to_host) as f64 / tokens as f64;
            println!("{what}, {}: {transferred:?} for {tokens} tokens, {bytes:.0} a token", place.name());
            let bounded = place.loops().is_none();
            assert!(!bounded || bytes < 400.0, "{what}, {}: {bytes} bytes a token", place.name());
        }
    }
}
