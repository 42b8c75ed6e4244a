//! The draws of each kind of producer, against their definition.

use std::collections::VecDeque;

use mopd_expr::graph::Graph;
use mopd_plan::producers::{Model, PrecomputedRollouts, Replay, ReplayContents};
use mopd_plan::{AdaptiveSchedule, Axis, Formula, Function, Ladder, Reduction};

use super::mixes::{chance, drawn};
use super::*;
use crate::random::{Key, Purpose};
use crate::rollout::{Prompt, Sequence, rollout};

pub(super) const GROUPS: u32 = 10;

pub(super) fn sampling(n: u32) -> Sampling {
    Sampling::new(n, 1.0, 6)
}

/// The batches of a stage of `steps` steps whose student stays unchanged; the producer is made for a stage of
/// `made_for` steps.
pub(super) fn forked(
    producer: Producer,
    teachers: [Teacher; 2],
    made_for: u32,
    steps: u32,
) -> Vec<Vec<Sequence>> {
    let (fixture, weights) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(GROUPS, producer);
    let mut stage = fixture.stage(&train, teachers, &weights);
    stage.steps = made_for;
    let models = Models::new(&stage).unwrap();
    let mut batches = Batches::new(&stage, &models, None).unwrap();
    stage.steps = steps;
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let mut list = |step| {
        let list = batches.next(&stage, &student, &models, step).unwrap().list;
        batches.commit();
        list
    };
    (0..steps).map(&mut list).collect()
}

pub(super) fn lists(producer: Producer, steps: u32) -> Vec<Vec<Sequence>> {
    forked(producer, ROUTED, steps, steps)
}

/// A teacher by name writes what it would write if it were routed to every prompt.
#[test]
fn a_teacher_by_name_writes_as_a_routed_one() {
    let named = Role::named(0);
    let everywhere = [2, 2].map(|model| Teacher::Model(ModelId(model)));
    let once = || PrecomputedRollouts { sequences: 9, keep: Keep::All };
    for (routed, by_name) in [
        (Producer::teacher(sampling(2)), Producer::of_scorer(named, None, sampling(2))),
        (
            Producer::teacher_once(9, Keep::All, sampling(1)),
            Producer::of_scorer(named, Some(once()), sampling(1)),
        ),
    ] {
        let expected = forked(routed.clone(), everywhere.clone(), 5, 5);
        assert!(lists(by_name, 5) == expected);
        assert!(lists(routed, 5) != expected, "whom the route has is another one");
    }
}

fn snapshot(model: u32, n: u32) -> Producer {
    Model { once: true, model: ModelId(model), sampling: sampling(n) }.into()
}

/// A snapshot depends on model and prompt alone, and is the same whenever the prompt is drawn.
#[test]
fn a_snapshot_is_written_once_for_each_prompt() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let of_run = lists(snapshot(1, 2), 8);
    let (writer, reference) =
        (Decoder::frozen(&weights[1], Place::cpu(), Kind::Float), Reference::new(&weights[1]));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut known: HashMap<(usize, usize), Vec<Sequence>> = HashMap::new();
    let mut repeated = 0;
    for group in of_run.iter().flat_map(|list| list.chunks(2)) {
        let (source, record) = (group[0].source, group[0].record);
        if let Some(before) = known.insert((source, record), group.to_vec()) {
            assert!(before == group);
            repeated += 1;
            continue;
        }
        let tokens = stage.sources[source].tokens.get(record);
        let prompt = Prompt { tokens, id: (8 * source + record) as u32, sample: 0, limit: None };
        let key = Key::new(1, 2, Purpose::TeacherRollout, 0);
        let alone = rollout(&writer, &[prompt], &sampling(2), key, stage.budget, stage.control).unwrap();
        for (sequence, expected) in zip_equal(group, alone) {
            assert_eq!(*sequence.completion, expected.tokens);
            let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
            let logps = reference.logps(tokens, &sequence.completion).gather(1, &taken, false);
            let logps = Vec::<f64>::try_from(&logps.squeeze_dim(1)).unwrap();
            for (recorded, expected) in zip_equal(sequence.completion.logps().unwrap(), logps) {
                assert!((f64::from(recorded) - expected).abs() < 1e-4, "{recorded} {expected}");
            }
        }
    }
    assert!(known.len() == 16 && repeated == 64, "{} prompts, {repeated} again", known.len());
    // A fork may draw prompts that the earlier stage would not have drawn.
    let completions = |lists: &[Vec<Sequence>]| -> Vec<Vec<Token>> {
        lists.iter().flatten().map(|sequence| sequence.completion.to_vec()).collect()
    };
    assert!(completions(&forked(snapshot(1, 2), ROUTED, 1, 8)) == completions(&of_run));
}

/// Each step equals the step of a run with that length alone, rounded to the nearest integer.
#[test]
fn completions_may_get_longer_during_the_run() {
    let grows = Schedule::Linear { from: 2.0, to: 6.0, over: mopd_plan::ScheduleLength::Run };
    let moving = Sampling { max_tokens_moves: Some(grows.into()), ..sampling(2) };
    let mix = |sampling: &Sampling| {
        let share = Schedule::Constant { value: 0.5 };
        Producer::mix(share, Producer::student(sampling.clone()), Producer::teacher(sampling.clone()))
    };
    let of_run = lists(mix(&moving), 8);
    for (step, most) in [2, 3, 3, 4, 4, 5, 5, 6].into_iter().enumerate() {
        assert!(lists(mix(&Sampling::new(2, 1.0, most)), 8)[step] == of_run[step], "step {step}");
    }
}

/// Adds a ladder of lengths, which is climbed after the steps that it tests if its condition holds.
pub(super) fn climbing(train: &mut Train<Objective>) {
    let graph = &mut train.objective.graph;
    let (step, two) = (graph.signal(PlainSignal::Step), graph.constant(Axis::Run, 2.0));
    let advance_if = graph.apply(Function::GreaterEqual, &[step, two]);
    train.objective.ladders = vec![Ladder { advance_if, every: 2, values: 3 }];
    let moves = AdaptiveSchedule::Ladder { ladder: 0, values: vec![2.0, 4.0, 6.0] };
    let sampling = Sampling { max_tokens_moves: Some(moves), ..sampling(2) };
    train.rollout = Rollout::new(GROUPS, Producer::student(sampling));
}

#[test]
fn a_ladder_is_climbed_where_its_condition_holds() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    climbing(&mut train);
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    stage.steps = 8;
    let mut trainer = Trainer::new(&stage).unwrap();
    for (step, most) in (0..).zip([2, 2, 2, 2, 4, 4, 6, 6]) {
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        let lengths = rollouts.sequences.list.iter().map(|sequence| sequence.completion.len());
        assert_eq!(lengths.max(), Some(most), "step {step}");
        let (now, record) = (Instant::now(), &mut Default::default());
        trainer.update(vec![rollouts], now, step, record).unwrap();
    }
}

pub(super) fn replay(of: Producer, keeps: ReplayContents, capacity: u32, order: Option<Formula>) -> Producer {
    let share = Schedule::Constant { value: 0.5 }.into();
    Producer::Replay(Box::new(Replay { of, capacity, share, keeps, condition: None, order }))
}

/// Equality up to log-probabilities, whose last bits depend on what else was drawn together.
pub(super) fn same(one: &[Sequence], other: &[Sequence]) -> bool {
    zip_equal(one, other).all(|(one, other)| drawn(one) == drawn(other))
}

/// Each group is drawn by the producer inside, or is the oldest group of its domain in the buffer.
#[test]
fn a_replayed_group_is_the_oldest_of_its_domain() {
    let student = || Producer::student(sampling(2));
    for capacity in [3, 25, 1000] {
        let of_run = lists(replay(student(), ReplayContents::Rollouts, capacity, None), 12);
        let alone = lists(student(), 12);
        let mut buffer: VecDeque<Vec<Sequence>> = VecDeque::new();
        let mut replayed = 0;
        for (step, (list, alone)) in (0..).zip(zip_equal(of_run, alone)) {
            let mut newest = Vec::new();
            for (group, (got, fresh)) in (0..).zip(zip_equal(list.chunks(2), alone.chunks(2))) {
                let oldest = buffer.iter().position(|kept| kept[0].source == fresh[0].source);
                let expected = match oldest.filter(|_| chance(step, group, 0) < 0.5) {
                    Some(oldest) => buffer.remove(oldest).unwrap(),
                    None => fresh.to_vec(),
                };
                replayed += usize::from(!same(&expected, fresh));
                assert!(same(got, &expected), "step {step}, group {group}");
                newest.push(got.to_vec());
            }
            buffer.extend(newest);
            while buffer.len() > capacity as usize {
                buffer.pop_front();
            }
        }
        // About half of 110; a small buffer runs out of groups sooner.
        assert!(if capacity == 3 { (10..40).contains(&replayed) } else { replayed > 35 }, "{replayed}");
    }
}

/// The mean length of a group.
pub(super) fn mean_length() -> Formula {
    let mut graph = Graph::default();
    let length = graph.signal(PlainSignal::Length);
    let value = graph.reduce(Reduction::Mean, length, Axis::Group, None);
    Formula { graph, value }
}

/// Replayed prompts get new completions in each step; those with the smallest number come first.
#[test]
fn replayed_prompts_have_new_completions() {
    let of_run =
        lists(replay(Producer::student(sampling(2)), ReplayContents::Prompts, 25, Some(mean_length())), 12);
    let alone = lists(Producer::student(sampling(2)), 12);
    let mut buffer: VecDeque<(usize, usize, usize)> = VecDeque::new();
    let (mut other, mut together) = (0, 0);
    for (step, (list, alone)) in (0..).zip(zip_equal(of_run, alone)) {
        let mut newest = Vec::new();
        for (group, (got, fresh)) in (0..).zip(zip_equal(list.chunks(2), alone.chunks(2))) {
            let (source, mut record) = (fresh[0].source, fresh[0].record);
            let of_source = buffer.iter().enumerate().filter(|(_, kept)| kept.0 == source);
            let smallest = of_source.min_by_key(|(place, kept)| (kept.2, *place)).map(|(place, _)| place);
            if let Some(smallest) = smallest.filter(|_| chance(step, group, 0) < 0.5) {
                record = buffer.remove(smallest).unwrap().1;
            }
            assert!(got.iter().all(|sequence| (sequence.source, sequence.record) == (source, record)));
            if record == fresh[0].record {
                assert!(same(got, fresh), "step {step}, group {group}");
                together += 1;
            } else {
                other += 1;
            }
            newest.push((source, record, got.iter().map(|sequence| sequence.completion.len()).sum()));
        }
        buffer.extend(newest);
        while buffer.len() > 25 {
            buffer.pop_front();
        }
    }
    assert!(other > 25 && together > 40, "{other} {together}");
}
