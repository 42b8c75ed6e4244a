//! `refine`: a teacher reads the student's draft and writes the completion that is trained on; a scorer reads
//! the draft too.

use mopd_plan::View;
use mopd_plan::producers::Refine;
use mopd_plan::views::{Piece, Slot};

use super::producers::{forked, sampling};
use super::*;
use crate::train::views::DraftText;

pub(super) fn draft_shown() -> View {
    let text = |text: &str| Piece::Text(text.to_owned());
    let pieces = vec![Piece::Slot(Slot::Prompt), text(" "), Piece::Slot(Slot::Draft), text(">")];
    View { name: "draft_shown".to_owned(), pieces }
}

/// Refined by the teacher by name, which is model 2.
pub(super) fn refined(n: u32) -> Producer {
    let (by, of) = (Role::named(0), Producer::student(sampling(n)));
    Producer::Refine(Box::new(Refine { by, sees: Some(draft_shown()), of }))
}

/// The prompt of a teacher that sees the draft.
fn shown(stage: &Stage, sequence: &crate::rollout::Sequence) -> Vec<Token> {
    let prompt = stage.sources[sequence.source].prompts.dataset.prompt(sequence.record);
    let DraftText(draft) = sequence.extra().expect("there was one");
    stage.start.tokenizer.prompt(&format!("{prompt} {draft}>")).unwrap()
}

#[test]
fn a_teacher_writes_behind_the_draft() {
    let of_run = forked(refined(2), ROUTED, 3, 3);
    let drafts = forked(Producer::student(sampling(2)), ROUTED, 3, 3);
    let (fixture, weights, train) = (Fixture::new(), models(true), train(mopd(1.0), 1));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let editor = Reference::new(&weights[2]);
    let mut other = 0;
    let lists = zip_equal(&of_run, &drafts);
    for (sequence, draft) in lists.flat_map(|(list, drafts)| zip_equal(list, drafts)) {
        assert_eq!((sequence.source, sequence.record), (draft.source, draft.record));
        // The student drafts the completion that it would have sampled.
        let text = stage.start.tokenizer.decode(&draft.completion).unwrap();
        let DraftText(shown) = sequence.extra().unwrap();
        let tokens = |text: &str| stage.start.tokenizer.encode(text).unwrap().len();
        assert!(text.starts_with(&shown) && tokens(&shown) <= 6 && (tokens(&text) > 6 || shown == text));
        other += usize::from(sequence.completion != draft.completion);
        assert!(sequence.prompt.is_none() && sequence.completion.len() <= 6);
        let logps = editor.logps(&self::shown(&stage, sequence), &sequence.completion);
        for (place, token) in sequence.completion.iter().enumerate() {
            let expected = logps.double_value(&[place as i64, *token]);
            let recorded = f64::from(sequence.completion.logps().unwrap()[place]);
            assert!((recorded - expected).abs() < 1e-4, "{recorded} {expected}");
        }
    }
    assert!(other > 50, "its random numbers are not the draft's: {other}");
}

/// KL(student || teacher) in float64: the teacher reads the draft, the student only the prompt.
#[test]
fn the_teacher_scores_behind_the_draft() {
    let (fixture, weights) = (Fixture::new(), models(true));
    for micro_batch in [None, Some(2)] {
        let mut train = train(direct(Support::Full, Mass::Raw), 1);
        train.rollout = Rollout::new(4, refined(2));
        let mut stage = fixture.stage(&train, ROUTED, &weights);
        stage.micro_batch = micro_batch;
        for source in stage.sources.iter_mut() {
            let sees = Some(draft_shown());
            source.route = SourceTeachers::all(&TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) });
        }
        let (loss, gradient, rollouts) = first_step(&stage);
        let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
        let losses = rollouts.sequences.list.iter().map(|sequence| {
            let teacher = teacher.logps(&shown(&stage, sequence), &sequence.completion).detach();
            let student = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
            let each = student.exp() * (&student - teacher);
            each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
        });
        let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
        assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
        let apart = apart(&gradient, &student.gradient(&expected));
        assert!(apart < 1e-4, "{apart:e}");
    }
}

/// A template that leaves no room is an error.
#[test]
fn a_draft_without_room_behind_it_is_an_error() {
    let long = View { pieces: vec![Piece::Text("x".repeat(40)), Piece::Slot(Slot::Draft)], ..draft_shown() };
    let (by, of) = (Role::named(0), Producer::student(sampling(1)));
    let producer = Producer::Refine(Box::new(Refine { by, sees: Some(long), of }));
    let (fixture, weights) = (Fixture::new(), models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(4, producer);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let error = Trainer::new(&stage).unwrap().rollouts_of(0).err().expect("the context is 32");
    assert!(error.to_string().contains("which leaves no room in the context of 32"), "{error}");
}
