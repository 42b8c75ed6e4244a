//! Teachers that write after a template, for a student that reads another prompt.

use mopd_plan::producers::{self, PrecomputedRollouts};
use mopd_plan::views::{Piece, Slot, View};
use mopd_plan::{Schedule, ScheduleLength};

use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;

fn view(pieces: Vec<Piece>) -> View {
    View { name: "shown".to_owned(), pieces }
}

/// A view of the prompt and the answer.
fn solved() -> View {
    let (answer, equals) = (Piece::Slot(Slot::Data("answer".to_owned())), Piece::Text("=".to_owned()));
    view(vec![Piece::Slot(Slot::Prompt), equals, answer])
}

/// A producer whose writer is the teacher by name, which is model 2.
fn written(sees: Option<View>, once: Option<PrecomputedRollouts>) -> Producer {
    producers::Teacher { writer: Role::named(0), sees, once, sampling: sampling(2) }.into()
}

/// The prompt and the answer of a sequence's row.
fn row<'a>(stage: &'a Stage, sequence: &Sequence) -> (&'a str, &'a str) {
    let dataset = &stage.sources[sequence.source].prompts.dataset;
    (dataset.prompt(sequence.record), dataset.text(sequence.record, "answer").unwrap())
}

/// Checks that the tokens were drawn from a model's distribution after a text.
fn drawn_behind(stage: &Stage, model: &Reference, text: &str, sequence: &Sequence) {
    let logps = model.logps(&stage.start.tokenizer.prompt(text).unwrap(), &sequence.completion);
    for (place, token) in sequence.completion.iter().enumerate() {
        let expected = logps.double_value(&[place as i64, *token]);
        let recorded = f64::from(sequence.completion.logps().unwrap()[place]);
        assert!((recorded - expected).abs() < 1e-4, "{recorded} {expected}");
    }
}

#[test]
fn teacher_rollouts_follow_its_template() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let teacher = Reference::new(&weights[2]);
    for once in [None, Some(PrecomputedRollouts { sequences: 9, keep: Keep::All })] {
        let mut train = train(mopd(1.0), 1);
        train.rollout = Rollout::new(4, written(Some(solved()), once));
        let stage = fixture.stage(&train, ROUTED, &weights);
        let rollouts = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0);
        for sequence in &rollouts.sequences.list {
            let (prompt, answer) = row(&stage, sequence);
            drawn_behind(&stage, &teacher, &format!("{prompt}={answer}"), sequence);
            assert!(sequence.prompt.is_none(), "the student reads its own prompt");
        }
    }
}

/// The template shows less of the answer at each step.
#[test]
fn template_of_a_writer_may_change_per_step() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let share = Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run };
    let fading = Piece::First { slot: Slot::Data("answer".to_owned()), share: share.into() };
    let sees = view(vec![Piece::Slot(Slot::Prompt), fading]);
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(4, written(Some(sees), None));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let teacher = Reference::new(&weights[2]);
    let mut trainer = Trainer::new(&stage).unwrap();
    for (step, shown) in [(0, 4), (2, 2)] {
        let rollouts = trainer.rollouts_of(step).unwrap().remove(0);
        for sequence in &rollouts.sequences.list {
            let (prompt, answer) = row(&stage, sequence);
            let part = &answer[..answer.len() * shown / 4];
            drawn_behind(&stage, &teacher, &format!("{prompt}{part}"), sequence);
        }
    }
}

/// KL(student || teacher): the student after its template, and the teacher, which wrote, after the plain
/// prompt.
#[test]
fn a_student_that_sees_a_template_learns_from_one_that_sees_none() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(4, Producer::teacher(sampling(2)));
    train.sees = Some(solved());
    let mut stage = fixture.stage(&train, [1, 1].map(|model| Teacher::Model(ModelId(model))), &weights);
    for source in stage.sources.iter_mut() {
        source.tokens = source.prompts.seen(&weights[0].tokenizer, train.sees.as_ref()).unwrap();
        let sees = Some(View::of_prompt());
        source.route = SourceTeachers::all(&TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) });
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let (prompt, answer) = row(&stage, sequence);
        drawn_behind(&stage, &teacher, prompt, sequence);
        let tokens = |text: &str| weights[0].tokenizer.prompt(text).unwrap();
        let teacher = teacher.logps(&tokens(prompt), &sequence.completion).detach();
        let student = student.logps(&tokens(&format!("{prompt}={answer}")), &sequence.completion);
        let each = student.exp() * (&student - teacher);
        each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
    });
    let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
    assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
    let apart = apart(&gradient, &student.gradient(&expected));
    assert!(apart < 1e-4, "{apart:e}");
}
