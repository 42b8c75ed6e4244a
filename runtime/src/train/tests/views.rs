//! Scorers with a template: their scores of the student's tokens after another prompt, against double
//! precision.

use mopd_plan::views::{Piece, Slot, View};
use mopd_plan::{
    Distribution, Divergence, DivergenceKind, DivergenceParameter, Live, ScheduleLength, Scorer,
};

use super::super::models::ModelRef;
use super::super::objective::objectives::objective;
use super::*;

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn answer() -> Slot {
    Slot::Data("answer".to_owned())
}

fn view(name: &str, pieces: Vec<Piece>) -> Option<View> {
    Some(View { name: name.to_owned(), pieces })
}

/// The student itself, with the answer in its prompt, and a teacher that sees less of the answer over time.
#[test]
fn scorers_read_their_templates_before_the_students_tokens() {
    for micro_batch in [None, Some(3)] {
        scored(micro_batch);
    }
}

fn scored(micro_batch: Option<u32>) {
    let (fixture, weights) = (Fixture::new(), models(true));
    let shares = [0.4, 0.6];
    let parts = [0, 1].map(|place| (DivergenceParameter::Number(shares[place]), Role::named(place)));
    let divergence = Divergence {
        right: Distribution::Blend(parts.into()),
        ..Divergence::between(DivergenceKind::Kl, Role::Student, Role::TEACHER, Support::Full, Mass::Raw)
    };
    let two = objective("two", Live::Divergence(divergence), |_, divergence| (divergence, None));
    let scorer = |name: &str| Scorer { name: name.to_owned(), choices: Vec::new() };
    let scorers = Scorers::new(Vec::new(), [], vec![scorer("insider"), scorer("guide")]);
    let train = Train { scorers, ..train(two, 1) };
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    stage.micro_batch = micro_batch;
    let fading = Schedule::Linear { from: 0.5, to: 0.0, over: ScheduleLength::Run };
    let solved = view("solved", vec![Piece::Slot(Slot::Prompt), text(" = "), Piece::Slot(answer())]);
    let begun = view("begun", vec![Piece::First { slot: answer(), share: fading.into() }, text("?")]);
    for source in stage.sources.iter_mut() {
        source.scorers = vec![
            None,
            Some(TeacherChoice { sees: solved.clone(), ..choice(Teacher::Student(StudentCopy::Current)) }),
            Some(TeacherChoice { sees: begun.clone(), ..choice(Teacher::Model(ModelId(1))) }),
        ];
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, guide] = [0, 1].map(|model| Reference::new(&weights[model]));
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let dataset = &stage.sources[sequence.source].prompts.dataset;
        let (prompt, answer) =
            (dataset.prompt(sequence.record), dataset.text(sequence.record, "answer").unwrap());
        let tokens = |text: &str| weights[0].tokenizer.prompt(text).unwrap();
        let insider = student.logps(&tokens(&format!("{prompt} = {answer}")), &sequence.completion);
        let half = &answer[..answer.len() / 2];
        let guide = guide.logps(&tokens(&format!("{half}?")), &sequence.completion);
        let blend = insider.detach().exp() * shares[0] + guide.detach().exp() * shares[1];
        let logps = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
        let each = logps.exp() * (&logps - blend.log());
        each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
    });
    let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
    assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
    let apart = apart(&gradient, &student.gradient(&expected));
    assert!(apart < 1e-4, "{apart:e}");
    let models = Models::new(&stage).unwrap();
    // The model is the student itself, not a copy.
    assert_eq!(models.model(Role::named(0), 0), Some(ModelRef::Student));
    assert!(models.moves(Role::named(1)), "what it sees changes with the step");
}

/// One domain's routed teacher sees a template, the other's does not.
#[test]
fn template_is_seen_only_by_the_routed_teacher() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let train = train(mopd(1.0), 1);
    let scores = |sees: [Option<View>; 2]| {
        let mut stage = fixture.stage(&train, [1, 1].map(|model| Teacher::Model(ModelId(model))), &weights);
        for (source, sees) in zip_equal(stage.sources.iter_mut(), sees) {
            let own = TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) };
            source.route = SourceTeachers::all(&own);
        }
        let (_, _, rollouts) = first_step(&stage);
        let trainer = Trainer::new(&stage).unwrap();
        let (batch, _) = scoring::score(&trainer.scoring(0), &rollouts, 0).map_err(|_| ()).unwrap();
        let domains: Vec<usize> = batch
            .layout
            .sequence_of_token
            .iter()
            .map(|of| rollouts.sequences.list[*of as usize].source)
            .collect();
        zip_equal(domains, batch.signal(&scoring::TEACHER_LOGP).unwrap().to_vec()).collect::<Vec<_>>()
    };
    let shown = view("shown", vec![text("Answer: "), Piece::Slot(Slot::Prompt)]);
    let (plain, seen) = (scores([None, None]), scores([None, shown]));
    for ((domain, plain), (_, seen)) in zip_equal(plain, seen) {
        if domain == 0 {
            assert!((plain - seen).abs() < 1e-5, "{plain} {seen}");
        } else {
            assert!((plain - seen).abs() > 1e-4, "{plain} {seen}");
        }
    }
}
