//! Completions with a replaced text, and teachers that read numbers about completions.

use mopd_plan::producers::{PatternPiece, Rewrite};
use mopd_plan::views::{self, Piece, Slot, View};
use mopd_plan::{Axis, Formula, PlainSignal, Reduction};

use super::producers::sampling;
use super::*;
use crate::rollout::Sequence;

/// The share of correct completions in the group.
fn share_right() -> Piece {
    let mut graph = mopd_expr::graph::Graph::default();
    let correct = graph.signal(PlainSignal::Correct);
    let share = graph.reduce(Reduction::Mean, correct, Axis::Group, None);
    let value = graph.broadcast(share, Axis::Sequence);
    Piece::Number(Formula { graph, value })
}

/// A verifier that rewards completions that do not begin with a letter from N to Z.
fn verifier() -> Verifier {
    let reward = Reward::Regex { pattern: "^[^n-zN-Z]".to_owned(), field: String::new() };
    Verifier::new(&reward, Path::new(".")).unwrap()
}

pub(super) fn rewritten(letter: &str, of: Producer) -> Producer {
    let pattern = vec![PatternPiece::Text(letter.to_owned())];
    Producer::Rewrite(Box::new(Rewrite {
        pattern,
        text: vec![Piece::Text("<".to_owned()), share_right()],
        of,
    }))
}

fn text(sequence: &Sequence) -> String {
    Tokenizer::Bytes.decode(&sequence.completion).unwrap()
}

/// The sequences of some steps.
fn drawn(producer: Producer) -> Vec<Sequence> {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(6, producer);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    (0..3).flat_map(|step| trainer.rollouts_of(step).unwrap().remove(0).sequences.list).collect()
}

/// The shares of right completions in groups of four.
fn shares(list: &[Sequence]) -> Vec<f64> {
    let of_group = |group: &[Sequence]| {
        let right = group.iter().filter(|sequence| sequence.reward == Some(1.0)).count();
        [right as f64 / group.len() as f64; 4]
    };
    list.chunks(4).flat_map(of_group).collect()
}

#[test]
fn a_text_becomes_another_with_the_group_s_number() {
    let plain = drawn(Producer::student(sampling(4)));
    let has = |letter: char| plain.iter().filter(|sequence| text(sequence).contains(letter)).count();
    // A letter that many completions have and many lack.
    let letter = ('a'..='z').min_by_key(|letter| has(*letter).abs_diff(plain.len() / 3)).unwrap();
    assert!((2..plain.len()).contains(&has(letter)), "{letter}");
    let edited = drawn(rewritten(&letter.to_string(), Producer::student(sampling(4))));
    let shares = shares(&plain);
    assert!(shares.iter().any(|share| *share > 0.0 && *share < 1.0), "{shares:?}");
    let end = Tokenizer::Bytes.ends()[0];
    let judge = |text: &str| !text.starts_with(|letter: char| matches!(letter, 'n'..='z' | 'N'..='Z'));
    for ((before, after), share) in zip_equal(zip_equal(&plain, &edited), shares) {
        assert!(after.completion.logps().is_none(), "nobody drew it");
        assert_eq!((before.source, before.record), (after.source, after.record));
        if !text(before).contains(letter) {
            assert!(*after == before.clone().without_logps());
            continue;
        }
        let expected = text(before).replace(letter, &format!("<{}", views::number(share)));
        let mut tokens = Tokenizer::Bytes.completion("", &expected).unwrap();
        assert_eq!(tokens.last(), Some(&end));
        if before.truncated {
            tokens.pop();
        }
        let truncated = before.truncated || tokens.len() > 6;
        tokens.truncate(6);
        assert_eq!((&*after.completion, after.truncated), (&*tokens, truncated), "{}", text(before));
        assert_eq!(after.reward, Some(f64::from(u8::from(judge(&text(after))))), "of the new text");
    }
}

/// For each step, the sequences and the numbers dropped.
fn steps(producer: Producer) -> Vec<(Vec<Sequence>, Option<Vec<u32>>)> {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(6, producer);
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut trainer = Trainer::new(&stage).unwrap();
    let of_step = |step| {
        let sequences = trainer.rollouts_of(step).unwrap().remove(0).sequences;
        (sequences.list, sequences.dropped)
    };
    (0..3).map(of_step).collect()
}

/// What was cut off has no end token, so nothing is left of it where its whole text is taken away. What ended
/// by itself still has its end.
#[test]
fn a_completion_of_which_nothing_is_left_is_dropped_and_counted() {
    let short = || Producer::student(Sampling::new(4, 1.0, 1));
    let pattern = vec![PatternPiece::Anything];
    let plain = steps(short());
    let emptied = steps(Producer::Rewrite(Box::new(Rewrite { pattern, text: Vec::new(), of: short() })));
    let mut gone = 0;
    for ((before, _), (after, dropped)) in zip_equal(plain, emptied) {
        // A line break is in no pattern.
        let left = |sequence: &&Sequence| !sequence.truncated || text(sequence).contains('\n');
        let left: Vec<&Sequence> = before.iter().filter(left).collect();
        assert_eq!(after.len(), left.len());
        let missing = before.len() - left.len();
        assert_eq!(dropped.unwrap().iter().sum::<u32>() as usize, missing);
        gone += missing;
    }
    assert!(gone > 20, "{gone}");
}

/// Where the student was stopped by a text, it did not write an end, and does not learn to write one.
#[test]
fn a_completion_that_a_text_stopped_gets_no_end() {
    let stop: Vec<String> = ('a'..='z').map(String::from).collect();
    let stopped = || Producer::student(Sampling { stop: stop.clone(), ..sampling(4) });
    let plain = drawn(stopped());
    let is_end = |sequence: &Sequence| Tokenizer::Bytes.is_end(*sequence.completion.last().unwrap());
    let by_text: Vec<bool> = plain.iter().map(|sequence| !sequence.truncated && !is_end(sequence)).collect();
    let mut compared = 0;
    for letter in 'a'..='z' {
        let edited = drawn(rewritten(&letter.to_string(), stopped()));
        for ((before, after), by_text) in zip_equal(zip_equal(&plain, &edited), &by_text) {
            if *by_text && text(before).contains(letter) {
                assert!(!is_end(after), "{}", text(before));
                // Bytes that are not UTF-8 become three bytes each, which may leave no room for the new text.
                let whole = !text(before).contains(char::REPLACEMENT_CHARACTER);
                assert!(!whole || text(after).contains('<'), "{:?} {:?}", text(before), text(after));
                compared += 1;
            }
        }
        if compared > 3 {
            return;
        }
    }
    panic!("{compared}");
}

/// Qwen3's template writes an empty thought before an answer. It also reads thoughts in answers, by
/// `</think>`, as the second template does by the letter e. None of this is part of the new completion, which
/// has the sampled text, its white space and special tokens too.
#[test]
fn a_new_text_has_its_own_tokens_alone() {
    let Tokenizer::Pretrained(qwen3) = crate::tokenizer::tests::pretrained("qwen3") else { unreachable!() };
    let mut files = qwen3.files().clone();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if 'e' in m.content %}<think>\n\
                    {{ m.content.split('e')[0].strip() }}\n</think>\n\n{{ m.content.split('e')[-1].strip() }}\
                    {% else %}{{ m.content.strip() }}{% endif %}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    files.files.retain(|(name, _)| name != "chat_template.jinja");
    files.files.push(("chat_template.jinja".to_owned(), template.as_bytes().to_vec()));
    let reshaping = crate::tokenizer::PretrainedTokenizer::new(files).unwrap();
    for tokenizer in [qwen3, reshaping] {
        keeps_the_text(Tokenizer::Pretrained(tokenizer));
    }
}

fn keeps_the_text(tokenizer: Tokenizer) {
    let mut fixture = Fixture { verifier: verifier(), ..Fixture::new() };
    for (name, prompts) in zip_equal(["copy", "flip"], &mut fixture.prompts) {
        let path = fixture.folder.path().join(format!("{name}.jsonl"));
        let source = DataSource::file(path.to_str().unwrap());
        let (format, fields) = (PromptFormat::Chat { system: None }, [Field::text("answer")]);
        let (source, format, fields) = (&source, &format, fields.as_slice());
        let request =
            DatasetRequest { source, format, fields, whole: true, routes: &[], numbers: &[], notes: None };
        *prompts = Prompts::new(Dataset::read(Path::new("."), request).unwrap());
    }
    let tokenizer = Arc::new(tokenizer);
    let vocabulary = tokenizer.vocabulary();
    let config = crate::model::Config { vocabulary, context: 128, ..tiny() };
    let model = |seed| {
        let mut weights = random_model(&config, seed);
        weights.tokenizer = tokenizer.clone();
        Arc::new(weights)
    };
    let models: Vec<Arc<Weights>> = (0..3).map(model).collect();
    let drawn = |producer: Producer| {
        let mut train = train(mopd(1.0), 1);
        train.rollout = Rollout::new(6, producer);
        let stage = fixture.stage(&train, ROUTED, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let steps = (0..3).flat_map(|step| trainer.rollouts_of(step).unwrap().remove(0).sequences.list);
        steps.collect::<Vec<Sequence>>()
    };
    let plain = drawn(Producer::student(sampling(4)));
    let edited = drawn(rewritten("e", Producer::student(sampling(4))));
    let mut compared = 0;
    for ((before, after), share) in zip_equal(zip_equal(&plain, &edited), shares(&plain)) {
        let end = before.completion.iter().position(|token| tokenizer.is_end(*token));
        assert_eq!(end.is_none(), before.truncated);
        let (written, end) = before.completion.split_at(end.unwrap_or(before.completion.len()));
        let text = tokenizer.as_read(written).unwrap();
        if !text.contains('e') {
            continue;
        }
        let expected = text.replace('e', &format!("<{}", views::number(share)));
        let mut tokens = tokenizer.encode(&expected).unwrap();
        tokens.extend(end);
        tokens.truncate(6);
        assert_eq!(*after.completion, tokens, "{text}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
}

/// The teacher has read the share of correct completions in the group: loss and gradient in float64.
#[test]
fn a_teacher_is_shown_a_number_of_the_group() {
    let (fixture, weights) = (Fixture { verifier: verifier(), ..Fixture::new() }, models(true));
    let pieces = vec![Piece::Slot(Slot::Prompt), Piece::Text("|".to_owned()), share_right()];
    let view = View { name: "shown".to_owned(), pieces };
    let mut train = train(direct(Support::Full, Mass::Raw), 1);
    train.rollout = Rollout::new(6, Producer::student(sampling(4)));
    let seeing = TeacherChoice { sees: Some(view), ..choice(Teacher::Model(ModelId(1))) };
    train.scorers = Scorers::new(vec![seeing.clone()], [], Vec::new());
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    for source in stage.sources.iter_mut() {
        source.route = SourceTeachers::all(&seeing);
    }
    let (loss, gradient, rollouts) = first_step(&stage);
    let list = &rollouts.sequences.list;
    let shares = shares(list);
    assert!(shares.iter().any(|share| *share != shares[0]), "{shares:?}");
    let [student, teacher] = [0, 1].map(|model| Reference::new(&weights[model]));
    let losses: Vec<Tensor> = zip_equal(list, shares)
        .map(|(sequence, share)| {
            let prompt = stage.sources[sequence.source].prompts.dataset.prompt(sequence.record);
            let shown = format!("{prompt}|{}", views::number(share));
            said::kl([&student, &teacher], [prompt, &shown], sequence)
        })
        .collect();
    said::agrees(loss, &gradient, losses, &student);
}
