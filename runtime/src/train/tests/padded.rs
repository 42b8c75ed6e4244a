//! Embeddings with more rows than the tokenizer has tokens. Published checkpoints are padded to multiples of
//! 64 or 128, students and teachers differently. Padding is never drawn, and no model gives it a probability.

use super::*;

const TOKENS: usize = 259;

/// Models whose padding rows would get most of every distribution.
fn padded(tied: bool, rows: [usize; 3]) -> Vec<Arc<Weights>> {
    let model = |(seed, rows): (usize, usize)| {
        let weights = random_model(&crate::model::Config { tied, vocabulary: rows, ..tiny() }, seed as u64);
        let mut values = weights.values().into_owned();
        for entry in
            layout(&weights.config).iter().filter(|entry| entry.shape == [rows, weights.config.width])
        {
            let padding = entry.offset + TOKENS * weights.config.width..entry.offset + entry.len();
            values[padding].iter_mut().for_each(|value| *value *= 4.0);
        }
        Arc::new(weights.with_values(values))
    };
    rows.into_iter().enumerate().map(model).collect()
}

/// The student has more rows than its teachers, then fewer, then all have different numbers.
const ROWS: [[usize; 3]; 3] = [[272, TOKENS, TOKENS], [TOKENS, 320, 272], [264, TOKENS, 320]];

#[test]
fn loss_and_gradient_equal_the_reference_over_the_tokens_that_exist() {
    let fixture = Fixture::new();
    for (tied, rows) in [true, false].into_iter().flat_map(|tied| ROWS.map(|rows| (tied, rows))) {
        let models = padded(tied, rows);
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let stage = fixture.stage(&train, ROUTED, &models);
            let (got_loss, got, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            assert!(
                (got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0),
                "{name}, {rows:?}: {got_loss} {loss}"
            );
            let apart = apart(&got, &gradient);
            assert!(apart < 1e-5, "{name}, {rows:?}, tied {tied}: {apart:e}");
        }
    }
}

/// A padded student, with all weights trained or an adapter, on its own rollouts or on data, trains as the
/// same model without padding.
#[test]
fn a_padded_student_trains_as_one_without_padding() {
    let fixture = Fixture::new();
    let padded = padded(false, [272, TOKENS, TOKENS]);
    let config = Arc::new(crate::model::Config { vocabulary: TOKENS, ..(*padded[0].config).clone() });
    let mut values = Vec::new();
    for (short, long) in zip_equal(layout(&config), layout(&padded[0].config)) {
        assert_eq!(short.name, long.name);
        values.extend_from_slice(&padded[0].values()[long.offset..][..short.len()]);
    }
    let plain = Arc::new(Weights::new(config, padded[0].tokenizer.clone(), values));
    let trainable = [
        Trainable::default(),
        Trainable::Adapter(adapter(AdapterKind::Lora)),
        Trainable::Adapter(adapter(AdapterKind::Dora)),
    ];
    let own = || Rollout::new(6, Producer::student(Sampling::new(2, 1.0, 8)));
    let data = || Rollout::new(7, Producer::data("answer"));
    let kinds: [(Objective, Rollout); 3] = [
        (super::super::objective::objectives::nll(), data()),
        (mopd(1.0), own()),
        (direct(Support::Full, Mass::Raw), own()),
    ];
    for (trainable, (objective, rollout)) in
        trainable.iter().flat_map(|trainable| kinds.iter().map(move |kind| (trainable, kind)))
    {
        let name = format!("{} {trainable:?}", objective.name);
        let mut train = train(objective.clone(), 1);
        (train.trainable, train.rollout) = (trainable.clone(), rollout.clone());
        let first = |student: &Arc<Weights>| {
            let models = [student.clone(), padded[1].clone(), padded[2].clone()];
            let stage = fixture.stage(&train, ROUTED, &models);
            trained_to_the_end(&stage).1
        };
        let (with, without) = (first(&padded[0]), first(&plain));
        assert!(!with.is_empty());
        for (with, without) in zip_equal(&with, &without) {
            let apart = (with.loss - without.loss).abs();
            assert!(
                apart < 1e-4 * without.loss.abs().max(1.0),
                "{name}, step {}: {} {}",
                with.step,
                with.loss,
                without.loss
            );
        }
    }
}

#[test]
fn padding_is_never_drawn_and_the_sampler_agrees_with_the_reference() {
    let fixture = Fixture::new();
    for (rows, kind, near) in
        ROWS.iter().flat_map(|rows| [(rows, Kind::Float, 2e-4), (rows, Kind::BFloat16, 0.5)])
    {
        let models = padded(true, *rows);
        for sampling in [Sampling::new(4, 1.0, 10), Sampling::new(1, 0.0, 10)] {
            let sampled = sampling.temperature.is_one();
            let mut train = train(direct(Support::Full, Mass::Raw), 1);
            train.rollout = Rollout::new(8, Producer::student(sampling));
            let stage = Stage { kind, ..fixture.stage(&train, ROUTED, &models) };
            let (loss, _, rollouts) = first_step(&stage);
            assert!(loss.is_finite() && loss > 0.0, "{rows:?}: {loss}");
            let student = Reference::new(&models[0]);
            for sequence in &rollouts.sequences.list {
                assert!(
                    sequence.completion.iter().all(|token| (0..TOKENS as Token).contains(token)),
                    "{:?}",
                    sequence.completion
                );
                let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                let expected = student
                    .logps(sequence.prompt(&stage.sources), &sequence.completion)
                    .gather(1, &taken, false);
                let expected = Vec::<f64>::try_from(expected.reshape([-1])).unwrap();
                let logps = &sequence.completion.logps().unwrap();
                assert_eq!(logps.len(), expected.len());
                for (got, expected) in logps.iter().zip(expected).filter(|_| sampled) {
                    assert!((f64::from(*got) - expected).abs() < near, "{rows:?} {kind:?}: {got} {expected}");
                }
            }
        }
    }
}
