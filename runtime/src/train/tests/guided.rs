//! `token_mix`, `interleave`: the student's rollouts under a teacher's influence on each token, and the
//! log-probabilities that are recorded.

use mopd_plan::producers::{Guidance, Guided};
use mopd_plan::{AdaptiveSchedule, ScheduleLength};

use super::producers::{forked, lists, same, sampling};
use super::*;
use crate::rollout::Sequence;

const STEPS: u32 = 5;

pub(super) fn guided(guidance: Guidance, n: u32) -> Producer {
    Producer::Guided(Box::new(Guided { guidance, of: Producer::student(sampling(n)) }))
}

pub(super) fn token_mix(alpha: Schedule, n: u32) -> Producer {
    guided(Guidance::TokenMix { alpha: AdaptiveSchedule::Schedule(alpha) }, n)
}

fn constant(value: f64) -> Schedule {
    Schedule::Constant { value }
}

#[test]
fn teacher_of_share_zero_leaves_student_rollouts_unchanged() {
    let student = lists(Producer::student(sampling(2)), STEPS);
    let all = models(true)[0].tokenizer.vocabulary() as u32;
    for without in [token_mix(constant(0.0), 2), guided(Guidance::Interleave { top_k: all }, 2)] {
        let lists = lists(without, STEPS);
        assert!(zip_equal(&lists, &student).all(|(one, other)| same(one, other)));
        // A teacher's prompts are completed together, which may change last bits.
        let logps = |lists: &[Vec<Sequence>]| -> Vec<f32> {
            lists.iter().flatten().flat_map(|sequence| sequence.completion.logps().unwrap()).collect()
        };
        assert!(zip_equal(logps(&lists), logps(&student)).all(|(one, other)| (one - other).abs() < 1e-5));
    }
    // With share 1, all tokens are the teacher's, to the bit: both complete a teacher's prompts together.
    assert!(lists(token_mix(constant(1.0), 2), STEPS) == lists(Producer::teacher(sampling(2)), STEPS));
    assert!(lists(token_mix(constant(0.3), 2), STEPS) != student);
}

/// The student's and its teacher's log-probabilities of a sequence's tokens, `[tokens, vocabulary]`, in
/// double precision.
fn both(sequence: &Sequence, teachers: [usize; 2]) -> [Tensor; 2] {
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    [0, teachers[sequence.source]].map(|model| {
        Reference::new(&weights[model]).logps(sequence.prompt(&stage.sources), &sequence.completion).detach()
    })
}

/// Checks the recorded log-probabilities; `probabilities` combines both distributions.
fn recorded(
    lists: &[Vec<Sequence>],
    teachers: [usize; 2],
    probabilities: impl Fn(usize, &Tensor, &Tensor) -> Tensor,
) {
    for (step, sequence) in lists.iter().enumerate().flat_map(|(step, list)| {
        // Enough sequences for both domains and the whole run.
        list.iter().step_by(7).map(move |sequence| (step, sequence))
    }) {
        let [student, teacher] = both(sequence, teachers);
        let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
        let of_taken = probabilities(step, &student.exp(), &teacher.exp()).log().gather(1, &taken, false);
        let expected = Vec::<f64>::try_from(&of_taken.squeeze_dim(1)).unwrap();
        for (recorded, expected) in zip_equal(sequence.completion.logps().unwrap(), expected) {
            assert!((f64::from(recorded) - expected).abs() < 1e-4, "{recorded}, not {expected}");
        }
    }
}

#[test]
fn token_mix_records_the_mixture_of_the_step() {
    let rising = Schedule::Linear { from: 0.1, to: 0.9, over: ScheduleLength::Run };
    let rising_at = |step: usize| 0.1 + 0.8 * step as f64 / f64::from(STEPS);
    recorded(&lists(token_mix(rising, 2), STEPS), [1, 2], |step, student, teacher| {
        rising_at(step) * teacher + (1.0 - rising_at(step)) * student
    });
    // The student is its own teacher.
    let own = forked(
        token_mix(constant(0.4), 2),
        [(); 2].map(|()| Teacher::Student(StudentCopy::Current)),
        STEPS,
        STEPS,
    );
    recorded(&own, [0, 0], |_, student, _| student.copy());
}

/// A token is a proposal in the teacher's `top_k`, or is drawn by the teacher in place of a rejected one.
#[test]
fn interleave_records_the_probability_of_replaced_tokens() {
    let mut outside = 0;
    for top_k in [1, 9] {
        let lists = lists(guided(Guidance::Interleave { top_k }, 2), STEPS);
        recorded(&lists, [1, 2], |_, student, teacher| {
            let (_, best) = teacher.topk(i64::from(top_k), -1, true, false);
            let among = Tensor::zeros_like(student).scatter_value(1, &best, 1.0);
            let proposed = student * &among;
            let replaced: Tensor = 1.0 - proposed.sum_dim_intlist([-1].as_slice(), true, Kind::Double);
            proposed + replaced * teacher
        });
        for sequence in lists.iter().flatten().step_by(5) {
            let [_, teacher] = both(sequence, [1, 2]);
            let (_, best) = teacher.topk(i64::from(top_k), -1, true, false);
            let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
            outside +=
                best.eq_tensor(&taken).any_dim(1, false).logical_not().sum(Kind::Int64).int64_value(&[]);
        }
    }
    assert!(outside > 0, "the teacher draws from all of its distribution");
}
