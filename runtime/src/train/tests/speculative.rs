//! `speculative`: the teachers' trajectories, and the rejected parts of the student's drafts.

use mopd_plan::producers::Speculative;
use mopd_plan::{Function, Live};

use super::super::objective::objectives::objective;
use super::producers::{GROUPS, forked, lists, sampling};
use super::*;
use crate::rollout::{DraftCounts, Sequence, Speculation};

const STEPS: u32 = 5;

pub(super) fn speculative(block: u32, n: u32) -> Producer {
    let of = Producer::student(sampling(n));
    Producer::Speculative(Box::new(Speculative { block, rejects: false, of }))
}

/// The index of a row's first trained token.
fn start(sequence: &Sequence) -> usize {
    sequence.completion.len() - sequence.completion.trained()
}

#[test]
fn rejected_drafts_follow_their_trajectory() {
    let lists = lists(speculative(4, 2), STEPS);
    let (mut groups, mut drafts) = (0, 0);
    for list in &lists {
        let mut trajectory: Option<(&Sequence, DraftCounts)> = None;
        for sequence in list {
            assert!(
                sequence.completion.logps().is_none(),
                "nobody knows the probability of a rejected token"
            );
            match sequence.extra::<Speculation>().expect("each row says what it is") {
                Speculation::Trajectory(counts) => {
                    let all =
                        trajectory.replace((sequence, counts)).is_none_or(|(_, left)| left.rejected == 0);
                    assert!(all && sequence.completion.is_whole() && sequence.reward.is_some());
                    let (blocks, tokens) = (counts.blocks as usize, sequence.completion.len());
                    assert!(blocks <= tokens && tokens <= 5 * blocks && counts.stood as usize <= 4 * blocks);
                    groups += 1;
                }
                Speculation::Rejected => {
                    let (whole, counts) = trajectory.as_mut().expect("its trajectory is before it");
                    let at = start(sequence);
                    assert_eq!(sequence.completion[..at], whole.completion[..at]);
                    assert_ne!(sequence.completion[at], whole.completion[at]);
                    assert_eq!((sequence.source, sequence.record), (whole.source, whole.record));
                    assert!(sequence.completion.turns().eq(std::iter::once(at..sequence.completion.len())));
                    assert!(sequence.reward.is_none() && sequence.completion.trained() <= 4);
                    counts.rejected -= 1;
                    drafts += 1;
                }
            }
        }
        assert_eq!(trajectory.expect("there is one").1.rejected, 0);
    }
    assert_eq!(groups, STEPS * GROUPS * 2);
    assert!(drafts > groups, "{drafts} of {groups}");
    // The teacher is the student itself, or has equal weights.
    for own in [Teacher::Student(StudentCopy::Current), Teacher::Model(ModelId(0))] {
        let lists = forked(speculative(3, 2), [own.clone(), own], STEPS, STEPS);
        assert!(lists.iter().flatten().all(|sequence| !Speculation::is_rejected(sequence)));
    }
}

/// The student's and its teacher's log-probabilities of all entries at the trained tokens, in double
/// precision.
fn both(sequence: &Sequence) -> [Tensor; 2] {
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let at = start(sequence) as i64;
    [0, sequence.source + 1].map(|model| {
        let all = Reference::new(&weights[model])
            .logps(sequence.prompt(&stage.sources), &sequence.completion)
            .detach();
        all.narrow(0, at, all.size()[0] - at)
    })
}

/// How far tokens deviate from the first distribution, in standard deviations of the sum of log(first /
/// second), which separates the two best; and how far tokens of the second distribution would deviate from
/// the first.
fn deviations(rows: &[([Tensor; 2], Vec<Token>)]) -> (f64, f64) {
    let (mut sum, mut other, mut variance) = (0.0, 0.0, 0.0);
    for ([first, second], tokens) in rows {
        let gap = first - second;
        let mean =
            |of: &Tensor, by: &Tensor| (by.exp() * of).sum_dim_intlist([-1].as_slice(), true, Kind::Double);
        let expected = mean(&gap, first);
        let taken = gap.gather(1, &Tensor::from_slice(tokens).unsqueeze(1), false);
        sum += (taken - &expected).sum(Kind::Double).double_value(&[]);
        other += (mean(&gap, second) - &expected).sum(Kind::Double).double_value(&[]);
        variance += mean(&(&gap - &expected).square(), first).sum(Kind::Double).double_value(&[]);
    }
    (sum / variance.sqrt(), other / variance.sqrt())
}

/// Trajectories follow the teacher's distribution; drafts after their first rejected token the student's.
#[test]
fn accepted_tokens_follow_the_teacher_and_rejected_drafts_the_student() {
    let lists = lists(speculative(4, 4), STEPS);
    let (mut of_teacher, mut of_student) = (Vec::new(), Vec::new());
    for sequence in lists.iter().flatten() {
        let [student, teacher] = both(sequence);
        let tokens = &sequence.completion[start(sequence)..];
        if !Speculation::is_rejected(sequence) {
            of_teacher.push(([teacher, student], tokens.to_vec()));
        } else if tokens.len() > 1 {
            let behind = |of: Tensor| of.narrow(0, 1, tokens.len() as i64 - 1);
            of_student.push(([behind(student), behind(teacher)], tokens[1..].to_vec()));
        }
    }
    for (whose, rows) in [("teacher", of_teacher), ("student", of_student)] {
        let (found, other) = deviations(&rows);
        assert!(found.abs() < 3.5, "the {whose}'s: {found} standard deviations");
        assert!(other < -20.0, "the {whose}'s: the other one would be {other} away");
    }
}

/// The weight of each token of a rejected draft, by its index.
fn worth(place: usize) -> f64 {
    2.0 * 0.9f64.powi(place as i32)
}

/// -logp per token, times 1 in a trajectory and times 2 * 0.9^(offset - 1) in a rejected draft.
pub(super) fn weighed() -> Objective {
    objective("weighed", Live::Logp, |graph, logp| {
        let number =
            |graph: &mut mopd_expr::graph::Graph, value| graph.constant(mopd_plan::Axis::Token, value);
        let (accepted, offset) = (graph.signal(PlainSignal::Accepted), graph.signal(PlainSignal::Offset));
        let (one, two, decay) = (number(graph, 1.0), number(graph, 2.0), number(graph, 0.9));
        let further = graph.apply(Function::Subtract, &[offset, one]);
        let power = graph.apply(Function::Power, &[decay, further]);
        let rejected = graph.apply(Function::Multiply, &[two, power]);
        let worth = graph.apply(Function::Where, &[accepted, one, rejected]);
        let weighed = graph.apply(Function::Multiply, &[worth, logp]);
        (graph.apply(Function::Negate, &[weighed]), None)
    })
}

/// Both kinds of rows are scored after their own prefix, in micro-batches too.
#[test]
fn loss_and_gradient_equal_the_reference() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = train(weighed(), 1);
    train.rollout = Rollout::new(5, speculative(4, 2));
    let mut stage = fixture.stage(&train, ROUTED, &models);
    let (_, _, rollouts) = first_step(&stage);
    let student = Reference::new(&models[0]);
    let losses: Vec<Tensor> = rollouts
        .sequences
        .list
        .iter()
        .map(|sequence| {
            let at = start(sequence);
            let all = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
            let taken = all.gather(1, &Tensor::from_slice(&sequence.completion).unsqueeze(1), false);
            let own = taken.narrow(0, at as i64, sequence.completion.trained() as i64).squeeze_dim(1);
            let worth: Vec<f64> = (0..sequence.completion.trained())
                .map(|place| if Speculation::is_rejected(sequence) { worth(place) } else { 1.0 })
                .collect();
            -(own * Tensor::from_slice(&worth)).mean(Kind::Double)
        })
        .collect();
    assert!(
        rollouts
            .sequences
            .list
            .iter()
            .any(|sequence| start(sequence) > 0 && sequence.completion.trained() > 1)
    );
    let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
    let gradient = student.gradient(&loss);
    let loss = loss.double_value(&[]);
    for micro_batch in [None, Some(1), Some(4)] {
        stage.micro_batch = micro_batch;
        let (got_loss, got, _) = first_step(&stage);
        assert!((got_loss - loss).abs() < 2e-6 * loss, "{micro_batch:?}: {got_loss} {loss}");
        let apart = apart(&got, &gradient);
        assert!(apart < 1e-5, "{micro_batch:?}: {apart:e}");
    }
}

/// Metrics count completions, and accepted and rejected drafts.
#[test]
fn metrics_are_of_trajectories() {
    let (fixture, models) = (Fixture::new(), models(true));
    let mut train = train(weighed(), 1);
    train.rollout = Rollout::new(6, speculative(4, 3));
    let stage = fixture.stage(&train, ROUTED, &models);
    let (_, _, Rollouts { sequences, .. }) = first_step(&stage);
    let mut record = Record::default();
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.step(0, &mut record).unwrap();
    assert_eq!(record.rows.len(), 2);
    for (source, row) in record.rows.iter().enumerate() {
        let own = || sequences.list.iter().filter(move |sequence| sequence.source == source);
        let counts: Vec<(usize, DraftCounts)> = own()
            .filter_map(|sequence| match sequence.extra() {
                Some(Speculation::Trajectory(counts)) => Some((sequence.completion.len(), counts)),
                _ => None,
            })
            .collect();
        let sum = |of: &dyn Fn(&(usize, DraftCounts)) -> usize| counts.iter().map(of).sum::<usize>() as f64;
        let rejected = own().filter(|sequence| Speculation::is_rejected(sequence)).count() as f64;
        assert_eq!(rejected, sum(&|(_, counts)| counts.rejected as usize));
        let (tokens, blocks) = (sum(&|of| of.0), sum(&|of| of.1.blocks as usize));
        let stood = sum(&|of| of.1.stood as usize);
        assert_eq!(row.prompt_share, counts.len() as f64 / 18.0);
        assert_eq!(row.length, Some(tokens / counts.len() as f64));
        assert_eq!(row.accepted, Some(stood / (stood + rejected)));
        assert_eq!(row.accepted_length, Some(tokens / blocks));
        assert!(row.reward.is_some());
        let all: usize = own().map(|sequence| sequence.completion.trained()).sum();
        assert_eq!(row.token_share, all as f64 / sequences.layout.tokens() as f64);
    }
    assert!(record.tokens.samples.iter().all(|sample| sample.reward.is_some()), "samples are completions");
}

/// Completions that were not sampled with drafts have no offsets, which is an error.
#[test]
fn offsets_need_drafts() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = train(weighed(), 1);
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let Err(error) = trainer.evaluate(0, &rollouts, 0) else { panic!("there are no drafts") };
    assert!(error.to_string().contains("the completions were not sampled with drafts"), "{error}");
}
