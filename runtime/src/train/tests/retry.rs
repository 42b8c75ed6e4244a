//! Completions that are drawn again until a condition holds.

use mopd_plan::producers::Retry;
use mopd_plan::{Axis, Formula, PlainSignal};

use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;

pub(super) fn retry(at_most: u32, of: Producer) -> Producer {
    let mut graph = mopd_expr::graph::Graph::default();
    let value = graph.signal(PlainSignal::Correct);
    assert_eq!(graph.axis(value), Axis::Sequence);
    Producer::Retry(Box::new(Retry { until: Formula { graph, value }, at_most, of }))
}

/// The sequences of some steps. Completions that begin with the letters A to H are correct.
fn drawn(producer: Producer) -> Vec<Sequence> {
    let reward = Reward::Regex { pattern: "^[a-hA-H]".to_owned(), field: String::new() };
    let verifier = Verifier::new(&reward, Path::new(".")).unwrap();
    let (fixture, weights) = (Fixture { verifier, ..Fixture::new() }, models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(6, producer);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    (0..3).flat_map(|step| trainer.rollouts_of(step).unwrap().remove(0).sequences.list).collect()
}

fn right(list: &[Sequence]) -> usize {
    list.iter().filter(|sequence| sequence.reward == Some(1.0)).count()
}

/// Correct completions stay, bit by bit; others are replaced by new completions of the same prompts, or by
/// the last one if none is correct.
#[test]
fn retry_replaces_incorrect_completions_only() {
    let rounds: Vec<Vec<Sequence>> =
        [1, 2, 3, 12].map(|at_most| drawn(retry(at_most, Producer::student(sampling(3))))).into();
    let plain = drawn(Producer::student(sampling(3)));
    assert!(rounds[0] == plain, "one attempt is none again");
    for attempts in rounds.windows(2) {
        for (before, after) in zip_equal(&attempts[0], &attempts[1]) {
            assert_eq!((before.source, before.record), (after.source, after.record));
            assert!(after.completion.logps().is_some() && after.reward.is_some());
            if before.reward == Some(1.0) {
                assert!(before == after);
            } else {
                assert!(before.completion != after.completion || before.completion.len() < 3, "drawn again");
            }
        }
    }
    let counts: Vec<usize> = rounds.iter().map(|list| right(list)).collect();
    assert!(counts.is_sorted() && counts[0] < counts[1] && 3 * counts[0] < counts[3], "{counts:?}");
}
