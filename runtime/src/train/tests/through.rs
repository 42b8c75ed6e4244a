//! Completions that pass through a program: real processes that return other texts, leave completions out, or
//! fail.

use mopd_plan::producers::{Model, Through};

use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;

/// The start of a program that saves each request, and runs the code after it for each completion.
const PRELUDE: &str = "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    open('asked', 'a').write(line)
    prompt, completion, record = request['prompt'], request['completion'], request['record']
    assert prompt.startswith(('copy', 'flip')) and record['prompt'] == prompt and record['answer']
";

/// A program that returns the value of this expression.
fn answering(expression: &str) -> String {
    format!(
        "{PRELUDE}    print(json.dumps({{'id': request['id'], 'completion': {expression}}}), flush=True)\n"
    )
}

fn through(of: Producer) -> Producer {
    let (command, depends) = ("python3 edit.py".to_owned(), Vec::new());
    Producer::Through(Box::new(Through { command, time_limit_seconds: 60.0, depends, of }))
}

/// For each step, the sequences and the numbers dropped.
type Steps = Vec<(Vec<Sequence>, Option<Vec<u32>>)>;

/// The sequences of some steps with `program` as the editor, and the number of completions that it was given.
fn steps(producer: Producer, program: &str, steps: u32) -> Result<(Steps, usize)> {
    let (fixture, weights) = (Fixture::new(), models(true));
    std::fs::write(fixture.folder.path().join("edit.py"), program).unwrap();
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(6, producer);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut trainer = Trainer::new(&stage)?;
    let of_step = |step| {
        let sequences = trainer.rollouts_of(step)?.remove(0).sequences;
        Ok((sequences.list, sequences.dropped))
    };
    let steps = (0..steps).map(of_step).collect::<Result<_>>()?;
    let asked = std::fs::read_to_string(fixture.folder.path().join("asked")).unwrap_or_default();
    Ok((steps, asked.lines().count()))
}

fn text(sequence: &Sequence) -> String {
    Tokenizer::Bytes.decode(&sequence.completion).unwrap()
}

/// The program's texts replace the student's, with an end token and without log-probabilities.
#[test]
fn completions_are_what_the_program_answers() {
    let drawn = || Producer::student(sampling(2));
    let (plain, _) = steps(drawn(), "", 2).unwrap();
    let (same, _) = steps(through(drawn()), &answering("completion"), 2).unwrap();
    let (other, asked) = steps(through(drawn()), &answering("'x' + str(len(completion))"), 2).unwrap();
    let all = |steps: &Steps| steps.iter().flat_map(|(list, _)| list.clone()).collect::<Vec<_>>();
    assert_eq!(asked, 24);
    for (plain, (same, other)) in zip_equal(all(&plain), zip_equal(all(&same), all(&other))) {
        // A text that the program leaves unchanged keeps its tokens, even if its encoding would differ.
        assert!(same == plain.clone().without_logps());
        let expected = format!("x{}", text(&plain).chars().count());
        let end = Tokenizer::Bytes.ends()[0];
        assert_eq!((text(&other), other.completion.last()), (expected, Some(&end)));
        assert!(other.completion.logps().is_none() && !other.truncated && other.reward.is_some());
        assert_eq!((other.source, other.record), (plain.source, plain.record));
    }
    // Texts longer than `max_tokens` are cut off.
    let (long, _) = steps(through(drawn()), &answering("'abcdefgh'"), 1).unwrap();
    for sequence in all(&long) {
        assert!(sequence.truncated && text(&sequence) == "abcdef", "{sequence:?}");
    }
}

/// A completion that a `stop` text ended has no end token, and gets none. For one that was cut off, the
/// program writes a whole text.
#[test]
fn a_new_text_ends_as_the_old_one_did() {
    let stop: Vec<String> = ('a'..='z').map(String::from).collect();
    let stopped = || Producer::student(Sampling { stop: stop.clone(), ..sampling(4) });
    let (plain, _) = steps(stopped(), "", 3).unwrap();
    let (edited, _) = steps(through(stopped()), &answering("'x'"), 3).unwrap();
    let ends = |sequence: &Sequence| Tokenizer::Bytes.is_end(*sequence.completion.last().unwrap());
    let mut by_text = 0;
    for ((plain, _), (edited, _)) in zip_equal(plain, edited) {
        for (before, after) in zip_equal(plain, edited) {
            assert_eq!(ends(&after), ends(&before) || before.truncated, "{before:?}");
            assert!(text(&after) == "x" && !after.truncated);
            by_text += usize::from(!ends(&after));
        }
    }
    assert!(by_text > 3, "{by_text}");
}

/// With a deterministic program, a resumed run also repeats the number of completions left out.
#[test]
fn a_stage_that_was_cut_ends_the_same() {
    let (fixture, weights) = (Fixture::new(), models(true));
    let program = answering("None if len(completion) % 3 == 0 else completion.upper()");
    std::fs::write(fixture.folder.path().join("edit.py"), program).unwrap();
    let mut train = train(mopd(1.0), 2);
    train.rollout = Rollout::new(6, through(Producer::student(sampling(2))));
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    stage.steps = 5;
    resume::ends_the_same_wherever_it_is_cut("through", &stage);
}

/// The program's text is trained on: loss and gradient equal a plain implementation.
#[test]
fn the_loss_is_that_of_the_program_s_text() {
    let (fixture, weights) = (Fixture::new(), models(true));
    std::fs::write(fixture.folder.path().join("edit.py"), answering("record['answer'][::-1]")).unwrap();
    let (objective, terms) = objectives().remove(0);
    let mut train = train(objective, 1);
    train.rollout = Rollout::new(4, through(Producer::student(sampling(1))));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let (loss, gradient, rollouts) = first_step(&stage);
    let (expected_loss, expected) = expected(&stage, &rollouts.sequences, &weights, terms);
    for sequence in &rollouts.sequences.list {
        let answer = stage.sources[sequence.source].prompts.dataset.text(sequence.record, "answer").unwrap();
        let reversed: String = answer.chars().rev().collect();
        assert!(reversed.starts_with(&text(sequence)) && !sequence.completion.is_empty());
    }
    assert!((loss - expected_loss).abs() < 1e-5, "{loss} {expected_loss}");
    assert!(apart(&gradient, &expected) < 1e-4);
}

/// Groups get smaller, and empty ones are dropped; each dropped completion is counted.
#[test]
fn a_program_may_leave_completions_out() {
    let leaves = answering("None if prompt.startswith('copy') or request['id'] % 3 == 0 else completion");
    let (steps, _) = steps(through(Producer::student(sampling(2))), &leaves, 3).unwrap();
    for (list, dropped) in steps {
        let dropped = dropped.expect("a program was asked");
        assert!(list.iter().all(|sequence| sequence.source == 1));
        assert_eq!(list.len() + dropped.iter().sum::<u32>() as usize, 12);
        assert!(dropped.len() == 2 && dropped[0] > 0 && dropped[1] > 0, "{dropped:?}");
    }
}

/// Rollouts that are written before the first step are edited once.
#[test]
fn rollouts_written_before_the_first_step_are_edited_once() {
    let once = Producer::teacher_once(20, Keep::All, sampling(1));
    let leaves = answering("None if request['id'] % 4 == 0 else 'ab'");
    let (written, asked) = steps(through(once), &leaves, 4).unwrap();
    assert_eq!(asked, 20);
    assert!(written.iter().flat_map(|(list, _)| list).all(|sequence| text(sequence) == "ab"));
    let snapshot = || {
        let model = Model { once: true, model: ModelId(1), sampling: sampling(2) };
        through(model.into())
    };
    let (written, asked) = steps(snapshot(), &answering("completion[:2]"), 8).unwrap();
    assert_eq!(asked, 32, "each of 16 prompts has two");
    assert!(written.iter().flat_map(|(list, _)| list).all(|sequence| sequence.completion.len() <= 6));
    let error = steps(snapshot(), &leaves, 1).expect_err("a prompt has none").to_string();
    assert!(
        error.contains("left out") && error.contains("a `snapshot` needs one completion for each prompt"),
        "{error}"
    );
}

#[test]
fn a_program_that_answers_nonsense_is_named() {
    let said = |program: &str| {
        let error = steps(through(Producer::student(sampling(1))), program, 1).expect_err("it fails");
        error.to_string()
    };
    for (program, wanted) in [
        (
            answering("3"),
            "returned invalid output: a `completion` that is neither a text nor `null`; the \
            line was",
        ),
        (answering("completion").replace("'completion':", "'text':"), "no `completion`; the line was"),
        ("import sys; sys.exit('no directions')".to_owned(), "ended (exit status 1) before it answered"),
    ] {
        let error = said(&program);
        assert!(error.contains("the program `python3 edit.py` of `through`"), "{error}");
        assert!(error.contains(wanted), "{error}");
    }
}
