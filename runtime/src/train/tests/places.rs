//! Steps by libtorch's operators in small pieces, as a GPU takes them, against the reference in double
//! precision and against our own loops; and what crosses between host and device in one.

use super::half::{relative, rounded};
use super::*;
use crate::machine::transfer::transferred;

#[test]
fn loss_and_gradient_by_operators_are_the_references() {
    let fixture = Fixture::new();
    println!("| objective | precision | loss apart | gradient apart |\n|---|---|---:|---:|");
    for (kind, loss_within, gradient_within) in [(Kind::Float, 1e-5, 1e-5), (Kind::BFloat16, 2e-2, 8e-2)] {
        let models: Vec<Arc<Weights>> = models(true).iter().map(rounded).collect();
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let place = Place::operators();
            let mut stage = Stage { kind, place, ..fixture.stage(&train, ROUTED, &models) };
            let (_, _, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            for micro_batch in [None, Some(3)] {
                stage.micro_batch = micro_batch;
                let (got_loss, got, _) = first_step(&stage);
                let (loss_apart, apart) =
                    ((got_loss - loss).abs() / loss.abs().max(1.0), relative(&got, &gradient));
                println!("| {name} | {kind:?} | {loss_apart:.1e} | {apart:.1e} |");
                assert!(loss_apart < loss_within, "{name}, {kind:?}, {micro_batch:?}: {got_loss} {loss}");
                assert!(apart < gradient_within, "{name}, {kind:?}, {micro_batch:?}: {apart:e}");
            }
        }
    }
}

/// All weights and adapters, over steps that sample: a token is another one only where a uniform number falls
/// on the border between two.
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
        let (loops, operators) = (end(Place::cpu()), end(Place::operators()));
        let exact: Vec<f64> = loops.iter().map(|value| f64::from(*value)).collect();
        let apart = relative(&operators, &exact);
        assert!(apart < 1e-4, "{:?}: {apart:e}", train.trainable);
    }
}

/// Signals and derivatives are a few numbers a token; what draws a token sends back that token alone. The
/// vocabulary has 259 entries: a row of logits would be 1,036 bytes.
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
        let mut bytes_by = [0.0; 2];
        for (bytes, place) in bytes_by.iter_mut().zip([Place::cpu(), Place::operators()]) {
            let stage = Stage { place, models_fit: Some(true), ..fixture.stage(&train, ROUTED, &models) };
            let mut trainer = Trainer::new(&stage).unwrap();
            let mut record = Record::default();
            // The first step brings the teachers in.
            trainer.step(0, &mut record).map_err(|(error, _)| error).unwrap();
            let before = transferred();
            let Event::Step { tokens, .. } =
                trainer.step(1, &mut record).map_err(|(error, _)| error).unwrap()
            else {
                panic!("a step says that it was one")
            };
            let transferred = transferred() - before;
            *bytes = (transferred.to_device + transferred.to_host) as f64 / tokens as f64;
            println!("{what}, {}: {transferred:?} for {tokens} tokens, {bytes:.0} a token", place.name());
        }
        assert!(bytes_by[1] < 400.0, "{what}: {} bytes a token", bytes_by[1]);
    }
}
