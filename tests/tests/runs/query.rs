//! `mopd query`: the questions of its page over real runs, with polars in a Python.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use mopd_tests::{root, skipped};
use serde_json::Value;
use tempfile::TempDir;

use super::sweep::{SOURCE, folder, read, run, said};

/// A Python with polars: the one in MOPD_POLARS, which `./x test` sets, or the one on the PATH.
fn python() -> Option<String> {
    let named = std::env::var("MOPD_POLARS").ok().filter(|python| !python.is_empty());
    let python = named.unwrap_or_else(|| "python3".to_owned());
    let has = Command::new(&python)
        .args(["-c", "import polars"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has {
        skipped("no Python with polars: no query is answered; MOPD_POLARS names one");
    }
    has.then_some(python)
}

/// A sweep of four runs, shared by all tests that only read it.
fn shared() -> &'static Path {
    static SHARED: OnceLock<TempDir> = OnceLock::new();
    let place = SHARED.get_or_init(|| {
        let place = folder(SOURCE);
        let output = run(place.path(), &[]);
        assert!(output.status.success(), "{}", said(&output));
        place
    });
    place.path()
}

fn query(python: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(shared()).args(["query", "--python", python]).args(arguments);
    command.stdin(Stdio::null()).output().expect("mopd starts")
}

#[track_caller]
fn rows(python: &str, sql: &str, runs: &[&str]) -> Vec<Value> {
    let output = query(python, &[&["--format", "json", sql], runs].concat());
    assert!(output.status.success(), "{sql}: {}", said(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_questions_of_the_page_have_answers() {
    let Some(python) = python() else { return };
    let page = fs::read_to_string(root().join("book/src/query.md")).expect("the page");
    let questions: Vec<&str> = page
        .split("\n```sql\n")
        .skip(1)
        .map(|rest| rest.split("\n```\n").next().expect("a fence ends"))
        .collect();
    assert_eq!(questions.len(), 10);
    let answers: Vec<Vec<Value>> = questions.iter().map(|sql| rows(&python, sql, &["out"])).collect();
    // The best student is that of the results.
    let of_run = |rate: &Value, bound: &Value| {
        let folder =
            format!("out/rate={},bound={}", rate.as_f64().expect("a rate"), bound.as_f64().expect("a bound"));
        read(&shared().join(folder).join("results.json"))
    };
    assert_eq!(answers[0].len(), 4);
    for row in &answers[0] {
        let score = &of_run(&row["rate"], &row["bound"])["tables"][0]["rows"][2]["scores"]["copy"];
        assert_eq!(
            (&row["mean"], &row["low"], &row["high"]),
            (&score["mean"], &score["low"], &score["high"])
        );
    }
    let runs: Vec<&Value> = answers[1].iter().map(|row| &row["runs"]).collect();
    assert_eq!(runs, [2, 2]);
    let rates: Vec<&Value> = answers[2].iter().map(|row| &row["start.lr"]).collect();
    assert_eq!(
        (rates, &answers[2][0]["student.steps"]),
        (vec![&0.001.into(), &0.001.into(), &0.003.into(), &0.003.into()], &3.into())
    );
    assert!(answers[3].len() == 4 && answers[3].iter().all(|row| row["finished"] == true));
    // Three stages train in each run.
    assert_eq!((answers[4].len(), answers[5].len()), (10, 3));
    let counted: u64 = answers[7].iter().map(|row| row["answers"].as_u64().expect("a number")).sum();
    assert_eq!(counted, 4 * 3 * 8, "runs, rows and prompts");
    assert_eq!(answers[9].len(), 10);
}

#[test]
fn formats_have_the_same_rows() {
    let Some(python) = python() else { return };
    let sql = "select run, \"table\", model, domain, mean from tables order by run, model";
    let text = |format: &[&str]| {
        let output = query(&python, &[format, &[sql, "out"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let (human, csv) = (text(&[]), text(&["--format", "csv"]));
    assert!(human.starts_with("| run ") && human.lines().count() == 2 + 12, "{human}");
    assert!(
        csv.starts_with("run,table,model,domain,mean\n\"out/rate=0.001,bound=1\",t,other,copy,"),
        "{csv}"
    );
    assert_eq!((csv.lines().count(), rows(&python, sql, &["out"]).len()), (13, 12));
    assert_eq!(text(&["--format", "parquet", "--output", "scores.parquet"]), "");
    let file = fs::read(shared().join("scores.parquet")).expect("a file");
    assert!(file.starts_with(b"PAR1"));
    // One run by itself, and two of them.
    let count = |runs: &[&str]| rows(&python, "select count(*) as n from runs", runs)[0]["n"].clone();
    assert_eq!(
        (count(&["out/rate=0.001,bound=1"]), count(&["out/rate=0.001,bound=1", "out/rate=0.003,bound=5"])),
        (1.into(), 2.into())
    );
}

/// Also of a run without files, all tables have their columns, and these are those of real files.
#[test]
fn a_run_without_files_has_empty_tables() {
    let Some(python) = python() else { return };
    let bare = shared().join("bare");
    fs::create_dir_all(&bare).expect("a folder");
    for file in ["plan.json", "source.mopd"] {
        fs::copy(shared().join("out/rate=0.001,bound=1").join(file), bare.join(file)).expect("copying");
    }
    for (table, column) in [
        ("metrics", "loss"),
        ("samples", "teacher_logp"),
        ("answers", "feedback"),
        ("rewards", "correct"),
        ("tables", "mean"),
    ] {
        let output =
            query(&python, &["--format", "csv", &format!("select run, {column} from {table}"), "bare"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("run,{column}\n"), "{}", said(&output));
    }
    assert_eq!(rows(&python, "select finished from runs", &["bare"])[0]["finished"], false);
    let script = "import sys, polars as pl
sys.path.insert(0, sys.argv[1])
import _query
for name, columns in _query.FILES.items():
    found = pl.read_parquet_schema(f'out/rate=0.001,bound=1/{name}.parquet')
    for column, kind in columns.items():
        assert found[column] == getattr(pl, kind), (name, column, found[column])";
    let mut checked = Command::new(&python);
    checked.current_dir(shared()).env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", script]);
    let output = checked.arg(root().join("tools/python/mopd")).output().expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_query_reads_only_the_runs_and_says_what_is_wrong() {
    let Some(python) = python() else { return };
    let refused = |sql: &str, word: &str| {
        let output = query(&python, &[sql, "out"]);
        assert_eq!(output.status.code(), Some(2), "{sql}: {}", said(&output));
        assert!(said(&output).contains(word), "{sql}: no `{word}` in {}", said(&output));
    };
    for call in [
        "read_csv('copy.jsonl')",
        "READ_JSON ('copy.jsonl')",
        "\"read_ndjson\"('copy.jsonl')",
        "`read_csv`/* */('copy.jsonl')",
        "read_parquet -- '\n('scores.parquet')",
    ] {
        refused(&format!("select * from {call}"), "reads other files");
        refused(&format!("with it as (select * from {call}) select * from it"), "reads other files");
    }
    assert_eq!(
        rows(&python, "select 'read_csv(x)' as text from runs", &["out"]).len(),
        4,
        "a text is no call"
    );
    refused("select * from 'copy.jsonl'", "copy.jsonl");
    refused("select nothing from runs", "unable to find column \"nothing\"");
    refused("select * from nowhere", "relation 'nowhere' was not found");
    refused("selec", "sql parser error");
    let broken = shared().join("broken");
    fs::create_dir_all(&broken).expect("a folder");
    for file in ["plan.json", "source.mopd"] {
        fs::copy(shared().join("out/rate=0.001,bound=1").join(file), broken.join(file)).expect("copying");
    }
    fs::write(broken.join("metrics.parquet"), "PAR1").expect("a file");
    let output = query(&python, &["select * from metrics", "broken"]);
    assert!(
        output.status.code() == Some(2) && said(&output).contains("can't read broken/metrics.parquet"),
        "{}",
        said(&output)
    );
}

/// Without polars, and without Python, there is a way out.
#[test]
fn a_python_without_polars_is_named() {
    let stub = shared().join("python-without");
    fs::write(&stub, "#!/bin/sh\ncat >/dev/null\nexit 3\n").expect("a program");
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("executable");
    for (python, word) in [("./python-without", "has no polars"), ("./nowhere", "can't start `./nowhere`")] {
        let output = query(python, &["select * from runs", "out"]);
        assert_eq!(output.status.code(), Some(2));
        let said = said(&output);
        assert!(
            said.contains("error[no-polars]")
                && said.contains(word)
                && said.contains("pip install 'mopd[query]'"),
            "{said}"
        );
    }
    let old = shared().join("python-old");
    fs::write(&old, "#!/bin/sh\ncat >/dev/null\necho polars 1.32.0 >&2\nexit 3\n").expect("a program");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("executable");
    let output = query("./python-old", &["select * from runs", "out"]);
    assert!(said(&output).contains("has polars 1.32.0, and queries need 2.1 or newer"), "{}", said(&output));
    let output = query("./python-without", &["select * from runs", "nowhere"]);
    assert!(said(&output).contains("nowhere is not a run"), "{}", said(&output));
    let output = query("./python-without", &["select * from runs", "out", "--format", "parquet"]);
    assert!(said(&output).contains("--out <FILE>"), "{}", said(&output));
}

/// From Python, a question has a frame as its answer.
#[test]
fn a_question_from_python_has_a_frame() {
    let Some(python) = python() else { return };
    let script = "import mopd
frame = mopd.load('out').query('select run, mean from tables where model = \\'student\\' order by run')
assert frame.shape == (4, 2) and frame.columns == ['run', 'mean'], frame
one = mopd.query('select count(*) as n from runs', 'out/rate=0.001,bound=1')
assert one['n'].to_list() == [1], one
try:
    mopd.query('select nothing from runs', ['out'])
    raise SystemExit('it was answered')
except mopd.Error as error:
    assert 'unable to find column' in str(error), error";
    let mut command = Command::new(&python);
    command
        .current_dir(shared())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", root().join("tools/python"));
    command.env("MOPD_BIN", std::path::absolute(mopd_tests::mopd()).expect("a path"));
    let output = command.args(["-c", script]).output().expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
}
