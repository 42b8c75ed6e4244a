//! Data sets named as on the Hugging Face hub, which a server on this machine plays.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const COMMIT: &str = "3333333333333333333333333333333333333333";

/// The files of the data set `org/sums`, in the layout of `openai/gsm8k`.
fn files() -> Vec<(&'static str, String)> {
    let rows = |from: u32| {
        let row = |number: u32| {
            let (a, b) = (number % 10, number / 10 % 10);
            format!("{{\"question\": \"{a}+{b}=\", \"answer\": \"{}\"}}\n", a + b)
        };
        (from..from + 12).map(row).collect::<String>()
    };
    vec![
        ("README.md", "words".to_owned()),
        ("main/train-00000-of-00002.jsonl", rows(0)),
        ("main/train-00001-of-00002.jsonl", rows(12)),
        ("main/test-00000-of-00001.jsonl", rows(24)),
    ]
}

/// Serves `org/sums`; returns the address, and how often something was asked.
fn hub() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines =
                BufReader::new(stream.try_clone().expect("a stream")).lines().map_while(Result::ok);
            let Some(request) = lines.next() else { continue };
            // The whole request is read, so that closing does not reset the connection.
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            counter.fetch_add(1, Ordering::Relaxed);
            let path = request.split(' ').nth(1).expect("a path").to_owned();
            let files = files();
            let body = match path.strip_prefix(&format!("/datasets/org/sums/resolve/{COMMIT}/")) {
                Some(name) => files.into_iter().find(|(file, _)| *file == name).map(|(_, text)| text),
                None if path == "/api/datasets/org/sums/revision/main" => {
                    let siblings: Vec<Value> =
                        files.iter().map(|(name, _)| json!({ "rfilename": name })).collect();
                    Some(json!({ "sha": COMMIT, "siblings": siblings }).to_string())
                }
                None => None,
            };
            let (status, body) = body.map_or(("404 Not Found", String::new()), |body| ("200 OK", body));
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    (endpoint, asked)
}

const SUMS: &str = r#"experiment "sums" { seed = 1 }

domain sums {
  prompts = dataset("org/sums/main", split: "train")
  tests   = dataset("org/sums/main", split: "test")
  fields  = columns(prompt: question)
  reward  = numeric
}

model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 4, batch = 8, lr = 3e-3 }

compare "sums" { models = [start], samples = 1, temperature = 0, max_tokens = 4 }
"#;

#[test]
fn a_data_set_of_the_hub_is_fetched_checked_and_reused() {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("sums.mopd"), SUMS).expect("a file");
    let (endpoint, asked) = hub();
    let run = |arguments: &[&str], offline: &str| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(folder.path()).args(arguments).stdin(Stdio::null());
        command.env("HF_ENDPOINT", &endpoint).env("HF_HOME", folder.path().join("cache"));
        command.env("HF_HUB_OFFLINE", offline).env_remove("HF_HUB_CACHE").env_remove("HUGGINGFACE_HUB_CACHE");
        command.output().expect("mopd runs")
    };
    // A check fetches nothing, and says what it has not seen.
    let checked = run(&["check", "sums.mopd"], "0");
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("a run would fetch what it reads from the hub"), "{}", text(&checked));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let offline = run(&["run", "sums.mopd", "--out", "out", "--predict", "never"], "1");
    assert!(!offline.status.success() && text(&offline).contains("HF_HUB_OFFLINE"), "{}", text(&offline));
    let made = run(&["run", "sums.mopd", "--out", "out", "--predict", "never"], "0");
    assert!(made.status.success(), "{}", text(&made));
    // For each split the list and its files.
    assert_eq!(asked.load(Ordering::Relaxed), 2 + 3);
    // Now nothing is asked: the stage is reused, and `check` reads the fields.
    let reused = |file: &str| {
        let again = run(&["run", file, "--out", "again", "--predict", "never", "--format", "json"], "1");
        assert!(again.status.success(), "{}", text(&again));
        text(&again).contains("stage_kept") && !text(&again).contains("stage_started")
    };
    assert!(reused("sums.mopd"));
    let wrong = SUMS.replace("columns(prompt: question)", "columns(prompt: questions)");
    fs::write(folder.path().join("wrong.mopd"), wrong).expect("a file");
    let wrong = run(&["check", "wrong.mopd"], "1");
    assert!(!wrong.status.success() && text(&wrong).contains("`questions` is missing"), "{}", text(&wrong));
    // The same files beside the experiment are the same data: the stage has the same key.
    for (name, lines) in files() {
        let path = folder.path().join("copied").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, lines).expect("a file");
    }
    fs::write(folder.path().join("copied.mopd"), SUMS.replace("org/sums", "copied")).expect("a file");
    assert!(reused("copied.mopd"));
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}
