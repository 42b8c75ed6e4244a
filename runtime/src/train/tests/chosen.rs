//! Edits that choose among completions, and `first_of`, against the completions that they choose from.

use mopd_expr::graph::Graph;
use mopd_plan::producers::{Chosen, FirstOf, Ranked, SampleChoice};
use mopd_plan::{Axis, Formula, Function, Reduction};

use super::keep::{SOME, matches};
use super::producers::{GROUPS, lists, same, sampling};
use super::*;
use crate::random::{Key, Purpose};
use crate::rollout::{Prompt, Sequence, rollout};
use crate::train::batches::ChosenSide;

const STEPS: u32 = 6;

fn formula(of: impl FnOnce(&mut Graph) -> mopd_expr::graph::NodeId) -> Formula {
    let mut graph = Graph::default();
    let value = of(&mut graph);
    let value = graph.broadcast(value, Axis::Sequence);
    Formula { graph, value }
}

/// `length <= most`
fn short(most: f64) -> Formula {
    formula(|graph| {
        let (length, most) = (graph.signal(PlainSignal::Length), graph.constant(Axis::Sequence, most));
        graph.apply(Function::LessEqual, &[length, most])
    })
}

/// `mean(student.rank <= k, over: sequence)`
fn likeness(k: f64) -> Formula {
    formula(|graph| {
        let rank = graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Rank });
        let k = graph.constant(Axis::Token, k);
        let among = graph.apply(Function::LessEqual, &[rank, k]);
        graph.reduce(Reduction::Mean, among, Axis::Sequence, None)
    })
}

/// `mean(student.rank <= 64, over: sequence) > least`
fn alike(least: f64) -> Formula {
    formula(|graph| {
        let Formula { graph: known, value } = likeness(64.0);
        *graph = known;
        let least = graph.constant(Axis::Sequence, least);
        graph.apply(Function::Greater, &[value, least])
    })
}

fn keep(of: Producer, condition: Formula) -> Producer {
    Producer::Chosen(Box::new(Chosen { choice: SampleChoice::Keep { condition }, of }))
}

fn best(of: Producer, by: Formula, count: u32) -> Producer {
    Producer::Chosen(Box::new(Chosen { choice: SampleChoice::Best { by, count }, of }))
}

/// The producer of the example experiment `brts`, with another condition in place of its verdict.
pub(super) fn tiers() -> Producer {
    let tried = || Producer::teacher(sampling(3));
    let hinted = Producer::of_scorer(Role::named(0), None, sampling(1));
    let choices = vec![
        best(keep(tried(), alike(0.45)), likeness(64.0), 1),
        keep(hinted, alike(0.3)),
        best(tried(), likeness(64.0), 1),
    ];
    Producer::FirstOf(Box::new(FirstOf::new(choices)))
}

/// The value of `likeness(k)` with the initial student, in double precision.
fn likeness_of(stage: &Stage, student: &Reference, sequence: &Sequence, k: f64) -> f64 {
    let logps = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
    let taken = logps.gather(1, &Tensor::from_slice(&sequence.completion).unsqueeze(1), false);
    let rank = logps.gt_tensor(&taken).sum_dim_intlist([-1].as_slice(), false, Kind::Double) + 1.0;
    let among = rank.le(k).to_kind(Kind::Double);
    among.mean(Kind::Double).double_value(&[])
}

/// The index of the sequence with the largest number, the first of equal ones.
fn largest(group: &[Sequence], number: impl Fn(&Sequence) -> f64) -> usize {
    let numbers: Vec<f64> = group.iter().map(number).collect();
    (0..numbers.len()).rev().max_by(|one, other| numbers[*one].total_cmp(&numbers[*other])).unwrap()
}

#[test]
fn an_edit_chooses_among_what_is_drawn() {
    let drawn = lists(Producer::student(sampling(3)), STEPS);
    let short_ones = lists(keep(Producer::student(sampling(3)), short(3.0)), STEPS);
    let expected: Vec<Vec<Sequence>> = drawn
        .iter()
        .map(|list| list.iter().filter(|sequence| sequence.completion.len() <= 3).cloned().collect())
        .collect();
    assert!(short_ones == expected && expected.iter().flatten().next().is_some());
    let longest = formula(|graph| graph.signal(PlainSignal::Length));
    let two = lists(best(Producer::student(sampling(3)), longest, 2), STEPS);
    for (chosen, list) in zip_equal(&two, &drawn) {
        for (chosen, group) in zip_equal(chosen.chunks(2), list.chunks(3)) {
            // The shortest is left out, and of several the last.
            let shortest = group.iter().map(|sequence| sequence.completion.len()).min().unwrap();
            let out = group.iter().rposition(|sequence| sequence.completion.len() == shortest).unwrap();
            let mut rest = group.to_vec();
            rest.remove(out);
            assert!(chosen == rest);
        }
    }
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let student = Reference::new(&weights[0]);
    let teachers = lists(Producer::teacher(sampling(3)), STEPS);
    let likest = lists(best(Producer::teacher(sampling(3)), likeness(64.0), 1), STEPS);
    let mut places = [0; 3];
    for (chosen, group) in
        zip_equal(likest.concat(), teachers.concat().chunks(3).map(<[_]>::to_vec).collect::<Vec<_>>())
    {
        let place = largest(&group, |sequence| likeness_of(&stage, &student, sequence, 64.0));
        assert!(chosen == group[place]);
        places[place] += 1;
    }
    assert!(places.iter().all(|count| *count > 3), "{places:?}");
}

/// Both sides of a pair are of one group; a group whose sides are the same completion is left out.
#[test]
fn a_pair_is_chosen_from_one_group() {
    let drawn = lists(Producer::student(sampling(3)), STEPS).concat();
    let longest = formula(|graph| graph.signal(PlainSignal::Length));
    let shortest = formula(|graph| {
        let length = graph.signal(PlainSignal::Length);
        graph.apply(Function::Negate, &[length])
    });
    let of = Producer::student(sampling(3));
    let pairs = lists(Ranked { chosen: longest, rejected: shortest, of }.into(), STEPS).concat();
    let (mut expected, mut left_out) = (Vec::new(), 0);
    for group in drawn.chunks(3) {
        let length = |sequence: &Sequence| sequence.completion.len() as f64;
        let (longest, shortest) = (largest(group, length), largest(group, |sequence| -length(sequence)));
        if longest == shortest {
            left_out += 1;
            continue;
        }
        expected.push(group[longest].clone().with_extra(&ChosenSide(true)));
        expected.push(group[shortest].clone().with_extra(&ChosenSide(false)));
    }
    assert!(pairs == expected && left_out > 0 && !expected.is_empty(), "{left_out}");
}

/// The first tier with a completion is used; the last tier chooses among the first tier's completions.
#[test]
fn the_first_that_has_a_completion_is_taken() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let (student, hints) =
        (Reference::new(&weights[0]), Decoder::frozen(&weights[2], Place::cpu(), Kind::Float));
    let tried = lists(Producer::teacher(sampling(3)), STEPS);
    let mut tiers_used = [0; 3];
    for (step, (list, tried)) in (0..).zip(zip_equal(lists(tiers(), STEPS), tried)) {
        assert_eq!(list.len(), GROUPS as usize);
        for (place, (got, group)) in (0..).zip(zip_equal(list, tried.chunks(3))) {
            let likeness = |sequence: &Sequence| likeness_of(&stage, &student, sequence, 64.0);
            let kept: Vec<Sequence> =
                group.iter().filter(|sequence| likeness(sequence) > 0.45).cloned().collect();
            let likest = |group: &[Sequence]| group[largest(group, likeness)].clone();
            let tokens = stage.sources[group[0].source].tokens.get(group[0].record);
            // The prompts of the second producer have numbers that no other prompt of the step has.
            let prompt = Prompt { tokens, id: place + (1 << 28), sample: 0, limit: None };
            let key = Key::new(1, 2, Purpose::Rollout, step);
            let hinted = rollout(&hints, &[prompt], &sampling(1), key, stage.budget, stage.control).unwrap();
            let (tier, expected) = if !kept.is_empty() {
                (0, likest(&kept).completion.to_vec())
            } else if likeness(&Sequence { completion: hinted[0].tokens.clone().into(), ..group[0].clone() })
                > 0.3
            {
                (1, hinted[0].tokens.clone())
            } else {
                (2, likest(group).completion.to_vec())
            };
            assert_eq!(*got.completion, expected, "step {step}, group {place}, tier {tier}");
            assert_eq!((got.source, got.record), (group[0].source, group[0].record));
            tiers_used[tier] += 1;
        }
    }
    assert!(tiers_used.iter().all(|count| *count > 3), "{tiers_used:?}");
}

/// Rollouts that are declared apart are drawn independently, even if their settings are equal.
#[test]
fn rollouts_that_are_declared_apart_have_their_own_completions() {
    let tried = || Producer::student(sampling(1));
    let choices = || vec![keep(tried(), alike(0.45)), tried()];
    let drawn = lists(tried(), STEPS).concat();
    let shared = lists(Producer::FirstOf(Box::new(FirstOf::new(choices()))), STEPS).concat();
    assert!(shared == drawn, "the second choice has what the first one left");
    let apart = FirstOf { same_as: vec![0, 1], ..FirstOf::new(choices()) };
    let apart = lists(Producer::FirstOf(Box::new(apart)), STEPS).concat();
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let student = Reference::new(&weights[0]);
    let (mut kept, mut others) = (0, 0);
    for (apart, drawn) in zip_equal(&apart, &drawn) {
        if likeness_of(&stage, &student, drawn, 64.0) > 0.45 {
            assert!(apart == drawn);
            kept += 1;
        } else {
            others += usize::from(apart.completion != drawn.completion);
        }
    }
    assert!(kept > 10 && others > 5, "{kept} {others}");
}

/// A prompt without a completion is dropped and counted; loss and gradient are those of the other prompts.
#[test]
fn prompts_without_completions_are_dropped_and_counted() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let models = models(true);
    for (objective, terms) in objectives() {
        let mut train = train(objective, 1);
        train.rollout = Rollout::new(9, keep(Producer::student(sampling(2)), alike(0.45)));
        let stage = fixture.stage(&train, ROUTED, &models);
        let (loss, gradient, rollouts) = first_step(&stage);
        let sequences = &rollouts.sequences;
        let left = sequences.list.len();
        assert!((1..18).contains(&left), "{left}");
        assert_eq!(sequences.dropped.as_ref().unwrap().iter().sum::<u32>(), 18 - left as u32);
        let (wanted, derivative) = expected(&stage, sequences, &models, terms);
        assert!((loss - wanted).abs() < 2e-6 * wanted.abs().max(1.0), "{loss} {wanted}");
        let apart = apart(&gradient, &derivative);
        assert!(apart < 1e-5, "{apart:e}");
    }
    // One edit after the other, and in a replay buffer.
    let shortest = formula(|graph| {
        let length = graph.signal(PlainSignal::Length);
        graph.apply(Function::Negate, &[length])
    });
    let twice = best(keep(Producer::student(sampling(3)), alike(0.45)), shortest, 1);
    let once = lists(twice.clone(), STEPS);
    assert!(once.iter().flatten().count() > 10);
    let replayed = lists(
        super::producers::replay(twice, mopd_plan::producers::ReplayContents::Rollouts, 50, None),
        STEPS,
    );
    assert!(same(&replayed[0], &once[0]) && !replayed[STEPS as usize - 1].is_empty());
}
