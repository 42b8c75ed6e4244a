//! Reruns in a folder that has results: what is shown is always what the text and the data of now give, and
//! nothing that was finished is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::{Bench, assert_says, text};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// A run that is interrupted when the student has done three steps.
fn interrupted(bench: &Bench, arguments: &[&str]) {
    let all = [&["--out", "out", "--format", "json"], arguments].concat();
    let mut child = bench.command(&all).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("\"stage\":\"student\",\"seed\":1,\"step\":3,")),
        "it ended early"
    );
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill starts").success());
    lines.for_each(drop);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

fn mopd(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(arguments).stdin(Stdio::null());
    text(&command.output().expect("mopd starts"))
}

fn why(bench: &Bench) -> String {
    mopd(bench, &["plan", "--why", "tiny.mopd"])
}

fn long() -> Bench {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 60");
    bench
}

/// The plan's hash covers the path of data, and not its content.
#[test]
fn results_of_edited_data_are_not_those_of_before() {
    let bench = long();
    bench.tables("out", &[]);
    let before = fs::read(bench.path("out/results.json")).expect("results");
    let provenance = fs::read(bench.path("out/provenance.json")).expect("a record");
    bench.edit("copy.jsonl", "\"ab\"", "\"ba\"");
    interrupted(&bench, &[]);
    assert_says(&mopd(&bench, &["ls", "out"]), &["unfinished"]);
    assert!(!bench.path("out/results.json").exists(), "old numbers of other data");
    assert!(fs::read(bench.path("out/previous/results.json")).expect("results") == before);
    assert!(fs::read(bench.path("out/previous/provenance.json")).expect("a record") == provenance);
    assert_says(&mopd(&bench, &["ls", "out/previous"]), &["| finished"]);
    bench.tables("out", &[]);
    assert_says(&mopd(&bench, &["ls", "out"]), &["| finished"]);
}

/// With the same keys, the finished results stay true, with all of their metrics.
#[test]
fn a_stage_that_is_computed_again_takes_nothing_away_before_it_is_done() {
    let bench = long();
    bench.tables("out", &[]);
    let files = ["results.json", "metrics.parquet", "samples.parquet", "weights.parquet"];
    let content = || files.map(|file| fs::read(bench.path("out").join(file)).expect("a file"));
    let before = content();
    interrupted(&bench, &["--from", "student"]);
    assert!(content() == before);
    assert!(!bench.path("out/previous").exists() && !bench.path("out/.previous.part").exists());
}

/// Domain, teacher and share of the tokens, in the rows of the student's metrics.
fn of_student(bench: &Bench) -> Vec<(String, String, u64)> {
    let file = fs::File::open(bench.path("out/metrics.parquet")).expect("metrics");
    let reader = SerializedFileReader::new(file).expect("a Parquet file");
    let mut found = Vec::new();
    for row in reader.get_row_iter(None).expect("rows") {
        let row = row.expect("a row");
        let field = |name: &str| row.get_column_iter().find(|(known, _)| *known == name).expect("a column").1;
        let text = |name: &str| match field(name) {
            Field::Str(text) => text.clone(),
            _ => String::new(),
        };
        let Field::Double(share) = field("token_share") else { panic!("a number") };
        if text("stage") == "student" {
            found.push((text("domain"), text("teacher"), share.to_bits()));
        }
    }
    found
}

/// Two domains swap their names: the stored metrics of each are shown under its new name.
#[test]
fn kept_metrics_have_the_names_of_now() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let before = of_student(&bench);
    assert!(before.iter().any(|(domain, teacher, _)| domain == "copy" && teacher == "specialist[copy]"));
    for (from, to) in
        [("domain copy {", "domain x {"), ("domain last {", "domain copy {"), ("domain x {", "domain last {")]
    {
        bench.edit("tiny.mopd", from, to);
    }
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && !text(&output).contains("\"stage_started\""), "{}", text(&output));
    let swapped = |name: &String| match name.contains("copy") {
        true => name.replace("copy", "last"),
        false => name.replace("last", "copy"),
    };
    let expected: Vec<_> =
        before.iter().map(|(domain, teacher, share)| (swapped(domain), swapped(teacher), *share)).collect();
    assert_eq!(of_student(&bench), expected);
    assert!(bench.path("out/previous/results.json").is_file(), "the old tables have the old names");
}

/// A guard of a domain reads the rows of the domain, whatever it was called when they were written.
#[test]
fn a_guard_is_not_bypassed_by_a_new_name() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    bench.edit("tiny.mopd", "domain last {", "domain final {");
    bench.edit(
        "tiny.mopd",
        "  steps     = 6\n",
        "  steps     = 6\n  guards    = [stop(length > 0, on: final)]\n",
    );
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["a guard stopped `student`", "on `final`", "its result is in the store"]);
}

#[test]
fn a_plan_explains_damage_a_dtype_and_an_order_and_needs_no_writable_disk() {
    let bench = Bench::new();
    bench.tables("runs/tiny", &[]);
    let folder = bench.path("runs/tiny/models/student-seed1");
    let key = read(&folder.join("mopd.json"))["key"].as_str().expect("a key").to_owned();
    let metrics = bench.path(".mopd/store").join(key).join("metrics.json");
    let good = fs::read(&metrics).expect("metrics");
    fs::write(&metrics, "[]").expect("written");
    assert_says(&why(&bench), &["trained: its result in the store is damaged: ", "1 of"]);
    fs::remove_file(&metrics).expect("removed");
    assert_says(&why(&bench), &["its result in the store is incomplete: metrics.json was deleted", "1 of"]);
    fs::write(&metrics, good).expect("written");
    assert_says(&why(&bench), &["nothing to rerun"]);
    bench.edit("tiny.mopd", "seed = 1 }", "seed = 1, dtype = bfloat16 }");
    assert_says(&why(&bench), &["its settings changed: dtype float32 -> bfloat16"]);
    assert!(!why(&bench).contains("arithmetic"), "{}", why(&bench));
    bench.edit("tiny.mopd", ", dtype = bfloat16 }", " }");
    bench.edit("tiny.mopd", "sft(base, on: domains)", "sft(base, on: [last, copy])");
    let said = why(&bench);
    assert_says(&said, &["the order of its domains' data changed"]);
    assert!(!said.contains("the data of `"), "{said}");
}

/// The files beside the weights of a kept model are those of the base that the text names now.
#[test]
fn a_kept_adapter_names_its_base_of_now() {
    let bench = Bench::new();
    bench.tables("first", &[]);
    fs::rename(bench.path("first/models/start-seed1"), bench.path("mine")).expect("renamed");
    let base = "model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }";
    bench.edit("tiny.mopd", base, "model base  = checkpoint(\"mine\")");
    bench.edit(
        "tiny.mopd",
        "lr = start_lr }",
        "lr = start_lr, adapter = lora(rank: 2, alpha: 4, targets: [attention]) }",
    );
    bench.tables("out", &[]);
    let adapter = bench.path("out/models/start-seed1/adapter_config.json");
    let base = || read(&adapter)["base_model_name_or_path"].as_str().expect("a text").to_owned();
    assert!(base().ends_with("/mine"), "{}", base());
    fs::rename(bench.path("mine"), bench.path("yours")).expect("renamed");
    bench.edit("tiny.mopd", "checkpoint(\"mine\")", "checkpoint(\"yours\")");
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert_says(&text(&output), &["{\"event\":\"stage_kept\",\"stage\":\"start\""]);
    assert!(base().ends_with("/yours"), "{}", base());
    assert_says(&mopd(&bench, &["cache", "verify"]), &["0 damaged"]);
}
