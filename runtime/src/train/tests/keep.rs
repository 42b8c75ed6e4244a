//! `keep = correct` for completions that are drawn in every step.

use std::io::Write;
use std::sync::Mutex;

use mopd_plan as plan;

use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;

/// A verifier that rewards completions that match the pattern.
pub(super) fn matches(pattern: &str) -> Verifier {
    let pattern = pattern.to_owned();
    Verifier::new(&Reward::Regex { pattern, field: "answer".into() }, Path::new(".")).unwrap()
}

/// A pattern that about half of a random model's completions match: two printable characters in a row.
pub(super) const SOME: &str = "[ -~][ -~]";

pub(super) fn kept(rollout: Rollout) -> Rollout {
    Rollout { keep: Keep::Correct, ..rollout }
}

/// A step trains on the correct ones among the completions that it would draw anyway, in the same order. Loss
/// and gradient are those of these sequences alone, in double precision.
#[test]
fn a_step_trains_on_what_is_right_alone() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let models = models(true);
    let producers = [
        Producer::student(sampling(4)),
        Producer::teacher(sampling(4)),
        Producer::mix(
            Schedule::Constant { value: 0.5 },
            Producer::student(sampling(4)),
            Producer::of_scorer(Role::named(0), None, sampling(4)),
        ),
    ];
    for ((objective, terms), producer) in zip_equal(objectives(), producers) {
        let mut train = train(objective, 1);
        train.rollout = Rollout::new(7, producer);
        let all = first_step(&fixture.stage(&train, ROUTED, &models)).2.sequences.list;
        train.rollout = kept(train.rollout);
        for micro_batch in [None, Some(2)] {
            let mut stage = fixture.stage(&train, ROUTED, &models);
            stage.micro_batch = micro_batch;
            let (loss, gradient, rollouts) = first_step(&stage);
            let sequences = &rollouts.sequences;
            let right: Vec<Sequence> =
                all.iter().filter(|sequence| sequence.reward == Some(1.0)).cloned().collect();
            assert!(sequences.list == right && !right.is_empty() && right.len() < all.len());
            // A group has the remaining completions of one prompt, however few.
            let prompts = right.chunk_by(|one, next| (one.source, one.record) == (next.source, next.record));
            let sizes: Vec<usize> = prompts.map(<[_]>::len).collect();
            assert_eq!(sequences.groups().map(<[_]>::len).collect::<Vec<_>>(), sizes);
            assert!(sizes.iter().min() < sizes.iter().max(), "{sizes:?}");
            let of_group = (0u32..).zip(&sizes).flat_map(|(group, size)| vec![group; *size]);
            assert_eq!(sequences.layout.group_of_sequence, of_group.collect::<Vec<u32>>());
            let (wanted, derivative) = expected(&stage, sequences, &models, terms);
            assert!((loss - wanted).abs() < 2e-6 * wanted.abs().max(1.0), "{loss} {wanted}");
            let apart = apart(&gradient, &derivative);
            assert!(apart < 1e-5, "{micro_batch:?}: {apart:e}");
        }
        // Each domain's row has the number of dropped completions.
        let (_, rows) = trained_to_the_end(&fixture.stage(&train, ROUTED, &models));
        for (index, row) in rows.iter().filter(|row| row.step == 0).enumerate() {
            let of_domain = all.iter().filter(|sequence| sequence.source == index);
            let wrong = of_domain.filter(|sequence| sequence.reward != Some(1.0)).count();
            assert_eq!((row.dropped, row.reward), (Some(wrong as f64), Some(1.0)));
        }
    }
}

/// Collects the events.
#[derive(Clone, Default)]
struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Weights and moments stay, even with weight decay. Rows have the number dropped; one warning is given.
#[test]
fn a_step_with_nothing_left_changes_no_weights() {
    let told = CapturedOutput::default();
    let fixture =
        Fixture { verifier: matches("[^a-z[^a-z]]"), control: Control::new(told.clone()), ..Fixture::new() };
    let models = models(true);
    let mut train = train(mopd(1.0), 1);
    train.optimizer = adamw(0.1);
    train.rollout = kept(Rollout::new(7, Producer::student(sampling(2))));
    let stage = fixture.stage(&train, ROUTED, &models);
    let (weights, rows) = trained_to_the_end(&stage);
    assert!(weights == models[0].values().into_owned());
    for step in 0..4 {
        let rows: Vec<&StepMetrics> = rows.iter().filter(|row| row.step == step).collect();
        assert_eq!(rows.iter().map(|row| row.dropped.unwrap()).sum::<f64>(), 14.0);
        for row in rows {
            assert_eq!(
                (row.loss, row.gradient_norm, row.prompt_share, row.token_share),
                (0.0, 0.0, 0.0, 0.0)
            );
            assert_eq!((row.reward, row.length, row.divergence), (None, None, None));
        }
    }
    let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
    assert_eq!(told.matches("all completions of step 0 were dropped").count(), 1, "{told}");
    assert_eq!(told.matches("were dropped").count(), 1, "{told}");
    // Terms on other completions are still trained.
    train.own_data = vec![plan::OwnData {
        rollout: Rollout::new(5, Producer::data("answer")),
        objective: direct(Support::Full, Mass::Raw),
    }];
    let (weights, rows) = trained_to_the_end(&fixture.stage(&train, ROUTED, &models));
    assert!(weights != models[0].values().into_owned());
    assert!(rows.iter().all(|row| row.gradient_norm > 0.0));
    let sum: f64 = rows.iter().filter(|row| row.step == 0).map(|row| row.prompt_share).sum();
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
}
