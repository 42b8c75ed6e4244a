//! Published methods, really trained: the small experiments of `tests/methods` as they stand, on data of a few
//! lines.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mopd_tests::root;

/// Prompts of a task on short words, with their answers, and a pair of completions.
fn data(folder: &Path, task: &str) {
    let words = ["cab", "dab", "bad", "ace", "fed", "egg", "add", "bed", "beg", "cad", "dig", "fab"];
    let line = |word: &&str| {
        let answer: String = match task {
            "reverse" => word.chars().rev().collect(),
            "copy" => (*word).to_owned(),
            _ => {
                let mut letters: Vec<char> = word.chars().collect();
                letters.sort_unstable();
                letters.into_iter().collect()
            }
        };
        format!(
            "{{\"prompt\": \"{task}: {word}=\", \"answer\": \"{answer}\", \"chosen\": \"{answer}\", \
             \"rejected\": \"{word}{word}\"}}\n"
        )
    };
    fs::create_dir_all(folder.join("data")).expect("a folder for data");
    fs::write(folder.join(format!("data/{task}.jsonl")), words.iter().map(line).collect::<String>())
        .expect("writing data");
}

/// Runs an experiment of `tests/methods`; every model that it trains is there afterwards.
#[track_caller]
fn trains(method: &str, models: &[&str]) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    for task in ["sort", "reverse", "copy"] {
        data(folder.path(), task);
    }
    let program = fs::read_to_string(root().join(format!("tests/methods/{method}.mopd"))).expect("a method");
    // A model that begins at random is never right: experts of an exact match would learn nothing.
    let program = program.replace("reward = exact_match", "reward = command(\"python3 judge.py\")");
    let judge = "import json, sys\nfor line in sys.stdin:\n    job = json.loads(line)\n    \
                 print(json.dumps({\"id\": job[\"id\"], \"reward\": min(1, len(set(job[\"completion\"])) / \
                 16)}), flush=True)\n";
    fs::write(folder.path().join("judge.py"), judge).expect("writing a judge");
    fs::write(folder.path().join("method.mopd"), program).expect("writing the experiment");
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder.path())
        .args(["run", "method.mopd", "--out", "out"])
        .stdin(Stdio::null())
        .output()
        .expect("mopd starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{method}: {said}");
    let weights = |model: &str| {
        let path = folder.path().join(format!("out/models/{model}-seed1/model.safetensors"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}\n{said}", path.display()))
    };
    for pair in models.windows(2) {
        assert!(weights(pair[0]) != weights(pair[1]), "{method}: {} learns nothing", pair[1]);
    }
}

#[test]
fn open_mopd_trains() {
    trains("open_mopd", &["base", "student", "observed"]);
}

#[test]
fn aligndistil_trains() {
    trains("aligndistil", &["liked", "disliked", "student"]);
}

#[test]
fn deepseek_trains() {
    trains("deepseek", &["base", "student"]);
}
