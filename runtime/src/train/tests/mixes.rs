//! `mix`: the side that each group is from, and equality with the groups of that side alone.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::rollout::Sequence;

const STEPS: u32 = 40;
const GROUPS: u32 = 10;

/// The batches of a stage whose student stays unchanged.
fn lists(producer: Producer, sequences: usize) -> Vec<Vec<Sequence>> {
    let (fixture, weights) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(GROUPS, producer);
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    stage.steps = STEPS;
    let models = Models::new(&stage).unwrap();
    let mut batches = Batches::new(&stage, &models, None).unwrap();
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let mut list = |step| batches.next(&stage, &student, &models, step).unwrap().list;
    let lists: Vec<Vec<Sequence>> = (0..STEPS).map(&mut list).collect();
    assert!(lists.iter().all(|list| list.len() == sequences));
    lists
}

/// The uniform number by which a mix chooses a group's side, directly from the generator: seeded by the
/// fixture's seed 1 and stream 2, purpose 10 and the step; the group and the mix's node select the stream.
pub(super) fn chance(step: u32, group: u32, node: u32) -> f64 {
    let words = [1u64, 2, 10, u64::from(step)];
    let seed: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut generator = ChaCha8Rng::from_seed(seed.try_into().unwrap());
    generator.set_stream(u64::from(group) << 32 | u64::from(node));
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

pub(super) fn drawn(sequence: &Sequence) -> (usize, usize, &[Token], bool) {
    (sequence.source, sequence.record, &sequence.completion, sequence.completion.logps().is_some())
}

#[test]
fn a_group_of_a_mix_is_what_its_side_alone_gives() {
    let sampling = |n| Sampling::new(n, 1.0, 6);
    let (student, teacher) = (|| Producer::student(sampling(2)), || Producer::teacher(sampling(2)));
    let moving = || Schedule::Linear { from: 0.1, to: 0.9, over: mopd_plan::ScheduleLength::Run };
    let mixed = lists(Producer::mix(moving(), student(), teacher()), 20);
    let sides = [lists(student(), 20), lists(teacher(), 20)];
    let mut from_first = [0, 0];
    for step in 0..STEPS {
        let share = 0.1 + 0.8 * f64::from(step) / f64::from(STEPS);
        for group in 0..GROUPS {
            let first = chance(step, group, 0) < share;
            from_first[usize::from(step >= STEPS / 2)] += usize::from(first);
            for sample in 0..2 {
                let at = (step as usize, (2 * group + sample) as usize);
                let expected = &sides[usize::from(!first)][at.0][at.1];
                assert_eq!(drawn(&mixed[at.0][at.1]), drawn(expected), "step {step}, group {group}");
            }
        }
    }
    // There are 200 groups in each half of the run, with mean shares of 0.3 and 0.7.
    assert!((35..85).contains(&from_first[0]) && (115..165).contains(&from_first[1]), "{from_first:?}");
    assert!(sides[0] != sides[1]);
}

/// A mix inside a mix chooses with its own random numbers.
#[test]
fn mixes_inside_mixes_choose_on_their_own() {
    let half = || Schedule::Constant { value: 0.5 };
    let sampling = || Sampling::new(1, 1.0, 6);
    let (data, student) = (|| Producer::data("answer"), || Producer::student(sampling()));
    let inside = Producer::mix(half(), student(), data());
    let mixed = lists(Producer::mix(half(), inside, data()), 10);
    let sides = [lists(student(), 10), lists(data(), 10)];
    let mut from_student = 0;
    for (step, list) in (0..).zip(&mixed) {
        for (group, sequence) in (0..).zip(list) {
            let of_student = chance(step, group, 0) < 0.5 && chance(step, group, 1) < 0.5;
            from_student += usize::from(of_student);
            let expected = &sides[usize::from(!of_student)][step as usize][group as usize];
            assert_eq!(drawn(sequence), drawn(expected), "step {step}, group {group}");
        }
    }
    // A quarter of 400 is expected.
    assert!((65..135).contains(&from_student), "{from_student}");
}
