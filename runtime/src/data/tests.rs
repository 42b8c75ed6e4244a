//! Tests of data files: accepted forms, and messages about files that can't be used.

use std::fs;

use mopd_plan::{DataSource, PromptFormat};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::tokenizer::Tokenizer;

fn file(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sort.train.jsonl");
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(path: &Path, fields: &[Field]) -> Result<Dataset, DataError> {
    let source = DataSource::file(path.to_str().unwrap());
    Dataset::read(
        Path::new("."),
        DatasetRequest {
            source: &source,
            format: &PromptFormat::Text,
            fields,
            whole: true,
            routes: &[],
            numbers: &[],
            notes: None,
        },
    )
}

fn load(content: impl AsRef<[u8]>) -> Dataset {
    let (_folder, path) = file(content);
    read(&path, ANSWER).unwrap()
}

/// The message after the file's name, and the help.
fn refused(content: impl AsRef<[u8]>, needed: &[Field]) -> (String, String) {
    let (_folder, path) = file(content);
    complaint(&path, needed)
}

fn complaint(path: &Path, needed: &[Field]) -> (String, String) {
    let error = read(path, needed).unwrap_err();
    let message = error.to_string();
    let rest = message.strip_prefix(path.to_str().unwrap()).expect("a message starts with the file");
    (rest.to_owned(), error.help())
}

const ANSWER: &[Field] = &[Field { name: "answer", kind: FieldKind::Text }];

/// Rows that only a file of another kind has.
#[test]
fn a_row_of_any_size_is_bounded() {
    let long = |text: &str| text.repeat((33 << 20) / text.len());
    let fields = |count: usize| {
        let names = (0..count).map(|number| format!("\"k{number}\":1"));
        format!("{{\"prompt\":\"a\",\"answer\":\"b\",{}}}\n", names.collect::<Vec<_>>().join(","))
    };
    for (content, problem) in [
        (format!("{{\"prompt\": \"{}\"}}\n", long("x")), ":1: a row of more than 32 MiB"),
        (format!("[[{}1]]\n", long("1,")), ", row 1: a row of more than 32 MiB"),
        (long("{\"a\":"), ":1: a row of more than 32 MiB"),
        (fields(300_000), ":1: the row has 300002 columns, more than the 200000 that a row may have"),
    ] {
        let (message, help) = refused(content, ANSWER);
        assert_eq!(message, problem);
        assert!(!help.is_empty());
    }
    assert_eq!(load(fields(9_000)).len(), 1);
    let header: String = (0..300_000).map(|number| format!("c{number},")).collect();
    for (name, content, problem) in [
        ("a.csv", format!("prompt,answer,{header}z\n"), ":1: the row has 300003 columns"),
        ("b.csv", format!("prompt,answer\na,\"{}\n", long("x\n")), ":2: a row of more than 32 MiB"),
        ("c.tsv", format!("prompt\tanswer{}\n", "\t".repeat(300_000)), ":1: the row has 300002 columns"),
    ] {
        let (folder, _) = file("");
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let (message, _) = complaint(&path, ANSWER);
        assert!(message.starts_with(problem), "{message}");
    }
}

#[test]
fn lines_keep_their_numbers_and_fields() {
    let data = load(
        "{\"prompt\": \"cab\", \"answer\": \"abc\", \"hard\": true}\n\n{\"answer\": 12, \"prompt\": \
         \"5+7\"}\n",
    );
    assert_eq!(data.len(), 2);
    assert_eq!((data.place(0).1, data.place(1).1), (RowPlace::Line(1), RowPlace::Line(3)));
    assert_eq!(data.prompt(1), "5+7");
    assert_eq!(data.text(1, "answer").unwrap(), "12");
    assert_eq!(data.text(0, "hard"), None);
    assert_eq!(data.object(0)["hard"], Value::Bool(true));
    assert_eq!(data.object(0)["prompt"], "cab");
    assert_eq!(data.object(1)["answer"], 12);
}

#[test]
fn windows_files_and_a_missing_last_line_end_are_read() {
    let data =
        load("\u{FEFF}{\"prompt\": \"a\", \"answer\": \"b\"}\r\n \r\n{\"prompt\": \"c\", \"answer\": \"d\"}");
    assert_eq!(data.text(0, "answer").unwrap(), "b");
    assert_eq!((data.place(1).1, data.prompt(1)), (RowPlace::Line(3), "c"));
}

#[test]
fn a_very_long_line_is_a_line() {
    let long = "x".repeat(5_000_000);
    let data = load(format!("{{\"prompt\": \"{long}\", \"answer\": \"\"}}\n"));
    assert_eq!(data.prompt(0).len(), 5_000_000);
    // The message does not repeat the whole line.
    let (message, _) = refused(format!("{{\"prompt\": \"{long}\"\n"), ANSWER);
    assert!(message.len() < 250, "{}", message.len());
    assert!(
        message.starts_with(":1: not JSON: EOF while parsing an object at column 5000013 of \"{"),
        "{message}"
    );
}

#[test]
fn the_hash_is_that_of_the_bytes_with_one_line_end_behind_the_last_row() {
    let content = "{\"prompt\": \"a\", \"answer\": \"b\"}\n";
    let hash = |text: &str| load(text).hash;
    assert_eq!(hash(content), blake3::hash(content.as_bytes()).to_hex().to_string());
    for same in [content.trim_end(), &format!("{content}\n"), &format!("{content}\r\n\n")] {
        assert_eq!(hash(same), hash(content), "{same:?}");
    }
    // Line ends as Windows writes them keep the hash that such a file has as a whole.
    let windows = content.replace('\n', "\r\n");
    assert_eq!(hash(&windows), blake3::hash(windows.as_bytes()).to_hex().to_string());
    assert_eq!(hash(&format!("{windows}\r\n")), hash(&windows));
    for other in [format!("{content}{content}"), content.replacen('{', "{ ", 1), format!("\n{content}")] {
        assert_ne!(hash(&other), hash(content), "{other:?}");
    }
}

#[test]
fn a_missing_file_suggests_its_neighbour() {
    let (folder, path) = file("{}");
    let wrong = folder.path().join("sort.trian.jsonl");
    let error = read(&wrong, ANSWER).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: there is no such file", wrong.display()));
    assert_eq!(error.help(), format!("did you mean `{}`?", path.display()));

    let far = folder.path().join("questions.jsonl");
    assert_eq!(read(&far, ANSWER).unwrap_err().help(), "paths are relative to the experiment's file");
    let elsewhere = folder.path().join("data/sort.train.jsonl");
    let error = read(&elsewhere, ANSWER).unwrap_err();
    assert_eq!(error.help(), "its folder does not exist either; paths are relative to the experiment's file");
}

#[test]
fn a_file_without_lines_is_refused() {
    for content in ["", "\n\n", "\u{FEFF}", " \r\n"] {
        let (message, help) = refused(content, ANSWER);
        assert_eq!(message, ": the file has no lines");
        assert!(help.contains("one JSON object per line"), "{help}");
    }
}

#[test]
fn malformed_lines_are_named() {
    let good = "{\"prompt\": \"a\", \"answer\": \"b\"}\n";
    let cases: &[(&str, &str, &str)] = &[
        (
            "{\"prompt\": \"a\" \"answer\": 1}",
            ":2: not JSON: expected `,` or `}` at column 16 of \"{\\\"prompt\\\": \\\"a\\\" \\\"answer\\\": \
             1}\"",
            "each line must be one whole JSON object",
        ),
        (
            "prompt,answer",
            ":2: not JSON: expected value at column 1 of \"prompt,answer\"",
            "one whole JSON object",
        ),
        ("[1, 2]", ":2: not a JSON object: found a list of 2", "write one object per line"),
        (
            "{'prompt': 1}",
            ":2: not JSON: key must be a string at column 2 of \"{'prompt': 1}\"",
            "json.dumps",
        ),
        ("\"a\"", ":2: not a JSON object: found the string \"a\"", "such as {\"prompt\""),
        (
            "{\"prompt\": \"a\", \"anwser\": \"b\"}",
            ":2: the field `answer` is missing; found `prompt`, `anwser`",
            "did you mean `anwser`?",
        ),
        (
            "{\"question\": \"a\"}",
            ":2: the field `prompt` is missing; found `question`",
            "every line needs `prompt`",
        ),
        ("{}", ":2: the field `prompt` is missing; the object is empty", "every line needs `prompt`"),
        (
            "{\"prompt\": 7, \"answer\": \"b\"}",
            ":2: the field `prompt` must be a string; found the number 7",
            "write `prompt` as a string",
        ),
        (
            "{\"prompt\": \"a\", \"answer\": [\"b\"]}",
            ":2: the field `answer` must be a string or a number; found a list of 1",
            "write `answer` as a string or a number",
        ),
        (
            "{\"prompt\": \"a\", \"answer\": null}",
            ":2: the field `answer` must be a string or a number; found null",
            "write `answer` as",
        ),
        (
            "{\"prompt\": \"a\", \"answer\": true}",
            ":2: the field `answer` must be a string or a number; found the bool true",
            "write `answer` as",
        ),
    ];
    for (line, wanted, way_out) in cases {
        let (message, help) = refused(format!("{good}{line}\n{good}"), ANSWER);
        assert_eq!(&message, wanted);
        assert!(help.contains(way_out), "{help}");
    }
}

#[test]
fn a_numeric_field_must_be_a_number() {
    let needed = [Field::number("answer")];
    let (_folder, path) =
        file("{\"prompt\": \"a\", \"answer\": \" 1,234.5 \"}\n{\"prompt\": \"a\", \"answer\": -3e2}\n");
    assert_eq!(read(&path, &needed).unwrap().len(), 2);
    let (message, _) = refused("{\"prompt\": \"a\", \"answer\": \"about 4\"}", &needed);
    assert_eq!(message, ":1: the field `answer` must be a number; found the string \"about 4\"");
}

#[test]
fn text_that_is_not_utf8_is_named_by_byte() {
    let mut content = b"{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"prompt\": \"caf".to_vec();
    content.extend(b"\xE9\", \"answer\": \"b\"}\n");
    let (message, help) = refused(&content, ANSWER);
    assert_eq!(message, ":2: not UTF-8 text: byte 0xE9 at column 16");
    assert_eq!(help, "save the file as UTF-8");

    let utf16: Vec<u8> = "\u{FEFF}{\"prompt\": \"a\"}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (message, help) = refused(&utf16, ANSWER);
    assert_eq!(message, ":1: not UTF-8 text: byte 0xFF at column 1");
    assert_eq!(help, "it looks like UTF-16: save the file as UTF-8");
}

#[test]
fn numbers_are_read_as_people_write_them() {
    let cases = [
        ("42", Some(42.0)),
        (" -7.5\n", Some(-7.5)),
        ("+1e3", Some(1000.0)),
        ("1,234", Some(1234.0)),
        ("-12,345,678.25", Some(-12_345_678.25)),
        ("1,23", None),
        ("1234,567", None),
        (",123", None),
        ("1,234e5", None),
        ("1.5,000", None),
        ("", None),
        ("four", None),
        ("4 apples", None),
        ("nan", None),
        ("-inf", None),
        ("1e999", None),
        ("0x10", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(mopd_plan::number_of_text(text), wanted, "{text:?}");
    }
}

#[test]
fn a_sequence_beyond_the_context_is_named() {
    let data = load(concat!(
        "{\"prompt\": \"abc\", \"answer\": \"a longer answer\"}\n",
        "{\"prompt\": \"abcdé\", \"answer\": 12}\n",
        "{\"prompt\": \"fghijk\", \"answer\": \"\"}\n",
    ));
    // A begin token and a token per byte; of equally long prompts, the first is reported.
    let prompts = (0..3).map(|row| Tokenizer::Bytes.prompt(data.prompt(row)).unwrap().len());
    let longest = Longest::find(&data, None, prompts.clone());
    assert_eq!((longest.place, longest.tokens), (RowPlace::Line(2), 7));
    assert_eq!(longest.fits(9, 16_u32), Ok(()));
    let error = longest.fits(10, 16_u32).unwrap_err();
    let path = data.path.display();
    assert_eq!(
        error.to_string(),
        format!(
            "{path}:2: the prompt takes 7 tokens and its completion up to 10, the model's context is 16; \
             2 of 3 rows are too long"
        )
    );
    let leave_out =
        |most: u32| format!(", or leave such rows out: `dataset(\"...\", max_prompt_tokens: {most})`");
    let ways = "set `context = 17` or more, or `max_tokens = 9` or less, or shorten the line";
    assert_eq!(error.help(), ways.to_owned() + &leave_out(6));
    assert_eq!(longest.fits(9, 7_u32).unwrap_err().help(), "set `context = 16` or more, or shorten the line");
    let of_files = ContextLength { tokens: 16, fixed: true };
    let error = longest.fits(10, of_files).unwrap_err();
    assert_eq!(error.help(), "set `max_tokens = 9` or less, or shorten the line".to_owned() + &leave_out(6));
    let derived = longest.clone().seen_as("tried").with_shown(5);
    assert_eq!(derived.fits(4, 16_u32), Ok(()));
    let error = derived.fits(5, 16_u32).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{path}:2: the template `tried` takes 7 tokens, the shown attempts up to 5 and its completion \
            up to 5, the model's context is 16; 2 of 3 rows are too long"
        )
    );
    assert_eq!(
        error.help(),
        "set `context = 17` or more, or lower `max_tokens` of the attempts or of `short(...)`, or shorten \
        the line"
    );

    let answers = (0..3).map(|row| {
        Tokenizer::Bytes.completion(data.prompt(row), data.text(row, "answer").unwrap()).unwrap().len()
    });
    let longest =
        Longest::find(&data, Some("answer"), prompts.zip(answers).map(|(prompt, answer)| prompt + answer));
    assert_eq!((longest.place, longest.tokens), (RowPlace::Line(1), 4 + 15 + 1));
    let error = longest.fits(0, 16_u32).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{path}:1: prompt and `answer` take 20 tokens, the model's context is 16")
    );
    assert_eq!(
        error.help(),
        "set `context = 20` or more, or shorten the line, or leave rows with long prompts out: \
         `max_prompt_tokens` of `dataset(...)`"
    );
}

#[test]
fn test_prompts_that_are_trained_on_are_a_warning() {
    let train = load(
        "{\"prompt\": \"a\", \"answer\": 1}\n{\"prompt\": \"b\", \"answer\": 1}\n{\"prompt\": \"b\", \
         \"answer\": 1}\n",
    );
    let tests = load("{\"prompt\": \"c\", \"answer\": 1}\n\n{\"prompt\": \"b\", \"answer\": 2}\n");
    let warning = overlap(&train, &tests).unwrap();
    assert_eq!(
        (warning.prompts, warning.tests.1, warning.train.1),
        (1, RowPlace::Line(3), RowPlace::Line(2))
    );
    let (test, train_path) = (tests.path.display(), train.path.display());
    assert_eq!(
        warning.to_string(),
        format!("{test}: 1 held-out prompt is trained on too, the first at line 3 (line 2 of {train_path})")
    );
    let apart = load("{\"prompt\": \"d\", \"answer\": 1}\n");
    assert_eq!(overlap(&train, &apart), None);
}

mod layouts;
mod sources;
mod trajectories;

/// Not regular files: a pipe would wait for its other end, a device never ends.
#[test]
fn data_file_that_is_a_pipe_or_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.clone(), pipe.with_extension("csv"), pipe.with_extension("parquet")] {
        if path != pipe {
            fs::rename(
                pipe.with_extension(if path.extension().unwrap() == "csv" { "jsonl" } else { "csv" }),
                &path,
            )
            .unwrap();
        }
        let (message, help) = complaint(&path, ANSWER);
        assert_eq!(message, ": cannot read the file: it is a pipe, not a regular file");
        assert!(help.starts_with("it must be a readable text file"), "{help}");
    }
    assert_eq!(
        complaint(Path::new("/dev/zero"), ANSWER).0,
        ": cannot read the file: it is a device, not a regular file"
    );
    assert_eq!(complaint(folder.path(), ANSWER).0, ": the folder has no data files");
}

/// Reading must not take quadratic time, which would be minutes here.
#[test]
fn rows_with_100000_columns_are_read_in_linear_time() {
    const COLUMNS: usize = 100_000;
    let members: Vec<_> = (0..COLUMNS).map(|column| format!("\"c{column}\": {column}")).collect();
    let data = load(format!("{{\"prompt\": \"p\", {}, \"answer\": \"a\"}}\n", members.join(", ")));
    assert_eq!((data.text(0, "answer").unwrap(), data.object(0).len()), ("a", COLUMNS + 2));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.csv");
    let names: Vec<_> = (0..COLUMNS).map(|column| format!("c{column}")).collect();
    let cells = ",x".repeat(COLUMNS);
    fs::write(&path, format!("prompt,answer,{}\np,a{cells}\nq,b{cells}\n", names.join(","))).unwrap();
    let data = read(&path, ANSWER).unwrap();
    assert_eq!((data.text(1, "answer").unwrap(), data.object(1).len()), ("b", COLUMNS + 2));
    fs::write(&path, format!("prompt,answer,{},c7\n", names.join(","))).unwrap();
    assert!(complaint(&path, ANSWER).0.contains("c7"));
    // A cell with a text of many lines.
    fs::write(&path, format!("prompt,answer\n\"{}\",a\n", "line\n".repeat(200_000))).unwrap();
    assert_eq!(read(&path, ANSWER).unwrap().prompt(0).lines().count(), 200_000);
}

#[test]
fn messages_are_short_however_long_the_field() {
    let name = "n".repeat(1 << 20);
    let (message, _) = refused(format!("{{\"prompt\": {{\"{name}\": 1}}}}\n"), ANSWER);
    assert!(message.len() < 400, "{}", message.len());
    let (_folder, path) = file(format!("{{\"prompt\": \"p\", \"{name}\": 1}}\n"));
    let error = crate::failure::Error::from(read(&path, ANSWER).unwrap_err());
    assert!(error.to_string().contains("the field `answer` is missing") && error.to_string().len() < 5000);
}

/// A number's text is the field's; a program that gets the whole row reads its value.
#[test]
fn numbers_keep_the_digits_of_the_file() {
    let long = "123456789012345678901234567890";
    let text = |number: &str| format!("{{\"prompt\": \"p\", \"answer\": {number}}}");
    let answer = |number: &str| {
        let (_folder, path) = file(text(number));
        let source = DataSource::file(path.to_str().unwrap());
        let format = PromptFormat::Text;
        let request = DatasetRequest {
            source: &source,
            format: &format,
            fields: ANSWER,
            whole: false,
            routes: &[],
            numbers: &[],
            notes: None,
        };
        Dataset::read(Path::new("."), request).unwrap().text(0, "answer").unwrap().to_owned()
    };
    for number in [long, "1.50", "1e2", "0.1", "-3", "18446744073709551615"] {
        assert_eq!(answer(number), number);
    }
    for number in [long, "1.50"] {
        let (problem, help) = refused(text(number), ANSWER);
        assert_eq!(
            problem,
            format!(":1: the field `answer` has the number {number}, which does not keep its digits")
        );
        assert_eq!(help, "write it as a string: \"...\"");
    }
    // A number is compared by its value, which most notations do not change.
    let number = [Field::number("answer")];
    let read_number = |number_text: &str| {
        let (_folder, path) = file(text(number_text));
        read(&path, &number).map(|data| data.object(0)["answer"].clone())
    };
    assert_eq!(read_number("1.50").unwrap(), json!(1.5));
    assert_eq!(read_number("-3e2").unwrap(), json!(-300.0));
    for rounded in ["0.10000000000000000001", "1e-400", long] {
        assert!(read_number(rounded).is_err(), "{rounded}");
    }
    // A field that no reward needs is a number to the program, as for every reader of JSON.
    let data = load("{\"prompt\": \"p\", \"answer\": \"1.50\", \"other\": 1.50}");
    assert_eq!((data.text(0, "answer"), &data.object(0)["other"]), (Some("1.50"), &json!(1.5)));
    let (problem, _) =
        refused(format!("{{\"prompt\": \"p\", \"answer\": \"a\", \"other\": [{{\"n\": {long}}}]}}"), ANSWER);
    assert!(problem.starts_with(":1: the field `other` has the number 1234567"), "{problem}");
}

/// `mopd sample` renders a line as `mopd run` does.
#[test]
fn a_line_is_the_conversation_of_a_row() {
    let line = r#"{"messages": [{"role": "user", "content": "17 + 25?"}],
        "tools": [{"type": "function", "function": {"name": "z", "description": "a"}}],
        "documents": [{"title": "t", "text": "x"}], "chat_template_kwargs": {"thinking": true}}"#;
    let line = line.replace('\n', " ");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rows.jsonl"), &line).unwrap();
    let (source, format) =
        (DataSource::file("rows.jsonl"), PromptFormat::Chat { system: Some("s".to_owned()) });
    let request = DatasetRequest {
        source: &source,
        format: &format,
        fields: &[],
        whole: false,
        routes: &[],
        numbers: &[],
        notes: None,
    };
    let row = Dataset::read(folder.path(), request).unwrap().conversation(0).unwrap();
    let read = conversation(&line, Some("s")).unwrap();
    assert_eq!(format!("{read:?}"), format!("{row:?}"));
    let shown = format!("{read:?}");
    assert!(shown.find("'z'") < shown.find("'a'"), "members keep their order: {shown}");
    let plain = conversation(r#"{"prompt": "17 + 25?", "tools": [{"name": "f"}]}"#, None).unwrap();
    assert!(format!("{plain:?}").contains("'f'"));
    for (wrong, problem) in [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "the field `prompt` is missing"),
        (r#"{"prompt": "p", "tools": 1}"#, "the field `tools` must be a list"),
    ] {
        assert!(conversation(wrong, None).unwrap_err().to_string().starts_with(problem), "{wrong}");
    }
}
