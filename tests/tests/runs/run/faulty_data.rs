//! What a run refuses of its data before its first step, `mopd check` refuses, and names the same field:
//! faults of every reader of a field, in every format.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::text;

/// What reads a field, as a program: `F` is the field, `D` the file of prompts.
const READERS: [(&str, &str); 11] = [
    ("target", "model tuned = sft(base, on: domains) { target = F, steps = 1, batch = 2, lr = 1e-3 }"),
    (
        "reward",
        "model tuned = grpo(base, on: domains) { steps = 1, prompts = 2, samples = 2, max_tokens = 4, lr = 1e-3 }",
    ),
    (
        "numeric",
        "model tuned = grpo(base, on: domains) { steps = 1, prompts = 2, samples = 2, max_tokens = 4, lr = 1e-3 }",
    ),
    (
        "signal",
        "objective own {\n term pull = live kl(student || teacher)\n weight = data.F\n reduce = mean(token) then \
         mean(sequence)\n}",
    ),
    ("route", ""),
    ("filter", "model tuned = sft(base, on: domains) { target = prompt, steps = 1, batch = 2, lr = 1e-3 }"),
    ("template", "template hinted = \"{prompt} {F}\""),
    (
        "validation",
        "model tuned = sft(base, on: domains) { target = prompt, steps = 1, batch = 2, lr = 1e-3, validate = \
         validate(target: F, every: 1 steps) }",
    ),
    ("tests", "model tuned = sft(base, on: domains) { target = prompt, steps = 1, batch = 2, lr = 1e-3 }"),
    ("data", ""),
    ("columns", "model tuned = sft(base, on: domains) { target = G, steps = 1, batch = 2, lr = 1e-3 }"),
];

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// No row has the field, but one with a similar name.
    Missing,
    /// The last row's field is no text and no number.
    WrongType,
    /// There is no file.
    NoFile,
    /// The path is a folder without data.
    Folder,
    Empty,
    /// The last line can't be parsed.
    Torn,
    /// There are no prompts.
    NoPrompt,
}

const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::Missing,
    Fault::WrongType,
    Fault::NoFile,
    Fault::Folder,
    Fault::Empty,
    Fault::Torn,
    Fault::NoPrompt,
];

const FORMATS: [&str; 3] = ["jsonl", "csv", "parquet"];
const FIELD: &str = "level";
const SIMILAR: &str = "levle";

/// The rows of a file, as text by column. A field of the wrong type is a list where the format has lists.
fn write(folder: &Path, name: &str, format: &str, field: &str, fault: Fault) {
    let path = folder.join(format!("{name}.{format}"));
    let prompt = if fault == Fault::NoPrompt { "question" } else { "prompt" };
    match fault {
        Fault::NoFile => return,
        Fault::Folder => return fs::create_dir(path).expect("a folder"),
        Fault::Empty => return fs::write(path, "").expect("a file"),
        _ => {}
    }
    let rows = ["1", "2", "3", "4"];
    let last = |row: &str| row == "4";
    match format {
        "jsonl" => {
            let line = |row: &&str| match fault {
                Fault::WrongType if last(row) => {
                    format!("{{\"{prompt}\": \"a{row}\", \"{field}\": [\"{row}\"]}}\n")
                }
                Fault::Torn if last(row) => format!("{{\"{prompt}\": \"a{row}\", \"{field}\": \"{row}\n"),
                _ => format!("{{\"{prompt}\": \"a{row}\", \"{field}\": \"{row}\"}}\n"),
            };
            fs::write(path, rows.iter().map(line).collect::<String>()).expect("a file");
        }
        "csv" => {
            let line = |row: &&str| match fault {
                // Cells are text, so what is no number is the wrong type of a number only.
                Fault::WrongType if last(row) => format!("a{row},many\n"),
                Fault::Torn if last(row) => format!("a{row},\"{row}\n"),
                _ => format!("a{row},{row}\n"),
            };
            let lines: String = rows.iter().map(line).collect();
            fs::write(path, format!("{prompt},{field}\n{lines}")).expect("a file");
        }
        _ => {
            let text = if fault == Fault::WrongType { "" } else { " (UTF8)" };
            let schema =
                format!("message rows {{ required binary {prompt} (UTF8); required binary {field}{text}; }}");
            let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
            let file = fs::File::create(&path).expect("a file");
            let mut writer =
                SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build()))
                    .expect("a writer");
            let mut group = writer.next_row_group().expect("a group");
            for before in ["a", ""] {
                let mut column = group.next_column().expect("a column").expect("two columns");
                let ColumnWriter::ByteArrayColumnWriter(typed) = column.untyped() else { unreachable!() };
                let values: Vec<ByteArray> =
                    rows.iter().map(|row| ByteArray::from(format!("{before}{row}").as_str())).collect();
                typed.write_batch(&values, None, None).expect("values");
                column.close().expect("a column");
            }
            group.close().expect("a group");
            writer.close().expect("a file");
            if fault == Fault::Torn {
                let bytes = fs::read(&path).expect("the file");
                fs::write(&path, &bytes[..bytes.len() - 9]).expect("a file");
            }
        }
    }
}

/// A program with one reader, and its data.
fn place(reader: usize, fault: Fault, format: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let (kind, item) = READERS[reader];
    let field = if fault == Fault::Missing { SIMILAR } else { FIELD };
    // The faulty file is the one that the reader reads.
    let faulty = match kind {
        "tests" => "tests",
        "validation" => "more",
        _ => "rows",
    };
    for name in ["rows", "tests", "more"] {
        let (field, fault) = if name == faulty { (field, fault) } else { (FIELD, Fault::None) };
        write(folder.path(), name, format, field, fault);
    }
    let prompts = match kind {
        "filter" => format!("dataset(\"rows.{format}\", filter: data.{FIELD} >= 1)"),
        _ => format!("\"rows.{format}\""),
    };
    let reward = match kind {
        "reward" => format!("exact_match({FIELD})"),
        "numeric" => format!("numeric({FIELD}, tolerance: 0.1)"),
        "tests" => format!("exact_match({FIELD})"),
        // Nothing judges with it.
        _ => "exact_match(prompt)".to_owned(),
    };
    let more = match kind {
        "validation" => format!(", validation = \"more.{format}\""),
        "columns" => format!(", fields = columns(wanted: {FIELD})"),
        _ => String::new(),
    };
    let (objective, sees, route, rollout) = match kind {
        "signal" => {
            ("own", "", "else -> big".to_owned(), "sample(n: 1, temperature: 1, max_tokens: 4)".to_owned())
        }
        "route" => (
            "plain",
            "",
            format!("data.{FIELD} > 2 -> big\n else -> big"),
            "sample(n: 1, temperature: 1, max_tokens: 4)".to_owned(),
        ),
        "template" => (
            "plain",
            " sees = hinted,",
            "else -> big".to_owned(),
            "sample(n: 1, temperature: 1, max_tokens: 4)".to_owned(),
        ),
        _ => ("plain", "", "else -> big".to_owned(), format!("data({FIELD})")),
    };
    let mut program = format!(
        "experiment \"faulty\" {{ seed = 1 }}\n\
         domain words {{ prompts = {prompts}, tests = \"tests.{format}\", reward = {reward}{more} }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n"
    );
    let item = item.replace(" G", " wanted");
    program += &item.replace("{F}", &format!("{{{FIELD}}}")).replace("= F", &format!("= {FIELD}"));
    program =
        program.replace("data.F", &format!("data.{FIELD}")).replace("target: F", &format!("target: {FIELD}"));
    if ["signal", "route", "template", "data"].contains(&kind) {
        program += &format!(
            "\nobjective plain {{\n term pull = live kl(student || teacher)\n reduce = mean(token) then \
             mean(sequence)\n}}\n\
             model other = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
             teacher big = other {{{sees} origin = foreign }}\n\
             route {{ {route} }}\n\
             model tuned = distill(base) {{ objective = {objective}, rollout = {rollout}, prompts = 2, steps = 1, \
             lr = 1e-3 }}\n"
        );
    }
    if kind == "tests" {
        program += "\ncompare \"table\" { models = [base, tuned], samples = 1, temperature = 1, max_tokens = 4, \
                    seeds = 1 }\n";
    }
    fs::write(folder.path().join("a.mopd"), program).expect("a program");
    folder
}

fn mopd(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command.output().expect("mopd starts")
}

/// Compares `check` with `run` on each of these programs. Returns how many of them a run refuses.
fn compare(cases: impl Iterator<Item = (usize, Fault, &'static str)>) -> (usize, usize) {
    let (mut all, mut refused, mut wrong) = (0, 0, String::new());
    for (reader, fault, format) in cases {
        let folder = place(reader, fault, format);
        let name = format!("{}, {fault:?}, {format}", READERS[reader].0);
        let check = mopd(folder.path(), &["check", "a.mopd"]);
        let run = mopd(folder.path(), &["run", "a.mopd", "--predict", "never", "--format", "json"]);
        let stepped = text(&run).contains("\"event\":\"step\"");
        let (checked, ran) = (check.status.success(), run.status.success() || stepped);
        assert!(ran || fault != Fault::None, "{name}: {}", text(&run));
        all += 1;
        refused += usize::from(!ran);
        if checked != ran {
            let program = fs::read_to_string(folder.path().join("a.mopd")).expect("a program");
            wrong += &format!("{name}: {program}\ncheck:\n{}run:\n{}\n", text(&check), text(&run));
        }
        if fault == Fault::Missing && !checked {
            let said = text(&check);
            assert!(said.contains(SIMILAR) && said.contains(FIELD), "{name}: {said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    (all, refused)
}

fn cases() -> impl Iterator<Item = (usize, Fault, &'static str)> {
    let of =
        |reader| FAULTS.into_iter().flat_map(move |fault| FORMATS.map(move |format| (reader, fault, format)));
    (0..READERS.len()).flat_map(of)
}

/// A few of them; the next test has all.
#[test]
fn what_a_run_refuses_of_its_data_check_refuses() {
    // One of every eleven, so that each reader, fault and format is among them.
    let (all, refused) = compare(cases().step_by(11));
    assert!(all >= 20 && refused >= 10, "{refused} of {all}");
}

#[test]
#[ignore = "264 runs take minutes"]
fn whatever_a_run_refuses_of_its_data_check_refuses() {
    let (all, refused) = compare(cases());
    println!("{all} programs: a run refuses {refused}, and `check` the same");
    assert!(all >= 200 && refused >= 150, "{refused} of {all}");
}
