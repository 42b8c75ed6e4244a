//! Feedback written by another model, and that model's own completions, which are judged.

use mopd_plan::Scorer;
use mopd_plan::views::{Piece, Slot, View};

use super::super::learners::Learners;
use super::debate::{greedy, greedy_tokens, roomy};
use super::said::{agrees, begun, kl, plain, verifier};
use super::*;
use crate::compiled;
use crate::rollout::Sequence;
use crate::train::batches::CorrectOf;
use crate::train::views::WrittenFeedback;

/// KL(student || tutor) where at least half of the `writer`'s own completions are correct, half of KL(student
/// || writer) elsewhere, and 0 where the writer's feedback is empty.
fn advised(tutor: Teacher, writer: Teacher, temperature: f64) -> Train<Objective> {
    let plan = compiled::plan(
        "experiment \"t\" { seed = 1 }\n\
         domain d { prompts = \"d.jsonl\", reward = exact_match }\n\
         model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
         template critique = \"{prompt}|{draft}\"\n\
         template with_advice = \"{prompt}|{feedback}\"\n\
         teacher big = base\n\
         teacher tutored = self.initial {\n\
           sees     = with_advice\n\
           feedback = from(big, temperature: 1, max_tokens: 3, sees: critique)\n\
         }\n\
         objective gated(tutor: teacher, peer: teacher) {\n\
           let trusted = mean(peer.correct, over: group) >= 0.5\n\
           term learn = match {\n\
             trusted and available(tutor) -> live kl(student || tutor)\n\
             available(tutor)             -> 0.5 * live kl(student || peer)\n\
             else                         -> 0\n\
           }\n\
           reduce = mean(token) then mean(sequence)\n\
         }\n\
         model student = distill(base) { objective = gated(tutored, big), rollout = sample(n: 2, temperature: 1, \
         max_tokens: 6), prompts = 6, steps = 4, lr = 1e-3 }\n",
    );
    let Train { objective, mut feedback, scorers, .. } = compiled::train(&plan, "student").clone();
    feedback[0].sampling.temperature = temperature.into();
    let scorer = |known: &Scorer| {
        let teacher = if known.name == "tutored" { tutor.clone() } else { writer.clone() };
        let sees = known.choices[0].sees.clone();
        Scorer { name: known.name.clone(), choices: vec![TeacherChoice { sees, ..choice(teacher) }] }
    };
    let shown = scorers.named().iter().find(|scorer| scorer.name == "tutored").unwrap();
    let pieces = &shown.choices[0].sees.as_ref().unwrap().pieces;
    assert_eq!(pieces[2], Piece::Slot(Slot::WrittenFeedback(0)));
    Train {
        feedback,
        scorers: Scorers::new(Vec::new(), [], scorers.named().iter().map(scorer).collect()),
        rollout: Rollout::new(6, Producer::student(Sampling::new(2, temperature, 6))),
        ..train(objective, 1)
    }
}

fn stage_of<'a>(fixture: &'a Fixture, train: &'a Train<Objective>, models: &[Arc<Weights>]) -> Stage<'a> {
    let mut stage = fixture.stage(train, ROUTED, models);
    let named = train.scorers.named().iter().map(|scorer| Some(scorer.choices[0].clone()));
    let scorers: Vec<_> = std::iter::once(None).chain(named).collect();
    stage.sources.iter_mut().for_each(|source| source.scorers.clone_from(&scorers));
    stage
}

fn judged() -> Fixture {
    Fixture { verifier: verifier(), ..Fixture::new() }
}

/// Whether [`verifier`] rewards a text.
fn right(text: &str) -> bool {
    text.chars().next().is_some_and(|first| !matches!(first, 'n'..='z' | 'N'..='Z'))
}
fn written(sequence: &Sequence) -> Vec<String> {
    let WrittenFeedback(texts) = sequence.extra().unwrap();
    texts
}

fn is_by(writer: &Reference, stage: &Stage, sequence: &Sequence) {
    let prompt = plain(stage, sequence);
    let read = format!("{prompt}|{}", begun(sequence));
    assert_eq!(written(sequence), [greedy(writer, &read, 3)]);
    let own = greedy_tokens(writer, prompt, 6);
    let Some(CorrectOf(roles)) = sequence.extra() else { panic!("one is asked") };
    let [(_, found)] = roles.as_slice() else { panic!("one is asked") };
    assert_eq!(*found, right(&Tokenizer::Bytes.decode(&own).unwrap()), "{prompt}");
}

/// Each completion has its own feedback, written after the prompt and the completion. For each prompt, the
/// writer makes as many completions as the student.
#[test]
fn a_model_writes_about_each_completion() {
    let (fixture, models) = (judged(), roomy());
    let train = advised(ROUTED[0].clone(), ROUTED[1].clone(), 0.0);
    let stage = stage_of(&fixture, &train, &models);
    let (_, _, rollouts) = first_step(&stage);
    let writer = Reference::new(&models[2]);
    assert_eq!(rollouts.sequences.list.len(), 12);
    rollouts.sequences.list.iter().for_each(|sequence| is_by(&writer, &stage, sequence));
}

/// Loss and gradient against float64, for several combinations of feedback and correct completions.
#[test]
fn feedback_gate_loss_and_gradient_equal_the_reference() {
    let (fixture, models) = (judged(), roomy());
    let train = advised(ROUTED[0].clone(), ROUTED[1].clone(), 1.0);
    for micro_batch in [None, Some(5)] {
        let stage = Stage { micro_batch, ..stage_of(&fixture, &train, &models) };
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut rollouts = trainer.rollouts_of(0).unwrap().remove(0);
        for (place, sequence) in rollouts.sequences.list.iter_mut().enumerate() {
            // All, half or none of the writer's completions of a prompt are correct.
            let (group, sample) = (place / 2, place % 2);
            let CorrectOf(mut roles) = sequence.extra().unwrap();
            roles[0].1 = [true, sample == 0, false][group % 3];
            sequence.set_extra(&CorrectOf(roles));
            let text = if place % 5 == 0 { String::new() } else { format!("say {place}") };
            sequence.set_extra(&WrittenFeedback(vec![text]));
        }
        let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
        let loss = f64::from(outputs.get(stage.train.objective.loss)[0]);
        let gradient = to_vec(&gradient.part(0..gradient.parameters()));
        let [student, tutor, writer] = [0, 1, 2].map(|model| Reference::new(&models[model]));
        let losses = rollouts.sequences.list.iter().enumerate().map(|(place, sequence)| {
            let prompt = plain(&stage, sequence);
            let to_writer = || kl([&student, &writer], [prompt, prompt], sequence);
            match (place % 5, place / 2 % 3) {
                (0, _) => to_writer() * 0.0,
                (_, 2) => to_writer() * 0.5,
                _ => kl([&student, &tutor], [prompt, &format!("{prompt}|say {place}")], sequence),
            }
        });
        agrees(loss, &gradient, losses.collect(), &student);
        let mut record = Record::default();
        let now = std::time::Instant::now();
        trainer.update(vec![rollouts], now, 0, &mut record).unwrap();
        let unavailable: f64 = record.rows.iter().filter_map(|row| row.unavailable).sum();
        let share = record.rows.iter().map(|row| row.correct_of_others.unwrap() * row.prompt_share);
        assert_eq!((unavailable, share.sum()), (3.0, 0.5), "the report counts them");
    }
}

/// Later passes train with the same feedback and verdicts, by a tutor and a writer that change.
#[test]
fn a_stage_that_was_cut_read_the_same() {
    let (fixture, models) = (judged(), roomy());
    let mut train = advised(averages(0), averages(2), 1.0);
    train.options.passes = 2;
    train.feedback[0].sampling.max_tokens = 12;
    let stage = Stage { steps: 5, ..stage_of(&fixture, &train, &models) };
    resume::ends_the_same_wherever_it_is_cut("feedback", &stage);
    let rollouts = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0);
    let texts = rollouts.sequences.list.iter().map(|sequence| written(sequence)[0].clone());
    let mut texts: Vec<String> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 12, "each completion has random numbers of its own: {texts:?}");
}

/// Of two models that learn in turns, each gets feedback from the other's current weights.
#[test]
fn joint_models_write_feedback_with_current_weights() {
    let (fixture, models) = (judged(), roomy());
    let peer = |learner: u32| Teacher::Learner { learner, start: ModelId(learner) };
    let settings = [1, 0].map(|other| advised(averages(0), peer(other), 0.0));
    let turn = |name: &'static str, place| LearnerTurn { name: Some(name), place, every: 1 };
    let one = Stage { turn: turn("left", 0), ..stage_of(&fixture, &settings[0], &models) };
    let other = stage_of(&fixture, &settings[1], &models);
    let other = Stage { turn: turn("right", 1), start: models[1].clone(), stream: 3, ..other };
    let stages = [one, other];
    let parts: Vec<Vec<Stage>> = stages.iter().map(|stage| stage.parts(&[])).collect();
    let mut learners = Learners::new(&parts, None, None).unwrap();
    for (step, turn) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let place = learners.of_turn(turn);
        let now = to_vec(learners.0[1 - place].student.model.flat());
        let writer = Reference::new(&Arc::new(models[1 - place].with_values(now)));
        let trainer = &mut learners.0[place];
        let rollouts = trainer.rollouts_of(step).unwrap();
        rollouts[0].sequences.list.iter().for_each(|sequence| is_by(&writer, &stages[place], sequence));
        let started = std::time::Instant::now();
        trainer.update(rollouts, started, step, &mut Record::default()).unwrap();
    }
    assert!(to_vec(learners.0[1].student.model.flat()) != *models[1].values());
}

#[test]
fn feedback_beyond_the_context_is_an_error() {
    let (fixture, models) = (judged(), models(true));
    let mut train = advised(ROUTED[0].clone(), ROUTED[1].clone(), 1.0);
    train.feedback[0].sampling.max_tokens = 30;
    let stage = stage_of(&fixture, &train, &models);
    let error = Trainer::new(&stage).unwrap().rollouts_of(0).err().expect("a context of 32 is too short");
    let told = error.to_string();
    assert!(
        told.contains("the template `critique`") && told.contains("more than the context of 32"),
        "{told}"
    );
}

/// Without terms that read a teacher with feedback, none is written. Without a template, the writer reads the
/// prompt.
#[test]
fn feedback_is_written_only_where_a_term_reads_it() {
    let (fixture, models) = (judged(), roomy());
    let mut train = advised(ROUTED[0].clone(), ROUTED[1].clone(), 0.0);
    train.feedback[0].sees = None;
    let stage = stage_of(&fixture, &train, &models);
    let writer = Reference::new(&models[2]);
    let list = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0).sequences.list;
    for sequence in &list {
        assert_eq!(written(sequence), [greedy(&writer, plain(&stage, sequence), 3)]);
    }
    let train = Train { objective: mopd(1.0), ..train };
    let stage = stage_of(&fixture, &train, &models);
    let list = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0).sequences.list;
    assert!(
        list.iter().all(|one| one.extra::<WrittenFeedback>().is_none() && one.extra::<CorrectOf>().is_none())
    );
}

/// A writer's template may show the verifier's feedback.
#[test]
fn a_writer_reads_the_verifiers_words() {
    let (fixture, models) = (judged(), roomy());
    let mut train = advised(ROUTED[0].clone(), ROUTED[1].clone(), 0.0);
    let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Slot(Slot::Feedback), Piece::Slot(Slot::Draft)];
    train.feedback[0].sees = Some(View { name: "told".to_owned(), pieces });
    let stage = stage_of(&fixture, &train, &models);
    let writer = Reference::new(&models[2]);
    for sequence in &Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0).sequences.list {
        let said = if sequence.reward == Some(1.0) { "correct" } else { "wrong" };
        let read = format!("{}{said}{}", plain(&stage, sequence), begun(sequence));
        assert_eq!(written(sequence), [greedy(&writer, &read, 3)]);
    }
}
