//! Tests of the tokens of rows: prompts, examples to imitate, and how both are kept between runs.

use std::fs;
use std::path::Path;

use mopd_plan::views::Piece;
use mopd_plan::{DataSource, Schedule, ScheduleLength};

use super::*;
use crate::data::{DatasetRequest, Field};
use crate::tokenizer::tests::pretrained;

fn prompts(folder: &Path, lines: &str) -> Prompts {
    formatted(folder, lines, PromptFormat::Text)
}

fn formatted(folder: &Path, lines: &str, format: PromptFormat) -> Prompts {
    fs::write(folder.join("a.jsonl"), lines).unwrap();
    let source = DataSource::file("a.jsonl");
    let fields = match format {
        PromptFormat::Text => vec![Field::text("answer"), Field::text("other")],
        PromptFormat::Chat { .. } => Vec::new(),
    };
    let request = DatasetRequest {
        source: &source,
        format: &format,
        fields: &fields,
        whole: false,
        routes: &[],
        numbers: &[],
        notes: None,
    };
    Prompts::new(Dataset::read(folder, request).unwrap())
}

const LINES: &str = r#"{"prompt": "1+1=", "answer": "2", "other": "two"}
{"prompt": "2+2=", "answer": "", "other": "four"}
"#;

/// Prompts as a run on this store has them, with everything cached, however cheap it is.
fn keeping(folder: &Path, lines: &str) -> Prompts {
    let store = Store::open(&folder.join("store")).unwrap();
    let mut prompts = prompts(folder, lines).cached_in(store, PromptFormat::Text);
    prompts.cache.as_mut().unwrap().worth = |_, _| true;
    prompts
}

fn entries(folder: &Path) -> usize {
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    fs::read_dir(folder.join("store"))
        .unwrap()
        .filter(|entry| name(entry.as_ref().unwrap()).len() == 64)
        .count()
}

#[test]
fn an_example_is_what_its_row_says() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path(), LINES);
    let bytes = Tokenizer::Bytes;
    let examples = prompts.examples(&bytes, "other").unwrap();
    for (row, (prompt, answer)) in [("1+1=", "two"), ("2+2=", "four")].into_iter().enumerate() {
        let completion = bytes.completion(prompt, answer).unwrap();
        let written = vec![true; completion.len()];
        assert_eq!(examples.get(row), (None, completion, written));
        assert_eq!(prompts.tokens(&bytes).unwrap().get(row), bytes.prompt(prompt).unwrap());
    }
    assert!(examples.lengths().eq([5 + 4, 5 + 5]));
    let Err(error) = prompts.examples(&bytes, "third") else { panic!("there is no such field") };
    assert!(error.to_string().contains("third"), "{error}");
}

/// Examples with gaps, or with prompts other than the row's, are decoded as they were encoded.
#[test]
fn encoded_examples_decode_to_the_same() {
    let lists = |lists: &[&[Token]]| {
        let mut builder = crate::data::Builder::default();
        lists.iter().for_each(|list| builder.push(list).unwrap());
        Arc::new(builder.finish().unwrap())
    };
    let rows = lists(&[&[SAME, 7, !0, !8, 9], &[2, 5, 6, !1]]);
    let examples = Examples { prompts: lists(&[&[1, 2, 3], &[4]]), rows };
    assert_eq!(examples.get(0), (None, vec![7, 0, 8, 9], vec![true, false, false, true]));
    assert_eq!(examples.get(1), (Some([5, 6].as_slice()), vec![1], vec![false]));
    assert!(examples.lengths().eq([3 + 4, 2 + 1]));
}

fn view(pieces: Vec<Piece>) -> View {
    View { name: "shown".to_owned(), pieces }
}

#[test]
fn a_template_is_filled_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = prompts(folder.path(), LINES);
    let bytes = Tokenizer::Bytes;
    let slot = |field: &str| Slot::Data(field.to_owned());
    let text = |text: &str| Piece::Text(text.to_owned());
    let shown = view(vec![Piece::Slot(Slot::Prompt), text(" "), Piece::Slot(slot("other")), text("?")]);
    let tokens = prompts.shown(&bytes, &shown).unwrap();
    assert_eq!(tokens.get(0), bytes.prompt("1+1= two?").unwrap());
    assert_eq!(tokens.get(1), bytes.prompt("2+2= four?").unwrap());
    // With the answer's tokens and the end token after it.
    let longest = prompts.longest_shown(&bytes, &shown, Some("other")).unwrap();
    let error = longest.fits(0, 14_u32).unwrap_err();
    let expected = "a.jsonl:2: template `shown` and `other` take 16 tokens, the model's context is 14";
    assert!(error.to_string().ends_with(expected), "{error}");
    // A slot with a schedule counts with its longest length; at a step it has its length of that step.
    let share = Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run };
    let fading = view(vec![text("="), Piece::First { slot: slot("other"), share: share.into() }]);
    assert_eq!(prompts.shown(&bytes, &fading).unwrap().get(1), bytes.prompt("=four").unwrap());
    let half = Moment::Step { step: 2, steps: 4, learned: None };
    assert_eq!(
        prompts.shown_now(&bytes, &fading, half, 1, &TemplateInputs::default()).unwrap(),
        bytes.prompt("=fo").unwrap()
    );
    let missing = view(vec![Piece::Slot(slot("third"))]);
    let Err(error) = prompts.shown(&bytes, &missing) else { panic!("there is no such field") };
    assert!(error.to_string().contains("third"), "{error}");
}

#[test]
fn tokens_outlast_a_run_and_are_read_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Tokenizer::Bytes;
    let first = keeping(folder.path(), LINES);
    let expected = first.examples(&bytes, "answer").unwrap();
    assert_eq!(entries(folder.path()), 2, "prompts and examples");
    // Other tokens put into the entry show that it is read.
    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut other = crate::data::Builder::default();
    [1, 2].into_iter().for_each(|token| other.push(&[token]).unwrap());
    let key = first.key("prompts", &bytes);
    store.insert_tokens(&key, "", &other.finish().unwrap()).unwrap();
    let second = keeping(folder.path(), LINES);
    assert_eq!(second.tokens(&bytes).unwrap().get(1), [2]);
    // A damaged entry is made again, with one warning.
    let file = folder.path().join("store").join(&key).join("tokens.bin");
    fs::write(&file, "short").unwrap();
    let third = keeping(folder.path(), LINES);
    assert_eq!(third.tokens(&bytes).unwrap().get(1), bytes.prompt("2+2=").unwrap());
    let said = third.warnings();
    assert!(said.len() == 1 && said[0].contains("damaged") && third.warnings().is_empty(), "{said:?}");
    let fourth = keeping(folder.path(), LINES);
    let found = fourth.examples(&bytes, "answer").unwrap();
    assert!((0..2).all(|row| found.get(row) == expected.get(row)) && fourth.warnings().is_empty());
}

#[test]
fn other_data_another_field_and_another_format_are_other_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Tokenizer::Bytes;
    let key = |prompts: &Prompts, what: &str| prompts.key(what, &bytes);
    let first = keeping(folder.path(), LINES);
    let mut chat = keeping(folder.path(), LINES);
    chat.cache.as_mut().unwrap().format = PromptFormat::Chat { system: None };
    let edited = keeping(folder.path(), &LINES.replace("2+2", "3+1"));
    let keys =
        [key(&first, "prompts"), key(&first, "examples"), key(&chat, "prompts"), key(&edited, "prompts")];
    assert!(keys.iter().enumerate().all(|(index, key)| !keys[..index].contains(key)), "{keys:?}");
    assert_eq!(key(&first, "prompts"), key(&keeping(folder.path(), LINES), "prompts"));
}

/// Rows that are tokenised quickly are not cached, nor are those that are read no faster than they are made.
/// A disk that can't be written to causes a warning.
#[test]
fn quickly_tokenised_rows_are_not_cached() {
    let seconds = Duration::from_secs;
    assert!(worth_keeping(seconds(38), 193_000_000) && !worth_keeping(Duration::from_millis(900), 1000));
    assert!(!worth_keeping(seconds(16), 3_900_000_000), "bytes as tokens");
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let quick = prompts(folder.path(), LINES).cached_in(store, PromptFormat::Text);
    quick.tokens(&Tokenizer::Bytes).unwrap();
    assert_eq!(entries(folder.path()), 0);
    let unkept = keeping(folder.path(), LINES);
    // A file where the entry's folder would be.
    fs::write(folder.path().join("store").join(unkept.key("prompts", &Tokenizer::Bytes)), "").unwrap();
    assert_eq!(unkept.tokens(&Tokenizer::Bytes).unwrap().len(), 2);
    let said = unkept.warnings();
    assert!(said.len() == 1 && said[0].contains("a.jsonl cannot be stored: cannot write"), "{said:?}");
}

/// A chat template that writes the date writes it into every prompt of its tokenizer, whichever model reads.
#[test]
fn date_in_prompts_is_that_of_the_reading_template() {
    let folder = tempfile::tempdir().unwrap();
    let (dated, plain) = (pretrained("llama3"), pretrained("qwen3"));
    let text = prompts(folder.path(), LINES);
    assert_eq!(text.day([&dated]), None, "no template is asked");
    let chat = r#"{"messages": [{"role": "user", "content": "1+1="}]}"#;
    let chat = formatted(folder.path(), chat, PromptFormat::Chat { system: None });
    assert_eq!(chat.day([&plain, &Tokenizer::Bytes]), None);
    let today = chat.day([&dated]);
    assert!(today.is_some());
    assert_eq!(chat.day([&plain, &dated]), today);
}
