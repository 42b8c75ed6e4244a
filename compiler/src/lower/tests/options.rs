//! What follows from a field of [`TrainOptions`] alone: its part of a key, its difference between two plans.

use mopd_experiment::{
    Checkpointing, Execution, GradientAlignment, GradientPartition, Private, TrainOptions, Validation,
};
use mopd_plan::difference::{ChangeKind, difference};

use super::*;

/// Each option, by its name in the language, with another value than its default.
fn changes() -> Vec<(&'static str, TrainOptions)> {
    let usual = TrainOptions::default;
    // A new option does not compile before it has its case here.
    let TrainOptions {
        passes: _,
        mini_batches: _,
        private: _,
        ema: _,
        validation: _,
        alignment: _,
        execution: _,
    } = usual();
    vec![
        ("passes", TrainOptions { passes: 2, ..usual() }),
        ("mini_batches", TrainOptions { mini_batches: 2, ..usual() }),
        (
            "private",
            TrainOptions { private: Some(Private { clip: 1.0, epsilon: 8.0, delta: 1e-5 }), ..usual() },
        ),
        ("ema", TrainOptions { ema: Some(0.5), ..usual() }),
        (
            "validate",
            TrainOptions {
                validation: Some(Validation { target: "answer".into(), every: 5, rows: None }),
                ..usual()
            },
        ),
        (
            "gradient_alignment",
            TrainOptions {
                alignment: Some(GradientAlignment { between: GradientPartition::Domains, every: 5 }),
                ..usual()
            },
        ),
        (
            "execution",
            TrainOptions {
                execution: Execution { micro_batch: Some(2), checkpointing: Checkpointing::None },
                ..usual()
            },
        ),
    ]
}

#[test]
fn an_option_is_in_the_key_and_in_the_difference_by_its_name() {
    let plain = compiled(&experiment());
    for (name, options) in changes() {
        assert_eq!(options.changed().keys().collect::<Vec<_>>(), [name]);
        let mut changed = experiment();
        let Stage::Train(student) = &mut changed.models[4].stage else { panic!("the student is trained") };
        student.options = options;
        let changed = compiled(&changed);
        assert_ne!(changed.stages[4].key, plain.stages[4].key, "{name}");
        let found = difference(&plain, &changed);
        let settings = found.items.iter().find_map(|item| match &item.fate {
            ChangeKind::Changed { settings, .. } => Some(settings),
            _ => None,
        });
        let [setting] = settings.expect(name).as_slice() else { panic!("{name}: {settings:?}") };
        let expected = if name == "execution" { "micro_batch" } else { name };
        assert_eq!(setting.what, expected);
    }
}
