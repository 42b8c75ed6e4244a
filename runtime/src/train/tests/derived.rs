//! `derived`: prompts that show attempts and a teacher's texts, against the models alone.

use mopd_plan::producers::{Derived, DerivedText};
use mopd_plan::views::{GroupMember, Piece, Slot, View};

use super::debate::roomy;
use super::producers::{GROUPS, sampling};
use super::said::begun;
use super::*;
use crate::random::{Key, Purpose};
use crate::rollout::{Completion, Prompt, Sequence, rollout};
use crate::train::batches::{DerivedPrompt, Replayed};

const SHORT: u32 = 3;

fn asked(slot: Slot) -> View {
    let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Text("?".to_owned()), Piece::Slot(slot)];
    View { name: "short".to_owned(), pieces }
}

/// `{prompt}|{shuffled(short(big.correct, by: big), short(group.wrong, by: big))}>`, where `big` is model 2.
fn two_candidates(of: Producer) -> Derived {
    let writer = Role::named(0);
    let text = |text: &str| Piece::Text(text.to_owned());
    let short = |slot| DerivedText::Short { writer, sees: asked(slot), max_tokens: SHORT };
    let pieces = vec![Piece::Slot(Slot::Prompt), text("|"), Piece::Slot(Slot::Made(3)), text(">")];
    Derived {
        sees: View { name: "two_candidates".to_owned(), pieces },
        texts: vec![
            DerivedText::Answer { writer, member: GroupMember::Correct },
            short(Slot::Made(0)),
            short(Slot::Group(GroupMember::Wrong)),
            DerivedText::Shuffled { slots: vec![Slot::Made(1), Slot::Made(2)] },
        ],
        of,
    }
}

pub(super) fn derived(of: Producer) -> Producer {
    Producer::Derived(Box::new(two_candidates(of)))
}

/// A reward for which about a third of the untrained models' completions are correct.
fn judged() -> Fixture {
    let reward = Reward::Regex { pattern: "^[ -~]".to_owned(), field: String::new() };
    Fixture { verifier: Verifier::new(&reward, Path::new(".")).unwrap(), ..Fixture::new() }
}

fn right(text: &str) -> bool {
    text.chars().next().is_some_and(|first| matches!(first, ' '..='~'))
}

fn is_derived(sequence: &Sequence) -> bool {
    sequence.extra::<DerivedPrompt>().is_some()
}

fn is_replayed(sequence: &Sequence) -> bool {
    sequence.extra::<Replayed>().is_some()
}

/// The batches of a stage whose student stays unchanged.
fn lists(producer: Producer, steps: u32) -> Vec<Vec<Sequence>> {
    let (fixture, weights) = (judged(), roomy());
    let train = Train { rollout: Rollout::new(GROUPS, producer), ..train(mopd(1.0), 1) };
    let stage = Stage { steps, ..fixture.stage(&train, ROUTED, &weights) };
    let models = Models::new(&stage).unwrap();
    let mut batches = Batches::new(&stage, &models, None).unwrap();
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let mut list = |step| {
        let list = batches.next(&stage, &student, &models, step).unwrap().list;
        batches.commit();
        list
    };
    (0..steps).map(&mut list).collect()
}

/// A model that writes with given random numbers, independent of everything else that is drawn.
struct Alone<'s> {
    stage: &'s Stage<'s>,
    decoder: Decoder,
}

impl Alone<'_> {
    fn writes(&self, text: &str, (number, sample): (u32, u32), of: Sampling, key: Key) -> Vec<Completion> {
        let tokens = Tokenizer::Bytes.prompt(text).unwrap();
        let prompt = Prompt { tokens: &tokens, id: number, sample, limit: None };
        rollout(&self.decoder, &[prompt], &of, key, self.stage.budget, self.stage.control).unwrap()
    }
}

fn decoded(completion: &Completion) -> String {
    Tokenizer::Bytes.decode(&completion.tokens).unwrap()
}

/// A completion as a template shows it: cut to the most tokens that it may have.
fn shown(completion: &Completion) -> String {
    begun(&Sequence::new(0, 0, completion.tokens.clone().into()))
}

/// The attempts are the student's samples. A group with a wrong attempt for which the teacher has a correct
/// answer completes the new prompt; every other group is its attempts.
#[test]
fn a_new_prompt_shows_what_was_tried_and_answered() {
    const STEPS: u32 = 6;
    let (fixture, weights) = (judged(), roomy());
    let train = train(mopd(1.0), 1);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let alone = |model: usize| Alone {
        stage: &stage,
        decoder: Decoder::frozen(&weights[model], Place::cpu(), Kind::Float),
    };
    let (student, big) = (alone(0), alone(2));
    let reference = Reference::new(&weights[0]);
    let (mut new, mut all_right, mut unanswered, mut silent, mut orders) = (0, 0, 0, 0, [0, 0]);
    let attempted = lists(Producer::student(sampling(2)), STEPS);
    let of_run = lists(derived(Producer::student(sampling(2))), STEPS);
    for (step, (list, attempts)) in (0..).zip(zip_equal(&of_run, &attempted)) {
        let key = |purpose, turn: u64| Key::new(1, 2, purpose, step | turn << 32);
        for (number, (group, attempts)) in (0..).zip(zip_equal(list.chunks(2), attempts.chunks(2))) {
            let Sequence { source, record, .. } = attempts[0];
            let prompt = fixture.prompts[source].dataset.prompt(record);
            let kept = |why: &mut usize| {
                assert!(group == attempts, "{prompt}");
                *why += 1;
            };
            let text = |sequence: &Sequence| Tokenizer::Bytes.decode(&sequence.completion).unwrap();
            let Some(wrong) = attempts.iter().find(|attempt| !right(&text(attempt))) else {
                kept(&mut all_right);
                continue;
            };
            let answers = big.writes(prompt, (number, 0), sampling(2), key(Purpose::Derived, 4));
            let Some(answer) = answers.iter().find(|answer| right(&decoded(answer))) else {
                kept(&mut unanswered);
                continue;
            };
            let short = |of: String, place: u32| {
                let of = format!("{prompt}?{of}");
                let most = Sampling::new(1, 1.0, SHORT);
                let written = big.writes(&of, (number, place), most, key(Purpose::Derived, 1)).remove(0);
                let tokens = &written.tokens;
                let text =
                    super::super::completions::text_of_at_most(&Tokenizer::Bytes, tokens, SHORT as usize);
                text.unwrap().trim().to_owned()
            };
            let shorts = [short(shown(answer), 1), short(begun(wrong), 2)];
            if shorts.contains(&String::new()) {
                kept(&mut silent);
                continue;
            }
            let swapped = key(Purpose::Derived, 0).row(number, 3).uniform() < 0.5;
            orders[usize::from(swapped)] += 1;
            let [first, second] = if swapped { [&shorts[1], &shorts[0]] } else { [&shorts[0], &shorts[1]] };
            let text = format!("{prompt}|{first}\n\n{second}>");
            let completed = student.writes(&text, (number, 0), sampling(2), key(Purpose::Rollout, 1));
            let read = Tokenizer::Bytes.prompt(&text).unwrap();
            for (sequence, completion) in zip_equal(group, &completed) {
                assert_eq!((sequence.source, sequence.record), (source, record));
                assert_eq!(
                    (sequence.prompt.as_ref(), &sequence.completion.to_vec()),
                    (Some(&read), &completion.tokens)
                );
                assert_eq!(sequence.reward, Some(f64::from(u8::from(right(&decoded(completion))))));
                assert!(is_derived(sequence));
                let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                let logps = reference.logps(&read, &sequence.completion).gather(1, &taken, false);
                let logps = Vec::<f64>::try_from(&logps.squeeze_dim(1)).unwrap();
                for (recorded, expected) in zip_equal(sequence.completion.logps().unwrap(), logps) {
                    assert!((f64::from(recorded) - expected).abs() < 1e-4, "{recorded} {expected}");
                }
            }
            new += 1;
        }
    }
    let seen = [new, all_right, unanswered, orders[0], orders[1]];
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}, {silent}");
}

/// Scorers read the prompt that the student read: loss and gradient against float64. The recorded
/// log-probabilities equal those of scoring.
#[test]
fn derived_prompts_are_scored() {
    let (fixture, weights) = (judged(), roomy());
    for (objective, terms) in objectives() {
        for micro_batch in [None, Some(3)] {
            let rollout = Rollout::new(GROUPS, derived(Producer::student(sampling(2))));
            let train = Train { rollout, ..train(objective.clone(), 1) };
            let stage = Stage { micro_batch, ..fixture.stage(&train, ROUTED, &weights) };
            let mut trainer = Trainer::new(&stage).unwrap();
            let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
            let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
            let gradient = to_vec(&gradient.part(0..gradient.parameters()));
            let loss = f64::from(outputs.get(stage.train.objective.loss)[0]);
            let (wanted, of_weights) = expected(&stage, &rollouts.sequences, &weights, terms);
            assert!((loss - wanted).abs() < 1e-5, "{loss} {wanted}");
            let apart = apart(&gradient, &of_weights);
            assert!(apart < 1e-4, "{apart:e}");
            let of_derived =
                |own: &[Sequence]| own.iter().filter(|sequence| is_derived(sequence)).count() as f64;
            let counted = of_derived(&rollouts.sequences.list);
            assert!(counted > 0.0 && counted < f64::from(2 * GROUPS), "{counted}");
            let mut record = Record::default();
            let now = Instant::now();
            trainer.update(vec![rollouts], now, 0, &mut record).unwrap();
            let share = record.rows.iter().map(|row| row.derived.unwrap() * row.prompt_share).sum::<f64>();
            assert!((share - counted / f64::from(2 * GROUPS)).abs() < 1e-12, "{share}");
            let floors = record.rows.iter().filter_map(|row| row.divergence_floor);
            assert!(floors.into_iter().all(|floor| floor < 1e-5), "the same student");
        }
    }
}

/// A replayed prompt is derived from its own attempts.
#[test]
fn a_replayed_prompt_is_derived_anew() {
    use super::producers::{mean_length, replay};
    use mopd_plan::producers::ReplayContents;
    let attempts = replay(Producer::student(sampling(2)), ReplayContents::Prompts, 25, Some(mean_length()));
    let (of_run, drawn) = (lists(derived(attempts), 6), lists(Producer::student(sampling(2)), 6));
    let fixture = judged();
    let mut replayed = 0;
    for (sequence, drawn) in zip_equal(&of_run.concat(), &drawn.concat()) {
        let Some(read) = &sequence.prompt else { continue };
        let prompt = fixture.prompts[sequence.source].dataset.prompt(sequence.record);
        assert!(Tokenizer::Bytes.decode(read).unwrap().starts_with(&format!("{prompt}|")));
        replayed += usize::from(sequence.record != drawn.record);
    }
    assert!(replayed > 10, "{replayed}");
}

/// What is derived from replayed attempts, or from the attempts at a replayed prompt, is replayed.
#[test]
fn what_is_derived_of_a_replayed_prompt_counts_as_replayed() {
    use super::producers::replay;
    use mopd_plan::producers::ReplayContents;
    for keeps in [ReplayContents::Prompts, ReplayContents::Rollouts] {
        let attempts = replay(Producer::student(sampling(2)), keeps, 25, None);
        let steps = lists(derived(attempts), 6);
        assert!(steps[0].iter().all(|sequence| !is_replayed(sequence)), "the buffer is empty");
        let replayed = steps[1..].concat().into_iter().filter(is_replayed);
        let (derived, others): (Vec<Sequence>, Vec<Sequence>) = replayed.partition(is_derived);
        assert!(derived.len() > 3, "{keeps:?}: {} and {}", derived.len(), others.len());
    }
}

/// Predictions of cost measure a step in which every prompt shows all its texts.
#[test]
fn derived_cost_prediction_measures_a_step_of_new_prompts() {
    let mut rollout = Rollout::new(GROUPS, derived(Producer::student(sampling(2))));
    rollout.assume_conditions();
    let list = lists(rollout.producer, 2).concat();
    // A teacher may still write an empty text.
    let new = list.iter().filter(|sequence| is_derived(sequence)).count();
    assert!(new * 10 >= list.len() * 8, "{new} of {}", list.len());
}

/// A template that leaves no room is an error, for the student and for a writer of short versions.
#[test]
fn derived_prompt_beyond_the_context_is_an_error() {
    let (fixture, weights) = (judged(), roomy());
    let told = |change: &dyn Fn(&mut Derived)| {
        let mut derived = two_candidates(Producer::student(sampling(2)));
        change(&mut derived);
        let rollout = Rollout::new(GROUPS, Producer::Derived(Box::new(derived)));
        let train = Train { rollout, ..train(mopd(1.0), 1) };
        let stage = fixture.stage(&train, ROUTED, &weights);
        Trainer::new(&stage).unwrap().rollouts_of(0).err().expect("there is no room").to_string()
    };
    let student = told(&|derived| derived.sees.pieces.push(Piece::Text("x".repeat(120))));
    assert!(student.starts_with("the prompt that `two_candidates` derives from attempts has "), "{student}");
    assert!(student.ends_with("and a completion may have 6 more: more than the context of 128"), "{student}");
    let short = told(&|derived| {
        let DerivedText::Short { max_tokens, .. } = &mut derived.texts[1] else { panic!("it is shortened") };
        *max_tokens = 126;
    });
    assert!(short.contains(" shortens has ") && short.contains("more than the context of 128"), "{short}");
}
