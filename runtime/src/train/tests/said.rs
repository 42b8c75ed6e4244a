//! Templates that show information about a completion: the verifier's feedback, and others of its group.

use mopd_plan::views::{GroupMember, Piece, Slot, View};
use mopd_plan::{Axis, Divergence, DivergenceKind, Live, Scorer};

use super::super::objective::objectives::objective;
use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;
use crate::train::views::VerifierFeedback;

fn view(name: &str, slot: Slot) -> Option<View> {
    let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Text("|".to_owned()), Piece::Slot(slot)];
    Some(View { name: name.to_owned(), pieces })
}

/// A verifier that rewards completions that do not begin with a letter from N to Z.
pub(super) fn verifier() -> Verifier {
    let reward = Reward::Regex { pattern: "^[^n-zN-Z]".to_owned(), field: String::new() };
    Verifier::new(&reward, Path::new(".")).unwrap()
}

fn text(sequence: &Sequence) -> String {
    Tokenizer::Bytes.decode(&sequence.completion).unwrap()
}

/// A completion as templates show it: cut to the most tokens that a completion may have.
pub(super) fn begun(sequence: &Sequence) -> String {
    let mut bytes = 0;
    let fits = |letter: &char| {
        bytes += letter.len_utf8();
        bytes <= 6
    };
    text(sequence).chars().take_while(fits).collect()
}
/// The verifier's feedback.
fn feedback(sequence: &Sequence) -> String {
    let VerifierFeedback(text) = sequence.extra().unwrap();
    text
}

pub(super) fn plain<'a>(stage: &'a Stage, sequence: &Sequence) -> &'a str {
    stage.sources[sequence.source].prompts.dataset.prompt(sequence.record)
}

/// KL(student || teacher) of one sequence in float64, each model after its own text.
pub(super) fn kl(models: [&Reference; 2], texts: [&str; 2], sequence: &Sequence) -> Tensor {
    let [student, teacher] = zip_equal(models, texts)
        .map(|(model, text)| model.logps(&Tokenizer::Bytes.prompt(text).unwrap(), &sequence.completion))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let each = student.exp() * (&student - teacher.detach());
    each.sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
}

pub(super) fn agrees(loss: f64, gradient: &[f32], losses: Vec<Tensor>, student: &Reference) {
    let expected = Tensor::stack(&losses, 0).mean(Kind::Double);
    assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
    let apart = apart(gradient, &student.gradient(&expected));
    assert!(apart < 1e-4, "{apart:e}");
}

/// The routed teacher reads the verifier's feedback about the completion that it scores.
#[test]
fn a_teacher_reads_what_the_verifier_said() {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    let shown = view("shown", Slot::Feedback);
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(6, Producer::student(sampling(2)));
    let seeing = TeacherChoice { sees: shown, ..choice(Teacher::Model(ModelId(1))) };
    train.scorers = Scorers::new(vec![seeing.clone()], [], Vec::new());
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    for source in stage.sources.iter_mut() {
        source.route = SourceTeachers::all(&seeing);
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
    let mut words = Vec::new();
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let word = if sequence.reward == Some(1.0) { "correct" } else { "wrong" };
        words.push(word);
        assert_eq!(feedback(sequence), word, "{}", text(sequence));
        let prompt = plain(&stage, sequence);
        kl([&student, &teacher], [prompt, &format!("{prompt}|{word}")], sequence)
    });
    let losses = losses.collect();
    assert!(words.contains(&"correct") && words.contains(&"wrong"), "{words:?}");
    agrees(loss, &gradient, losses, &student);
}

/// A student trained on a teacher's completions reads a template with the feedback about each of them.
#[test]
fn a_student_may_read_what_the_verifier_said() {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(6, Producer::teacher(sampling(2)));
    train.sees = view("shown", Slot::Feedback);
    let mut stage = fixture.stage(&train, [1, 1].map(|model| Teacher::Model(ModelId(model))), &weights);
    for source in stage.sources.iter_mut() {
        source.tokens = source.prompts.seen(&weights[0].tokenizer, train.sees.as_ref()).unwrap();
        let sees = Some(View::of_prompt());
        source.route = SourceTeachers::all(&TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) });
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
    let losses = rollouts.sequences.list.iter().map(|sequence| {
        let (prompt, word) = (plain(&stage, sequence), feedback(sequence));
        kl([&student, &teacher], [&format!("{prompt}|{word}"), prompt], sequence)
    });
    agrees(loss, &gradient, losses.collect(), &student);
}

/// `where(available(reminded), kl(student || reminded), 0)`
fn guarded() -> Objective {
    let reminded = Role::named(0);
    let kind = DivergenceKind::Kl;
    let divergence = Divergence::between(kind, Role::Student, reminded, Support::Full, Mass::Raw);
    objective("guarded", Live::Divergence(divergence), move |graph, divergence| {
        let available = graph.signal(Signal::Available { role: reminded });
        let available = graph.broadcast(available, Axis::Token);
        let none = graph.constant(Axis::Token, 0.0);
        (graph.apply(mopd_plan::Function::Where, &[available, divergence, none]), None)
    })
}

/// The teacher reads another, correct completion of the group. If the group has none, the teacher's score is
/// not used and there is no gradient.
#[test]
fn a_group_without_a_right_completion_has_no_gradient() {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    for micro_batch in [None, Some(3)] {
        let mut train = train(guarded(), 1);
        train.rollout = Rollout::new(8, Producer::student(sampling(2)));
        let sees = view("reminded", Slot::Group(GroupMember::Correct));
        let seeing = TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) };
        let scorer = Scorer { name: "reminded".to_owned(), choices: vec![seeing.clone()] };
        train.scorers = Scorers::new(Vec::new(), [], vec![scorer]);
        let mut stage = fixture.stage(&train, ROUTED, &weights);
        stage.micro_batch = micro_batch;
        for source in stage.sources.iter_mut() {
            source.scorers = vec![None, Some(seeing.clone())];
        }
        let (loss, gradient, rollouts) = first_step(&stage);
        let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
        let list = &rollouts.sequences.list;
        let mut missing = 0;
        let losses = list.iter().enumerate().map(|(place, sequence)| {
            // The other completion of a group of two.
            let other = &list[place ^ 1];
            let prompt = plain(&stage, sequence);
            if other.reward != Some(1.0) {
                missing += 1;
                return kl([&student, &teacher], [prompt, prompt], sequence) * 0.0;
            }
            kl([&student, &teacher], [prompt, &format!("{prompt}|{}", begun(other))], sequence)
        });
        let losses: Vec<Tensor> = losses.collect();
        assert!(missing > 0 && missing < list.len(), "{missing} of {}", list.len());
        agrees(loss, &gradient, losses, &student);
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut record = Record::default();
        trainer.step(0, &mut record).unwrap();
        let counted: f64 = record.rows.iter().filter_map(|row| row.unavailable).sum();
        assert_eq!(counted, missing as f64, "the report counts them");
    }
}

/// The sides of a `mix` may have different lengths: either is shown whole, whichever stands first.
#[test]
fn another_completion_is_shown_whole_whichever_side_of_a_mix_wrote_it() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let side = |most| Producer::student(Sampling::new(2, 1.0, most));
    let never = mopd_plan::Schedule::Constant { value: 0.0 };
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(6, Producer::mix(never, side(2), side(6)));
    let sees = view("shown", Slot::Group(GroupMember::Other));
    let seeing = TeacherChoice { sees, ..choice(Teacher::Model(ModelId(1))) };
    train.scorers = Scorers::new(vec![seeing.clone()], [], Vec::new());
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    for source in stage.sources.iter_mut() {
        source.route = SourceTeachers::all(&seeing);
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
    let list = &rollouts.sequences.list;
    assert!(list.iter().any(|sequence| begun(sequence).len() > 2));
    let losses = list.iter().enumerate().map(|(place, sequence)| {
        let prompt = plain(&stage, sequence);
        kl([&student, &teacher], [prompt, &format!("{prompt}|{}", begun(&list[place ^ 1]))], sequence)
    });
    agrees(loss, &gradient, losses.collect(), &student);
}

/// Later passes show the same texts.
#[test]
fn a_stage_that_was_cut_shows_the_same() {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    for slot in [Slot::Feedback, Slot::Group(GroupMember::Other)] {
        let name = format!("{slot:?}");
        let seeing = TeacherChoice { sees: view("shown", slot), ..choice(Teacher::Model(ModelId(1))) };
        let mut train = train(direct(Support::Full, Mass::Raw), 2);
        train.rollout = Rollout::new(6, Producer::student(sampling(2)));
        train.scorers = Scorers::new(vec![seeing.clone()], [], Vec::new());
        let mut stage = fixture.stage(&train, ROUTED, &weights);
        stage.steps = 5;
        for source in stage.sources.iter_mut() {
            source.route = SourceTeachers::all(&seeing);
        }
        resume::ends_the_same_wherever_it_is_cut(&name, &stage);
    }
}

/// A reward command may give no feedback, but a template that shows it is then an error.
#[test]
fn missing_feedback_is_an_error_where_a_template_shows_it() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let program = "import json, sys
for line in sys.stdin:
    print(json.dumps({'id': json.loads(line)['id'], 'reward': 0.5}), flush=True)
";
    std::fs::write(fixture.folder.path().join("judge.py"), program).unwrap();
    let (command, depends) = ("python3 judge.py".to_owned(), Vec::new());
    let reward =
        Reward::Command { command, time_limit_seconds: 60.0, batch: 64, depends, range: Default::default() };
    let silent = Verifier::new(&reward, fixture.folder.path()).unwrap();
    let seeing = TeacherChoice { sees: view("shown", Slot::Feedback), ..choice(Teacher::Model(ModelId(1))) };
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(6, Producer::student(sampling(2)));
    train.scorers = Scorers::new(vec![seeing.clone()], [], Vec::new());
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    for source in stage.sources.iter_mut() {
        source.verifier = &silent;
        source.route = SourceTeachers::all(&seeing);
    }
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let error = trainer.evaluate(0, &rollouts, 0).err().expect("it says nothing");
    assert!(
        error.to_string().contains("returned no feedback on a completion, but the template `shown`"),
        "{error}"
    );
}
