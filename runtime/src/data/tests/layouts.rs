//! Rows in the layouts of other tools, and what is said of columns that nothing reads.

use mopd_plan::{DataFormula, FieldColumn};

use super::*;

const CHAT: PromptFormat = PromptFormat::Chat { system: None };

fn column(field: &str, column: &str) -> FieldColumn {
    FieldColumn { field: field.to_owned(), column: column.to_owned(), pattern: None }
}

/// Reads a file of the name.
fn read_as(
    name: &str,
    content: &[u8],
    format: &PromptFormat,
    columns: &[(&str, &str)],
    fields: &[Field],
) -> Result<Dataset, DataError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    let columns = columns.iter().map(|(field, of)| column(field, of)).collect();
    let source = DataSource { columns, ..DataSource::file(name) };
    let request = DatasetRequest {
        source: &source,
        format,
        fields,
        whole: false,
        routes: &[],
        numbers: &[],
        notes: None,
    };
    Dataset::read(folder.path(), request)
}

/// The problem of a row, and the help.
fn problem(read: Result<Dataset, DataError>) -> (String, String) {
    let error = read.unwrap_err();
    (error.problem.to_string(), error.help())
}

fn texts(data: &Dataset, field: &str) -> Vec<String> {
    (0..data.len()).map(|row| data.text(row, field).unwrap().to_owned()).collect()
}

/// verl keeps the answer in a struct, which a table may have as JSON text.
#[test]
fn a_field_may_be_in_a_struct() {
    let rows = concat!(
        r#"{"prompt": [{"role": "user", "content": "1+2"}], "reward_model": {"style": "rule", "ground_truth": "3"}}"#,
        "\n",
        r#"{"prompt": [{"role": "user", "content": "2+2"}], "reward_model": "{\"ground_truth\": 4}"}"#,
    );
    let nested = [("answer", "reward_model.ground_truth")];
    let data = read_as("rows.jsonl", rows.as_bytes(), &CHAT, &nested, ANSWER).unwrap();
    assert_eq!(texts(&data, "answer"), ["3", "4"]);
    // A column of that very name comes first.
    let row = br#"{"prompt": "a", "b.c": "column", "b": {"c": "member"}}"#;
    let data = read_as("rows.jsonl", row, &PromptFormat::Text, &[("answer", "b.c")], ANSWER).unwrap();
    assert_eq!(texts(&data, "answer"), ["column"]);
    let wrong = [("answer", "reward_model.truth")];
    let (text, help) = problem(read_as("rows.jsonl", rows.as_bytes(), &CHAT, &wrong, ANSWER));
    assert_eq!(
        text,
        "the field `reward_model.truth` is missing; found `prompt`, `reward_model`, `reward_model.style`, \
         `reward_model.ground_truth`"
    );
    assert_eq!(
        help,
        "`fields` of the domain reads `answer` from it: name another column there: prompt, reward_model, \
         reward_model.style, reward_model.ground_truth"
    );
}

#[test]
fn a_list_of_rows_and_a_compressed_file_are_read() {
    let list =
        b"\xEF\xBB\xBF [\n {\"prompt\": \"a\", \"answer\": 1},\n {\"prompt\": \"b\", \"answer\": 2.50}\n]\n";
    let data = read_as("rows.json", list, &PromptFormat::Text, &[], ANSWER).unwrap();
    assert_eq!(texts(&data, "answer"), ["1", "2.50"]);
    assert_eq!(data.place(1).1, RowPlace::Row(2));
    let lines = "{\"prompt\": \"a\", \"answer\": 1}\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, lines.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let data = read_as("rows.jsonl.gz", &packed, &PromptFormat::Text, &[], ANSWER).unwrap();
    assert_eq!(texts(&data, "answer"), ["1"]);
    // It is the same data.
    let plain = read_as("rows.jsonl", lines.as_bytes(), &PromptFormat::Text, &[], ANSWER).unwrap();
    assert_eq!(data.hash, plain.hash);
    for (list, row) in
        [("[{\"prompt\": \"a\", \"answer\": 1} {}]", 1), ("[{\"prompt\": \"a\", \"answer\": 1}", 1)]
    {
        let error = read_as("rows.json", list.as_bytes(), &PromptFormat::Text, &[], ANSWER).unwrap_err();
        assert_eq!(error.place, RowPlace::Row(row), "{list}");
        assert_eq!(
            error.problem.to_string(),
            "the list of rows is not continued here by a comma, or ended by `]`"
        );
    }
    let (text, _) = problem(read_as("rows.json", b"[1]", &PromptFormat::Text, &[], ANSWER));
    assert_eq!(text, "not a JSON object: found the number 1");
}

/// ShareGPT names roles and texts otherwise.
#[test]
fn messages_of_sharegpt_are_messages() {
    let row = br#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    let named = [("messages", "conversations")];
    let data = read_as("rows.jsonl", row, &CHAT, &named, &[Field::text("messages")]);
    let data = data.or_else(|_| read_as("rows.jsonl", row, &CHAT, &named, &[])).unwrap();
    let ours = br#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    let ours = read_as("rows.jsonl", ours, &CHAT, &[], &[]).unwrap();
    let said = |data: &Dataset| data.conversation(0).unwrap().fingerprint();
    assert_eq!(said(&data), said(&ours));
    let calls =
        br#"{"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"}]}"#;
    let (text, _) = problem(read_as("rows.jsonl", calls, &CHAT, &named, &[]));
    assert!(text.starts_with("message 2 has the role \"function_call\", not one of"), "{text}");
}

/// TRL writes both sides of a pair as lists of messages, with the prompt beside them or in them.
#[test]
fn answers_may_be_lists_of_messages() {
    let pair = [Field::text("chosen"), Field::text("rejected")];
    for row in [
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
        r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#,
        r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]}"#,
    ] {
        let data = read_as("rows.jsonl", row.as_bytes(), &CHAT, &[], &pair).unwrap();
        assert_eq!(
            (texts(&data, "chosen"), texts(&data, "rejected")),
            (vec!["a".into()], vec!["b".into()]),
            "{row}"
        );
        assert_eq!(data.prompt(0), "q", "{row}");
        assert_eq!(data.conversation(0).unwrap().roles().len(), 1, "{row}");
    }
    for (row, wanted) in [
        (
            r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "other"}, {"role": "assistant", "content": "b"}]}"#,
            "the field `rejected`: the messages before the answer are not those of the prompt",
        ),
        (
            r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}], "rejected": "b"}"#,
            "the field `chosen`: the last message is not the assistant's",
        ),
        (
            r#"{"prompt": "q", "chosen": [{"role": "assistant", "content": "", "tool_calls": [{}]}], "rejected": "b"}"#,
            "the field `chosen`: the assistant's message has `tool_calls`, which a field of answers can't have; train on \
             `messages` instead",
        ),
    ] {
        let (text, _) = problem(read_as("rows.jsonl", row.as_bytes(), &CHAT, &[], &pair));
        assert_eq!(text, wanted);
    }
    let plain = br#"{"prompt": "q", "answer": [{"role": "assistant", "content": "a"}]}"#;
    let (_, help) = problem(read_as("rows.jsonl", plain, &PromptFormat::Text, &[], ANSWER));
    assert_eq!(
        help,
        "write `answer` as a string or a number; of a list of messages, `format = chat` reads the answer"
    );
}

/// What older versions read otherwise moves the hash; other data keeps its own.
#[test]
fn forms_of_messages_are_in_the_hash() {
    let hash = |answer: &str| {
        let row = format!(r#"{{"messages": [{{"role": "user", "content": "q"}}, {answer}]}}"#);
        let data = read_as("rows.jsonl", row.as_bytes(), &CHAT, &[], &[]).unwrap();
        // As the whole file's.
        data.hash == blake3::hash(format!("{row}\n").as_bytes()).to_hex().to_string()
    };
    let call = |arguments: &str| {
        format!(
            r#"{{"role": "assistant", "content": "", "tool_calls": [{{"type": "function", "function": {{"name": "f", "arguments": {arguments}}}}}]}}"#
        )
    };
    assert!(hash(r#"{"role": "assistant", "content": "a"}"#));
    assert!(hash(r#"{"role": "assistant", "content": "a", "weight": 1}"#));
    assert!(hash(&call("{\"x\": 1}")));
    assert!(hash(&call("\"x\"")), "a text that is no object");
    assert!(!hash(&call(r#""{\"x\": 1}""#)));
    assert!(!hash(r#"{"role": "assistant", "content": "a", "weight": 0}"#));
    assert!(!hash(r#"{"role": "assistant", "content": [{"type": "text", "text": "a"}]}"#));
    let half = br#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]}"#;
    let (text, _) = problem(read_as("rows.jsonl", half, &CHAT, &[], &[]));
    assert_eq!(text, "message 2 has the `weight` 0.5: a message is trained on, 1, or not, 0");
}

#[test]
fn columns_that_nothing_reads_are_said() {
    let found = |row: &str, format: &PromptFormat, columns: &[(&str, &str)], fields: &[Field]| {
        let data = read_as("rows.jsonl", row.as_bytes(), format, columns, fields).unwrap();
        data.warnings.into_iter().map(|found| found.message).collect::<Vec<_>>()
    };
    let alpaca = [("prompt", "instruction"), ("answer", "output")];
    let rows = "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n\
                {\"instruction\": \"sum\", \"input\": \"1 2\", \"output\": \"3\"}";
    assert_eq!(
        found(rows, &PromptFormat::Text, &alpaca, ANSWER),
        ["rows.jsonl: one row has text in the column `input`, the first in line 2, and nothing reads it"]
    );
    let system = r#"{"system": "Be brief.", "prompt": "q"}"#;
    assert_eq!(found(system, &CHAT, &[], &[]).len(), 1);
    assert_eq!(found(r#"{"tools": [{}], "prompt": "q"}"#, &PromptFormat::Text, &[], &[]).len(), 1);
    // Clean rows of many layouts.
    for (row, format, columns, fields) in [
        (
            r#"{"prompt": "a", "answer": "b", "id": 7, "source": "x", "input": "raw"}"#,
            &PromptFormat::Text,
            &[][..],
            ANSWER,
        ),
        (r#"{"instruction": "a", "input": "", "output": "b"}"#, &PromptFormat::Text, &alpaca[..], ANSWER),
        (r#"{"instruction": "a", "input": null, "output": "b"}"#, &PromptFormat::Text, &alpaca[..], ANSWER),
        (r#"{"prompt": "a", "system": "", "tools": null}"#, &CHAT, &[][..], &[][..]),
        (r#"{"prompt": "a", "tools": [{"type": "function"}]}"#, &CHAT, &[][..], &[][..]),
        (r#"{"prompt": "a", "system": "b"}"#, &CHAT, &[][..], &[Field::text("system")][..]),
        (r#"{"question": "a", "system": "b"}"#, &PromptFormat::Text, &[("prompt", "question")][..], &[][..]),
    ] {
        assert_eq!(found(row, format, columns, fields), [""; 0], "{row}");
    }
}

/// Half of a pair of surrogates, as text that was cut in the middle of a character has it.
#[test]
fn half_a_character_is_explained() {
    let row = br#"{"prompt": "hello \ud83d", "answer": "a"}"#;
    let (_, help) = problem(read_as("rows.jsonl", row, &PromptFormat::Text, &[], ANSWER));
    assert!(
        help.starts_with("half of a character: a text was cut between the two parts of a pair"),
        "{help}"
    );
}

#[test]
fn rows_that_repeat_others_are_counted() {
    let rows = |repeats: usize| {
        let distinct = (0..10).map(|row| format!("{{\"prompt\": \"{row}\", \"answer\": \"b\"}}\n"));
        let rows: String =
            distinct.chain(vec!["{\"prompt\": \"3\", \"answer\": \"b\"}\n".to_owned(); repeats]).collect();
        repeated(&load(rows)).map(|found| found.to_string())
    };
    assert_eq!(rows(0), None);
    assert_eq!(rows(1), None, "fewer than a tenth");
    let found = rows(2).unwrap();
    assert!(
        found.contains(": 2 of 12 rows repeat an earlier one, the first in line 11 (line 4): "),
        "{found}"
    );
}

/// Other white space does not make a prompt another one.
#[test]
fn test_prompts_are_compared_by_content() {
    let data = |prompts: &[&str]| {
        load(
            prompts
                .iter()
                .map(|prompt| json!({"prompt": prompt, "answer": ""}).to_string() + "\n")
                .collect::<String>(),
        )
    };
    let train = data(&["What is 2+2?", "Name a cat."]);
    assert_eq!(
        overlap(&train, &data(&["What  is 2+2?\n", "Name a dog."])).map(|found| found.prompts),
        Some(1)
    );
    assert_eq!(overlap(&train, &data(&["What is 2*2?", "NAME A CAT."])), None);
}

/// GSM8K writes the answer behind its solution.
#[test]
fn a_field_may_be_a_part_of_a_column() {
    let folder = tempfile::tempdir().unwrap();
    let read = |rows: &[&str], pattern: &str, filter: Option<DataFormula>, whole: bool| {
        fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
        let answer = FieldColumn { pattern: Some(pattern.to_owned()), ..column("answer", "answer") };
        let columns = vec![column("prompt", "question"), answer, column("solution", "answer")];
        let source = DataSource { columns, filter, ..DataSource::file("rows.jsonl") };
        let field = |name| Field { name, kind: FieldKind::Text };
        let fields = [Field { name: "answer", kind: FieldKind::Number }, field("solution")];
        let request = DatasetRequest {
            source: &source,
            format: &PromptFormat::Text,
            fields: &fields,
            whole,
            routes: &[],
            numbers: &[],
            notes: None,
        };
        Dataset::read(folder.path(), request)
    };
    let first = r#"{"question": "2*36?", "answer": "2*36=72.\n#### 72"}"#;
    let second = r#####"{"question": "1/2 of 8?", "answer": "#### 4"}"#####;
    let none = r#"{"question": "?", "answer": "no number"}"#;
    let data = read(&[first, second], "#### (.*)", None, true).unwrap();
    assert_eq!(texts(&data, "answer"), ["72", "4"]);
    assert_eq!(texts(&data, "solution"), ["2*36=72.\n#### 72", "#### 4"]);
    // A program that reads whole rows sees the same.
    assert_eq!(data.object(0)["answer"], "72");
    assert_eq!(data.object(0)["solution"], "2*36=72.\n#### 72");
    assert_eq!(data.object(0).get("question"), None);
    // Without a group, the whole match; the first match counts.
    let whole = read(&[first, second], "[0-9]+", None, false).unwrap();
    assert_eq!(texts(&whole, "answer"), ["2", "4"]);
    assert_ne!(whole.hash, data.hash);
    let (text, help) = problem(read(&[first, none], "#### (.*)", None, false));
    assert_eq!(text, "the field `answer`: \"#### (.*)\" matches nothing in \"no number\"");
    assert_eq!(help, "change the pattern of `extract`, or leave the row out");
    // A prompt is a part of a column in the same way.
    fs::write(folder.path().join("rows.jsonl"), r#"{"text": "Q: 1+1?"}"#).unwrap();
    let prompts = |pattern: &str| {
        let prompt = FieldColumn { pattern: Some(pattern.to_owned()), ..column("prompt", "text") };
        let source = DataSource { columns: vec![prompt], ..DataSource::file("rows.jsonl") };
        let request = DatasetRequest {
            source: &source,
            format: &PromptFormat::Text,
            fields: &[],
            whole: false,
            routes: &[],
            numbers: &[],
            notes: None,
        };
        Dataset::read(folder.path(), request)
    };
    assert_eq!(prompts("Q: (.*)").unwrap().prompt(0), "1+1?");
    assert!(problem(prompts("P: (.*)")).0.contains("matches nothing in \"Q: 1+1?\""));
    // The extracted text is checked as a column's would be.
    let (text, _) = problem(read(&[first], "(.*)\\n", None, false));
    assert!(text.contains("must be a number"), "{text}");
    // A filter that reads the field leaves out the rows that lack it.
    let positive = DataFormula::of_signal(&mopd_plan::Signal::Data { field: "answer".to_owned() });
    let kept = read(&[none, second], "#### (.*)", positive, false).unwrap();
    assert_eq!(texts(&kept, "answer"), ["4"]);
    // A pattern within the language may still be too large for memory.
    let (text, help) = problem(read(&[first], r"(\w{900}){900}", None, false));
    assert!(text.contains("can't be used") && help.contains("shorter pattern"), "{text}");
}
