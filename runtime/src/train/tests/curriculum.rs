//! Prompts that are chosen before steps, against completions that are drawn again here.

use std::collections::BTreeMap;

use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{Axis, Curriculum, CurriculumMeasure, Formula, Function, Reduction};

use super::keep::{SOME, matches};
use super::producers::sampling;
use super::*;
use crate::data::mixture::Draw;
use crate::random::{Uniforms, permutation};
use crate::rollout::{Prompt, rollout};

/// A bound on the score that some prompts do not reach.
const LEAST: f64 = 0.5;

/// `mean(reward, over: group)`
fn score(graph: &mut Graph) -> NodeId {
    let reward = graph.signal(PlainSignal::Reward);
    graph.reduce(Reduction::Mean, reward, Axis::Group, None)
}

pub(super) fn formula(value: impl FnOnce(&mut Graph) -> NodeId) -> Formula {
    let mut graph = Graph::default();
    let value = value(&mut graph);
    Formula { value: graph.broadcast(value, Axis::Group), graph }
}

/// Chooses prompts on which the writer's score is at least `least`, ordered by its lead over the student.
pub(super) fn curriculum(writer: Producer, least: f64, refresh: Option<u32>) -> Curriculum {
    let measured = |graph: &mut Graph| graph.signal(Signal::Measured { measure: 0 });
    let filter = formula(|graph| {
        let (score, least) = (measured(graph), graph.constant(Axis::Run, least));
        graph.apply(Function::GreaterEqual, &[score, least])
    });
    let priority = formula(|graph| {
        let (others, own) = (measured(graph), score(graph));
        graph.apply(Function::Subtract, &[others, own])
    });
    Curriculum {
        filter: Some(filter),
        priority: Some(priority),
        refresh,
        rollouts: vec![writer],
        measures: vec![CurriculumMeasure { rollout: 0, value: formula(score) }],
    }
}

/// A formula whose value changes during the run.
pub(super) fn moving() -> Formula {
    formula(|graph| {
        let (score, progress) = (score(graph), graph.signal(PlainSignal::Progress));
        graph.apply(Function::Multiply, &[score, progress])
    })
}

fn by_teacher(refresh: Option<u32>) -> Curriculum {
    curriculum(Producer::teacher(sampling(4)), LEAST, refresh)
}

fn choosing(curriculum: Curriculum) -> Train<Objective> {
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(6, Producer::student(sampling(2)));
    train.curriculum = Some(curriculum);
    train
}

/// Mean rewards of a source's prompts; `numbered(record)` is the number that keys a prompt's random numbers.
fn scores(
    stage: &Stage,
    author: &Decoder,
    n: u32,
    (source, step): (usize, u32),
    numbered: impl Fn(usize) -> u32,
) -> Vec<f64> {
    let own = &stage.sources[source];
    let prompt = |record: usize| Prompt {
        tokens: own.tokens.get(record),
        id: numbered(record),
        sample: 0,
        limit: None,
    };
    let prompts: Vec<Prompt> = (0..8).map(prompt).collect();
    let key = Key::new(stage.seed, stage.stream, Purpose::Measure, u64::from(step));
    let written = rollout(author, &prompts, &sampling(n), key, stage.budget, stage.control).unwrap();
    let right = |tokens: &[Token]| {
        let text = stage.start.tokenizer.decode(tokens).unwrap();
        let pair = |pair: &[char]| pair.iter().all(|letter| (' '..='~').contains(letter));
        f64::from(u8::from(text.chars().collect::<Vec<char>>().windows(2).any(pair)))
    };
    written
        .chunks(n as usize)
        .map(|group| group.iter().map(|one| right(&one.tokens)).sum::<f64>() / f64::from(n))
        .collect()
}

/// The expected order of a source's records: by the teacher's score and its lead over the student's.
fn order(stage: &Stage, teacher: &[f64], own: &[f64], (source, round): (usize, u64)) -> Vec<usize> {
    let uniforms: Uniforms =
        Key::new(stage.seed, stage.stream, Purpose::Shuffle, round).row(source as u32, 0);
    let mut records: Vec<usize> =
        permutation(uniforms, 8).into_iter().map(|record| record as usize).collect();
    records.retain(|record| teacher[*record] >= LEAST);
    let priority = |record: usize| ((teacher[record] - own[record]) * 1000.0) as i64;
    records.sort_by_key(|record| -priority(*record));
    records
}

/// At the first step and every second one after it, completions of all prompts are judged: the student's each
/// time, the teacher's only once.
#[test]
fn prompts_come_in_the_order_of_what_was_measured() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let models = models(true);
    let train = choosing(by_teacher(Some(2)));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let teachers = [1, 2].map(|model: usize| Decoder::frozen(&models[model], stage.place, stage.kind));
    // The student's completions have the numbers 0 to 15, the teacher's the next ones.
    let teacher: Vec<Vec<f64>> = (0..2)
        .map(|source| {
            let number = |record: usize| (16 + 8 * source + record) as u32;
            scores(&stage, &teachers[source], 4, (source, 0), number)
        })
        .collect();
    let mut lists: Vec<Vec<usize>> = Vec::new();
    let mut taken = [0; 2];
    let mut record = Record::default();
    let mut changed = 0;
    for step in 0..4u32 {
        if step.is_multiple_of(2) {
            let own = |source: usize| {
                scores(&stage, &trainer.student.model, 2, (source, step), |record| {
                    (8 * source + record) as u32
                })
            };
            let new: Vec<Vec<usize>> = (0..2)
                .map(|source| order(&stage, &teacher[source], &own(source), (source, u64::from(step / 2))))
                .collect();
            assert!(new.iter().any(|list| list.len() < 8), "some do not come: {new:?}");
            changed += usize::from(lists != new);
            (lists, taken) = (new, [0; 2]);
        }
        let rollouts = trainer.rollouts_of(step).unwrap();
        let drawn: Vec<Draw> = rollouts[0].sequences.draws.clone();
        let expected: Vec<Draw> = (0..2)
            .flat_map(|source| (0..3).map(move |_| source))
            .map(|source: usize| {
                taken[source] += 1;
                Draw { source, record: lists[source][(taken[source] - 1) % lists[source].len()] }
            })
            .collect();
        assert_eq!(drawn, expected, "step {step}: {lists:?}");
        trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
    }
    assert_eq!(changed, 2, "the order is another one after two steps");
    for row in record.rows.iter().filter(|row| row.step >= 2) {
        let source = usize::from(row.domain == "flip");
        assert_eq!(row.chosen_prompts, Some(lists[source].len() as f64));
        assert!(row.priority.is_some_and(|priority| (-1.0..=1.0).contains(&priority)));
    }
}

/// Without `refresh` prompts are chosen once. Copies of the student are measured anew, frozen models once.
#[test]
fn curriculum_by_frozen_models_is_measured_once() {
    let scorers = |teacher: Teacher| Scorers::new(vec![choice(teacher)], [], Vec::new());
    let fixed =
        |curriculum: &Curriculum, teacher| curriculum.is_fixed(&curriculum.measures[0], &scorers(teacher));
    let usual = by_teacher(Some(2));
    assert!(fixed(&usual, Teacher::Model(ModelId(1))));
    assert!(!fixed(&usual, Teacher::Student(StudentCopy::Current)));
    assert!(!fixed(&curriculum(Producer::student(sampling(1)), 0.0, None), Teacher::Model(ModelId(1))));
    let mut later = usual.clone();
    later.measures[0].value = moving();
    assert!(!fixed(&later, Teacher::Model(ModelId(1))));
    assert_eq!([0, 1, 2, 5].map(|step| usual.round(step)), [0, 0, 1, 2]);
    assert_eq!([0, 5].map(|step| by_teacher(None).round(step)), [0, 0]);
    assert_eq!([4, 5].map(|steps| usual.rounds(steps)), [2, 3]);
    assert_eq!(by_teacher(None).rounds(9), 1);
}

/// Means are compared in double precision: 7/10 in single precision is below 0.7.
#[test]
fn bounds_are_met_exactly() {
    let filter = formula(|graph| {
        let (score, least) = (graph.signal(Signal::Measured { measure: 0 }), graph.constant(Axis::Run, 0.7));
        graph.apply(Function::GreaterEqual, &[score, least])
    });
    let layout = mopd_expr::batch::Layout { groups: 2, ..Default::default() };
    let batch = Batch { layout, measured: vec![vec![7.0 / 10.0, 0.6999]], ..Batch::default() };
    let values = mopd_expr::interpret::interpret(&filter.graph, &[filter.value], &batch).unwrap();
    assert_eq!(values.get(filter.value), [1.0, 0.0]);
    assert!(f64::from(0.7f32) < 0.7);
}

/// A filter that holds for no prompt of a domain is an error that names both.
#[test]
fn a_domain_without_prompts_is_said() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let models = models(true);
    let train = choosing(curriculum(Producer::teacher(sampling(4)), 1.5, None));
    let stage = fixture.stage(&train, ROUTED, &models);
    let Err(error) = Trainer::new(&stage).unwrap().rollouts_of(0) else { panic!("prompts are left") };
    assert_eq!(
        error.to_string(),
        "the `filter` of `student` accepts none of the 8 prompts of the domain `copy`, so nothing is left \
        to train on"
    );
}

/// A fork with another objective chooses its own prompts.
#[test]
fn fork_chooses_its_own_prompts() {
    let fixture = Fixture { verifier: matches(SOME), ..Fixture::new() };
    let models = models(true);
    let train = choosing(by_teacher(None));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.step(0, &mut Record::default()).unwrap();
    let state = trainer.state(1, 0.0, Record::default());
    let chosen = |trainer: &Trainer| trainer.parts[0].batches.chosen(0).is_some();
    let kept: BTreeMap<bool, usize> = [RestoreMode::Resume, RestoreMode::Fork]
        .into_iter()
        .map(|mode| {
            let mut other = Trainer::new(&stage).unwrap();
            other.restore(&state, mode).unwrap();
            (
                chosen(&other),
                other.parts[0].batches.save(stage.keys(), &mut StateTensors::default()).measured[0].len(),
            )
        })
        .collect();
    assert_eq!(kept, BTreeMap::from([(true, 2), (false, 0)]));
}
