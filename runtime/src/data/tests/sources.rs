//! Tables, folders, columns of other names, filters, limits and conversations.

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use mopd_plan::{DataFormula, DataNode, FieldColumn, Function};

use super::*;
use crate::table::{self, encode, table};
use crate::tokenizer::chat::ChatRole;

const CHAT: PromptFormat = PromptFormat::Chat { system: None };

fn write(path: &Path, groups: &[Vec<table::Column>]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, encode(groups).unwrap()).unwrap();
}

struct Question {
    question: String,
    final_answer: i64,
    level: &'static str,
    score: f32,
}

/// The rows in row groups of two.
fn questions(rows: &[Question]) -> Vec<Vec<table::Column>> {
    rows.chunks(2).map(|rows| table!(rows; question, final_answer, level, score)).collect()
}

struct Pair {
    prompt: String,
    answer: String,
}

fn column(field: &str, column: &str) -> FieldColumn {
    FieldColumn { field: field.to_owned(), column: column.to_owned(), pattern: None }
}

fn request<'a>(
    source: &'a DataSource,
    format: &'a PromptFormat,
    fields: &'a [Field<'a>],
) -> DatasetRequest<'a> {
    DatasetRequest { source, format, fields, whole: true, routes: &[], numbers: &[], notes: None }
}

fn greater(field: &str, bound: f64) -> DataFormula {
    let apply = DataNode::Apply { function: Function::Greater, operands: vec![0, 1] };
    DataFormula {
        nodes: vec![DataNode::Field { field: field.to_owned() }, DataNode::Number { value: bound }, apply],
    }
}

/// Seven rows in two files, in row groups of two.
fn published() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<Question> = (0..7)
        .map(|row| Question {
            question: format!("What is {row}²?"),
            final_answer: row * row,
            level: if row % 3 == 0 { "hard" } else { "easy" },
            score: row as f32 / 10.0,
        })
        .collect();
    for (part, rows) in [&all[..5], &all[5..]].into_iter().enumerate() {
        write(&folder.path().join(format!("data/train-0000{part}-of-00002.parquet")), &questions(rows));
    }
    write(&folder.path().join("data/test-00000-of-00001.parquet"), &questions(&all[1..2]));
    folder
}

fn published_source() -> DataSource {
    let columns = vec![column("prompt", "question"), column("answer", "final_answer")];
    DataSource { split: Some("train".to_owned()), columns, ..DataSource::file("") }
}

#[test]
fn a_published_folder_is_read_by_split_and_column() {
    let folder = published();
    let source = published_source();
    let data = Dataset::read(folder.path(), request(&source, &PromptFormat::Text, ANSWER)).unwrap();
    assert_eq!(data.len(), 7);
    assert_eq!((data.prompt(6), data.text(6, "answer")), ("What is 6²?", Some("36")));
    assert_eq!(
        data.object(6),
        *json!({"level": "hard", "score": 0.6, "prompt": "What is 6²?", "answer": 36}).as_object().unwrap()
    );
    let (file, place) = data.place(6);
    assert!(file.ends_with("data/train-00001-of-00002.parquet"));
    assert_eq!(place, RowPlace::Row(2));
    assert_eq!(data.place(4).1, RowPlace::Row(5));

    let more = [Field::text("answer"), Field::text("levle")];
    let error = Dataset::read(folder.path(), request(&source, &PromptFormat::Text, &more)).unwrap_err();
    assert!(error.to_string().ends_with(
        "train-00000-of-00002.parquet, row 1: the field `levle` is missing; found `question`, \
         `final_answer`, `level`, `score`"
    ));
    assert_eq!(error.help(), "did you mean `level`?");
    let numeric = [Field::number("level")];
    let error = Dataset::read(folder.path(), request(&source, &PromptFormat::Text, &numeric)).unwrap_err();
    assert!(
        error.to_string().ends_with(", row 1: the field `level` must be a number; found the string \"hard\""),
        "{error}"
    );
}

#[test]
fn filters_and_limits_choose_rows() {
    let folder = published();
    let easy =
        DataFormula { nodes: vec![DataNode::FieldIs { field: "level".to_owned(), text: "easy".to_owned() }] };
    let source = DataSource { filter: Some(easy.clone()), limit: Some(3), ..published_source() };
    let data = Dataset::read(folder.path(), request(&source, &PromptFormat::Text, ANSWER)).unwrap();
    let answers: Vec<&str> = (0..data.len()).map(|row| data.text(row, "answer").unwrap()).collect();
    assert_eq!(answers, ["1", "4", "16"]);
    // The third row read is the fifth of its file.
    assert_eq!(data.place(2).1, RowPlace::Row(5));

    let late = DataSource { filter: Some(greater("answer", 20.0)), ..published_source() };
    let data = Dataset::read(folder.path(), request(&late, &PromptFormat::Text, ANSWER)).unwrap();
    assert_eq!((data.len(), data.text(0, "answer")), (2, Some("25")));
    assert_eq!(data.place(0).1, RowPlace::Row(1));

    let none = DataSource { filter: Some(greater("answer", 99.0)), ..published_source() };
    let error = Dataset::read(folder.path(), request(&none, &PromptFormat::Text, ANSWER)).unwrap_err();
    assert!(error.to_string().ends_with(": the filter holds in none of its 7 rows"), "{error}");
    let wrong = DataSource { filter: Some(greater("level", 1.0)), ..published_source() };
    let error = Dataset::read(folder.path(), request(&wrong, &PromptFormat::Text, ANSWER)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("the field `level` must be a number or a bool; found the string \"hard\""),
        "{error}"
    );
}

/// A reward gets the same row in whatever order the columns are written.
#[test]
fn columns_change_places_in_whole_rows() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rows.jsonl"), r#"{"question": "q", "answer": "a"}"#).unwrap();
    let (answer, prompt) = (column("answer", "question"), column("prompt", "answer"));
    for columns in [vec![answer.clone(), prompt.clone()], vec![prompt, answer]] {
        let source = DataSource { columns, ..DataSource::file("rows.jsonl") };
        let data = Dataset::read(folder.path(), request(&source, &PromptFormat::Text, ANSWER)).unwrap();
        assert_eq!((data.prompt(0), data.text(0, "answer")), ("a", Some("q")));
        assert_eq!(
            serde_json::Value::from(data.object(0)),
            serde_json::json!({"prompt": "a", "answer": "q"})
        );
    }
}

/// A row takes the first arm whose condition holds, by fields that may have columns of other names. Rows that
/// a filter leaves out are not evaluated.
#[test]
fn a_route_is_decided_row_by_row() {
    let folder = published();
    let easy = DataFormula {
        nodes: vec![DataNode::FieldIs { field: "difficulty".to_owned(), text: "easy".to_owned() }],
    };
    let columns =
        vec![column("prompt", "question"), column("answer", "final_answer"), column("difficulty", "level")];
    let source = DataSource { columns, filter: Some(greater("answer", 0.5)), ..published_source() };
    let routes = [vec![greater("answer", 20.0), easy.clone()], vec![easy]];
    let request = DatasetRequest { routes: &routes, ..request(&source, &PromptFormat::Text, ANSWER) };
    let data = Dataset::read(folder.path(), request).unwrap();
    let answers: Vec<&str> = (0..data.len()).map(|row| data.text(row, "answer").unwrap()).collect();
    assert_eq!(answers, ["1", "4", "9", "16", "25", "36"]);
    assert_eq!(data.arms(&routes[0]), Some([1, 1, 2, 1, 0, 0].as_slice()));
    assert_eq!(data.arms(&routes[1]), Some([0, 0, 1, 0, 0, 1].as_slice()));
    assert_eq!(data.arms(&routes[0][..1]), None);
}

/// The fields that an objective reads must exist in every row and be numbers.
#[test]
fn numbers_are_kept_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let row = |level: &str| format!(r#"{{"prompt": "a", "answer": "1", "level": {level}, "kind": "proof"}}"#);
    let field = |field: &str| DataFormula { nodes: vec![DataNode::Field { field: field.to_owned() }] };
    let proof = DataNode::FieldIs { field: "kind".to_owned(), text: "proof".to_owned() };
    let numbers = [field("level"), DataFormula { nodes: vec![proof] }];
    let read = |lines: &[String], numbers: &[DataFormula]| {
        fs::write(folder.path().join("rows.jsonl"), lines.join("\n")).unwrap();
        let source = DataSource::file("rows.jsonl");
        let request = DatasetRequest { numbers, ..request(&source, &PromptFormat::Text, ANSWER) };
        Dataset::read(folder.path(), request).map_err(|error| error.to_string())
    };
    let rows = ["2", "\"0.5\"", "true", "-1e3"].map(row);
    let data = read(&rows, &numbers).unwrap();
    assert_eq!(data.numbers(&numbers[0]), Some([2.0, 0.5, 1.0, -1000.0].as_slice()));
    assert_eq!(data.numbers(&numbers[1]), Some([1.0; 4].as_slice()));
    assert_eq!(data.numbers(&field("answer")), None, "nobody asked for it");
    for (wrong, what) in [("null", "null"), ("\"hard\"", "the string \"hard\"")] {
        let error = read(&[row("1"), row(wrong)], &numbers).unwrap_err();
        let expected = format!("rows.jsonl:2: the field `level` must be a number or a bool; found {what}");
        assert!(error.ends_with(&expected), "{error}");
    }
    let error = read(&rows, &[field("levle")]).unwrap_err();
    assert!(error.contains("rows.jsonl:1: the field `levle` is missing"), "{error}");
}

/// A filter leaves out rows without its field; a route reports them, as no teacher would follow.
#[test]
fn a_route_needs_what_it_reads() {
    let lines = [
        r#"{"prompt": "a", "answer": "1", "level": 4}"#,
        r#"{"prompt": "b", "answer": "2", "level": null}"#,
        r#"{"prompt": "c", "answer": "3"}"#,
    ];
    let read = |count: usize, routes: &[Vec<DataFormula>]| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rows.jsonl"), lines[..count].join("\n")).unwrap();
        let source = DataSource::file("rows.jsonl");
        let request = DatasetRequest { routes, ..request(&source, &PromptFormat::Text, ANSWER) };
        let arms = Dataset::read(folder.path(), request).map(|data| data.arms(&routes[0]).unwrap().to_vec());
        arms.map_err(|error| error.to_string().rsplit('/').next().unwrap().to_owned())
    };
    let route = [vec![greater("level", 3.0)]];
    assert_eq!(read(1, &route), Ok(vec![0]));
    let null = "rows.jsonl:2: the field `level` must be a number or a bool; found null";
    assert_eq!(read(2, &route), Err(null.to_owned()));
    let text = [vec![DataFormula {
        nodes: vec![DataNode::FieldIs { field: "level".to_owned(), text: "4".to_owned() }],
    }]];
    assert_eq!(
        read(2, &text),
        Err("rows.jsonl:2: the field `level` must be a string; found null".to_owned())
    );
    // A row that an earlier arm takes needs no field of a later arm.
    let answered = [vec![greater("answer", 1.5), greater("level", 3.0)]];
    assert_eq!(read(3, &answered), Ok(vec![1, 0, 0]));
    let missing = [vec![greater("answer", 2.5), greater("level", 3.0)]];
    assert_eq!(read(3, &missing), Err(null.to_owned()));
    let absent = [vec![greater("levle", 3.0)]];
    let error = "rows.jsonl:1: the field `levle` is missing; found `prompt`, `answer`, `level`";
    assert_eq!(read(1, &absent), Err(error.to_owned()));
}

#[test]
fn the_hash_of_a_large_file_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.parquet");
    // Random numbers, so that the file can't be compressed.
    let number = |row: u64| (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_string();
    let pair = |row: u64| Pair { prompt: number(row), answer: number(row) };
    let rows: Vec<Pair> = (0..100_000).map(pair).collect();
    write(&path, &[table!(&rows; prompt, answer)]);
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    let source = DataSource::file("large.parquet");
    let notes = folder.path().join("notes");
    let request =
        DatasetRequest { notes: Some(&notes), whole: false, ..request(&source, &PromptFormat::Text, ANSWER) };
    let expected = blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string();
    for _ in 0..2 {
        assert_eq!(Dataset::read(folder.path(), request).unwrap().hash, expected);
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 1);
    }
}

#[test]
fn the_hash_covers_all_that_decides_what_is_read() {
    let folder = published();
    let hash = |source: &DataSource| {
        Dataset::read(folder.path(), request(source, &PromptFormat::Text, ANSWER)).unwrap().hash
    };
    let whole = published_source();
    let limited = DataSource { limit: Some(3), ..published_source() };
    let filtered = DataSource { filter: Some(greater("answer", 3.0)), ..published_source() };
    let hashes = [hash(&whole), hash(&limited), hash(&filtered)];
    assert_ne!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
    assert_eq!(hashes[0], hash(&published_source()));
    let other = Question { question: "new".to_owned(), final_answer: 1, level: "easy", score: 0.5 };
    write(&folder.path().join("data/train-00001-of-00002.parquet"), &questions(&[other]));
    assert_ne!(hash(&whole), hashes[0]);
}

#[test]
fn cells_are_text_with_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("questions.csv");
    fs::write(&path, "prompt,answer,note\r\n\"two,\nlines\",007,\"a \"\"b\"\"\"\r\n\r\nplain,é,\r\n")
        .unwrap();
    let data = read(&path, ANSWER).unwrap();
    assert_eq!((data.prompt(0), data.text(0, "answer")), ("two,\nlines", Some("007")));
    assert_eq!((data.place(0).1, data.place(1).1), (RowPlace::Line(2), RowPlace::Line(5)));
    assert_eq!(data.object(1)["note"], "");
    assert_eq!(data.hash, blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string());
    let cases = [
        ("prompt,answer\na,b,c\n", ":2: the row has 3 cells, the header 2"),
        ("prompt,answer\na,\"b\n", ":2: a quote is opened and never closed"),
        ("prompt,prompt\na,b\n", ":1: two columns have the name `prompt`"),
        ("prompt,answer\n", ": the file has no lines"),
        ("", ": the file has no lines"),
        (
            "prompt,a,b\r1,4,x\r2,4,y\r",
            ": its lines end with a carriage return (CR) alone, without a line feed",
        ),
        ("question,answer\na,b\n", ":2: the field `prompt` is missing; found `question`, `answer`"),
    ];
    for (content, wanted) in cases {
        fs::write(&path, content).unwrap();
        let (problem, help) = complaint(&path, ANSWER);
        assert_eq!(problem, wanted, "{content:?}");
        assert!(!help.contains("JSON"), "{help}");
    }
}

#[test]
fn malformed_tables_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.parquet");
    let row = || Pair { prompt: "a".to_owned(), answer: "b".to_owned() };
    let rows: Vec<Pair> = (0..50).map(|_| row()).collect();
    write(&path, &rows.chunks(2).map(|rows| table!(rows; prompt, answer)).collect::<Vec<_>>());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "{\"prompt\": \"a\"}\n").unwrap();
    assert_eq!(
        complaint(&path, ANSWER).0,
        ": not a parquet file that can be read: it does not begin with PAR1"
    );
    for length in [4, 8, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(complaint(&path, ANSWER).0.contains("not a parquet file"), "{length}");
    }
    fs::write(&path, b"\x1F\x8B\x08\x00rest").unwrap();
    let error = read(&path, ANSWER).unwrap_err();
    assert!(error.to_string().contains("not a parquet file"), "{error}");
    let packed = folder.path().join("train.jsonl.zst");
    fs::write(&packed, b"\x28\xB5\x2F\xFDrest").unwrap();
    assert_eq!(
        complaint(&packed, ANSWER),
        (
            ": the file is compressed".to_owned(),
            "unpack it first, or save it as parquet, which is compressed by itself".to_owned()
        )
    );
}

/// A row with a list of two structs and a text, encoded level by level as other programs do.
fn messages() -> Vec<u8> {
    let schema = parse_message_type(
        "message table {
           optional group messages (LIST) { repeated group list { optional group element {
             optional binary role (STRING); optional binary content (STRING); optional binary name (STRING);
           } } }
           optional binary answer (STRING);
         }",
    )
    .unwrap();
    let mut bytes = Vec::new();
    let mut file =
        SerializedFileWriter::new(&mut bytes, schema.into(), WriterProperties::builder().build().into())
            .unwrap();
    let mut rows = file.next_row_group().unwrap();
    let mut column = |values: &[&str], defined: &[i16], repeated: Option<&[i16]>| {
        let mut column = rows.next_column().unwrap().unwrap();
        let ColumnWriter::ByteArrayColumnWriter(writer) = column.untyped() else { panic!("texts") };
        let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
        writer.write_batch(&values, Some(defined), repeated).unwrap();
        column.close().unwrap();
    };
    column(&["user", "assistant"], &[4, 4], Some(&[0, 1]));
    column(&["Go", "1"], &[4, 4], Some(&[0, 1]));
    column(&["ann"], &[4, 3], Some(&[0, 1]));
    column(&["1"], &[1], None);
    rows.close().unwrap();
    file.close().unwrap();
    bytes
}

#[test]
fn conversations_come_from_lines_and_from_tables() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("talk.jsonl");
    let talk = json!({"messages": [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "1", "tool_calls": null},
    ], "tools": [{"type": "function", "function": {"name": "add"}}], "answer": "1"});
    fs::write(&lines, format!("{talk}\n{}\n", json!({"prompt": "plain", "answer": "x"}))).unwrap();
    let table = folder.path().join("talk.parquet");
    fs::write(&table, messages()).unwrap();

    for (path, roles, tools) in [
        (&lines, vec![ChatRole::System, ChatRole::User, ChatRole::Assistant], true),
        (&table, vec![ChatRole::User, ChatRole::Assistant], false),
    ] {
        let source = DataSource::file(path.to_str().unwrap());
        let data = Dataset::read(Path::new("."), request(&source, &CHAT, ANSWER)).unwrap();
        let conversation = data.conversation(0).unwrap();
        assert_eq!(conversation.roles().collect::<Vec<_>>(), roles);
        assert_eq!(conversation.has_tools(), tools);
        assert_eq!(conversation.asked().roles().last(), Some(ChatRole::User));
        assert_eq!(data.prompt(0), "Go");
        // With plain-text prompts, a list of messages is an error.
        let error = Dataset::read(Path::new("."), request(&source, &PromptFormat::Text, ANSWER)).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("the field `messages` is a list of messages, but prompts are plain text"),
            "{error}"
        );
        assert_eq!(error.help(), "write `format = chat` in the domain");
    }
    let source = DataSource::file(lines.to_str().unwrap());
    let system = PromptFormat::Chat { system: Some("Be brief.".to_owned()) };
    let data = Dataset::read(Path::new("."), request(&source, &system, ANSWER)).unwrap();
    assert_eq!(data.conversation(0).unwrap().roles().len(), 3);
    assert_eq!(data.conversation(1).unwrap().roles().collect::<Vec<_>>(), [ChatRole::System, ChatRole::User]);
}

#[test]
fn malformed_conversations_are_errors_that_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.jsonl");
    let cases = [
        (json!([]), "the conversation has no messages"),
        (json!([1]), "message 1 must be an object; found the number 1"),
        (json!([{"content": "x"}]), "message 1 has no `role`"),
        (json!([{"role": 1, "content": "x"}]), "message 1 has a `role` that is not a string: the number 1"),
        (
            json!([{"role": "user", "content": "x"}, {"role": "asistant", "content": "y"}]),
            "message 2 has the role \"asistant\", not one of `system`, `developer`, `user`, `assistant`, \
             `tool`; did you mean `assistant`?",
        ),
        (
            json!([{"role": "user", "content": 7}]),
            "message 1 has a `content` that is neither a string nor a list: the number 7",
        ),
        (json!([{"role": "user"}]), "message 1 has no `content`"),
    ];
    for (messages, wanted) in cases {
        fs::write(&path, json!({"messages": messages}).to_string()).unwrap();
        let source = DataSource::file(path.to_str().unwrap());
        let error = Dataset::read(Path::new("."), request(&source, &CHAT, &[])).unwrap_err();
        assert_eq!(error.to_string(), format!("{}:1: {wanted}", path.display()));
    }
}
