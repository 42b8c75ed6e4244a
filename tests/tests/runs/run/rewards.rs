//! Rewards, from the text to the trained weights: with several parts, by schemas, by tests and by servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::states::curve;
use super::{Bench, assert_says, text};

/// A policy that is rewarded by one number of the verifier.
fn source(reward: &str, read: &str) -> String {
    format!(
        r#"
experiment "parts" {{ seed = 1 }}

domain copy {{ prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = {reward} }}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 20, batch = 16, lr = 3e-3 }}

objective paid {{
  term policy = -({read} - mean({read}, over: group)) * live student.logp
  reduce      = mean(token) then mean(sequence)
}}

model student = distill(start) {{
  objective = paid
  rollout   = sample(n: 4, temperature: 1, max_tokens: 6)
  prompts   = 4
  steps     = 4
  lr        = 1e-3
}}

compare "parts" {{ models = [start, student], samples = 2, temperature = 1, max_tokens = 6 }}
"#
    )
}

const LETTERS: &str = r#"regex("[a-d]+")"#;

/// A part of a reward is what its verifier alone would return.
#[test]
fn an_objective_reads_one_part() {
    let bench = Bench::new();
    let parts = format!("parts(accuracy: exact_match, letters: {LETTERS}, weights: [0.75, 0.25])");
    bench.write("tiny.mopd", &source(&parts, "reward.letters"));
    let tables = bench.tables("parts", &[]);
    assert_eq!(tables[0]["metric"], "mean reward");
    assert_says(&planned(&bench, &["--predict"]), &["predicted"]);
    let of_part = bench.student("parts");
    // With other weights, the student reads the same part and learns the same. It is computed again, because
    // its record has the curve of the whole reward; `start`, which asks no verifier, is not.
    bench.edit("tiny.mopd", "[0.75, 0.25]", "[0.5, 0.5]");
    let said = text(&bench.run(&["--out", "weighted", "--format", "json"]));
    let kept = |stage: &str| said.contains(&format!("{{\"event\":\"stage_kept\",\"stage\":\"{stage}\""));
    assert!(kept("start") && !kept("student"), "{said}");
    assert!(bench.student("weighted") == of_part);
    assert!(curve(&bench, "weighted", "reward") != curve(&bench, "parts", "reward"));
    bench.write("tiny.mopd", &source(LETTERS, "reward"));
    assert_eq!(bench.tables("alone", &[])[0]["metric"], "pass@1");
    assert!(bench.student("alone") == of_part);
    // The weighted mean of the parts gives another student.
    bench.write("tiny.mopd", &source(&parts, "reward"));
    bench.tables("sum", &[]);
    assert!(bench.student("sum") != of_part);
    // With other weights of the parts, the verifier is another one and has another key.
    bench.edit("tiny.mopd", "[0.75, 0.25]", "[0.5, 0.5]");
    let output = bench.run(&["--out", "other", "--format", "json"]);
    let said = text(&output);
    assert!(
        output.status.success() && !said.contains("{\"event\":\"stage_kept\",\"stage\":\"student\""),
        "{said}"
    );
}

#[test]
fn a_program_may_be_a_part() {
    let bench = Bench::new();
    bench.write(
        "judge.py",
        "import json, sys\n\
         for line in sys.stdin:\n    \
             asked = json.loads(line)\n    \
             reward = 1.0 if len(asked['completion']) == 3 else 0.5\n    \
             print(json.dumps({'id': asked['id'], 'reward': reward}), flush=True)\n",
    );
    let parts = r#"parts(accuracy: exact_match, length: command("python3 judge.py"), weights: equal)"#;
    bench.write("tiny.mopd", &source(parts, "reward.length"));
    let score = bench.tables("out", &[])[0]["rows"][0]["scores"]["copy"]["mean"].as_f64().expect("a number");
    // The program gives at least 0.5, so the combined reward is at least half of that.
    assert!((0.25..=1.0).contains(&score), "{score}");
    bench.edit("judge.py", "0.5", "2.5");
    let said = bench.fails(&["--out", "out"]);
    assert_says(&said, &["reward command", "judge.py"]);
}

/// Stages and evaluations that are computed.
fn computed(bench: &Bench) -> usize {
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    text(&output).matches("\"stage_started\"").count()
}

fn planned(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(mopd_tests::mopd());
    let output =
        command.current_dir(bench.folder.path()).args(["plan", "tiny.mopd"]).args(arguments).output();
    text(&output.expect("mopd starts"))
}

/// Each part has a curve of its own, its mean.
#[test]
fn parts_have_curves() {
    let bench = Bench::new();
    let parts = format!("parts(accuracy: exact_match, letters: {LETTERS}, weights: [0.75, 0.25])");
    bench.write("tiny.mopd", &source(&parts, "reward.letters"));
    bench.tables("out", &[]);
    let [accuracy, letters, reward] =
        ["reward.accuracy", "reward.letters", "reward"].map(|metric| curve(&bench, "out", metric));
    assert!(accuracy != letters && letters.iter().any(|mean| *mean > 0.0), "{accuracy:?} {letters:?}");
    for ((accuracy, letters), reward) in accuracy.iter().zip(&letters).zip(&reward) {
        assert!((0.75 * accuracy + 0.25 * letters - reward).abs() < 1e-3, "{accuracy} {letters} {reward}");
    }
}

/// One part decides as its verifier would alone.
#[test]
fn filters_and_edits_read_one_part() {
    let parts = format!("parts(accuracy: exact_match, letters: {LETTERS}, weights: [0.75, 0.25])");
    let trained = |reward: &str, read: &str, change: [&str; 2]| {
        let bench = Bench::new();
        bench.write("tiny.mopd", &source(reward, read));
        bench.edit("tiny.mopd", change[0], &change[1].replace("READ", read));
        // Gives the objective a gradient even if all that is left of a group is right.
        bench.edit("tiny.mopd", &format!("mean({read}, over: group)) *"), "0.25) *");
        bench.tables("out", &[]);
        bench.student("out")
    };
    let rollout = "sample(n: 4, temperature: 1, max_tokens: 6)";
    let edited = |edit: &str| format!("{rollout} |> {edit}");
    let plain = trained(LETTERS, "reward", [rollout, rollout]);
    let mut seen = vec![plain];
    for edit in [
        edited("keep(READ > 0.5)"),
        edited("best(READ, of: 2)"),
        edited("retry(until: READ > 0.5, at_most: 3)"),
        format!(
            "replay({rollout}, capacity: 8, share: 0.5, while: mean(READ, over: group) > 0.2, order: mean(READ, \
             over: group))"
        ),
    ] {
        let of_part = trained(&parts, "reward.letters", [rollout, &edit]);
        assert!(of_part == trained(LETTERS, "reward", [rollout, &edit]), "{edit}");
        assert!(!seen.contains(&of_part), "{edit}");
        seen.push(of_part);
    }
    let filter = ["steps     = 4", "steps     = 4\n  filter    = mean(READ, over: group) < 1"];
    assert!(trained(&parts, "reward.letters", filter) == trained(LETTERS, "reward", filter));
    // A part that does not exist.
    let bench = Bench::new();
    bench.write("tiny.mopd", &source(&parts, "reward.letters"));
    bench.edit("tiny.mopd", rollout, &edited("keep(reward.form > 0.5)"));
    let said = text(&bench.run(&[]));
    assert_says(&said, &["the reward of the domain `copy` has no part `form`", "accuracy, letters"]);
}

#[test]
fn a_schema_judges_and_its_content_is_known() {
    let bench = Bench::new();
    bench.write("tiny.mopd", &source("json_schema(\"answer.json\")", "reward"));
    assert_says(
        &bench.fails(&[]),
        &[
            "the JSON Schema answer.json can't be read",
            "domain copy {",
            "the folder of the experiment's file",
        ],
    );
    bench.write("answer.json", "{\"$ref\": \"other.json\"}");
    let said = bench.fails(&["--format", "json"]);
    assert!(said.contains("`$ref` to another file or address (other.json)"), "{said}");
    assert!(!said.contains("stage_started"), "{said}");
    bench.write("answer.json", "{\"type\": \"object\"}");
    assert_says(&planned(&bench, &[]), &["the JSON Schema answer.json"]);
    assert!(computed(&bench) > 0);
    assert_eq!(computed(&bench), 0);
    let tables = bench.tables("out", &[]);
    assert_eq!(tables[0]["metric"], "pass@1");
    // The file's name is not in the key, its content is.
    std::fs::rename(bench.path("answer.json"), bench.path("moved.json")).expect("renamed");
    bench.edit("tiny.mopd", "answer.json", "moved.json");
    assert_eq!(computed(&bench), 0);
    // White space between its parts and the order of keys change nothing that it accepts.
    bench.write("moved.json", "{\n  \"type\": \"object\"\n}\n\n");
    assert_eq!(computed(&bench), 0);
    // Nor do line ends behind the last row of data.
    for name in ["copy.jsonl", "copy.test.jsonl"] {
        let rows = std::fs::read_to_string(bench.path(name)).expect("rows");
        bench.write(name, rows.trim_end());
        assert_eq!(computed(&bench), 0);
        bench.write(name, &format!("{}\n\n\n", rows.trim_end()));
        assert_eq!(computed(&bench), 0);
    }
    bench.write("moved.json", "{\"type\": \"number\"}");
    assert!(computed(&bench) > 0);
}

#[test]
fn tests_judge_what_is_written() {
    let bench = Bench::new();
    bench.write("tiny.mopd", &source("unit_tests(tests, time_limit: 20)", "reward"));
    assert_says(
        &bench.fails(&[]),
        &["copy.jsonl:1", "the field `tests` is missing", "every line needs `tests`"],
    );
    for file in ["copy.jsonl", "copy.test.jsonl"] {
        // The student seldom writes a valid program, but an empty one is valid.
        bench.edit(file, "\"answer\":", "\"tests\": \"assert 1 + 1 == 2\", \"answer\":");
        bench.edit(file, "\"answer\": \"", "\"answer\": \"0#");
    }
    bench.edit("tiny.mopd", "steps = 20", "steps = 60");
    assert_says(
        &planned(&bench, &[]),
        &["tests; the key does not include the version and packages of `python3`"],
    );
    let first = bench.tables("first", &["--fresh"]);
    assert_eq!(first[0]["metric"], "pass@1");
    assert_eq!(first, bench.tables("second", &["--fresh"]));
    let reused = bench.command(&["--out", "third"]).output().expect("mopd starts");
    assert_says(
        &text(&reused),
        &["the reward of `copy`. Their keys do not include the version and packages"],
    );
    assert!(bench.student("first") == bench.student("second"));
    // If Python is missing, the run ends before its first stage.
    let mut command = bench.command(&["--out", "out", "--format", "json"]);
    let output = command.env("PATH", bench.path("nowhere")).output().expect("mopd starts");
    let said = text(&output);
    assert!(said.contains("need `python3`") && !said.contains("stage_started"), "{said}");
}

/// Processes that left their parent, their session and their environment end with the run.
#[test]
fn nothing_that_a_program_starts_outlives_the_run() {
    let bench = Bench::new();
    let program = r#"import json, os, subprocess, sys
note = "echo $$ >> pids; exec sleep 1000"
for leave in ["env -i setsid sh -c", "setsid env -i setsid sh -c", "nohup env -i sh -c", "env -u MOPD_PROGRAM sh -c"]:
    subprocess.run(f"{leave} '{note}' >/dev/null 2>&1 </dev/null &", shell=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.execve("/bin/sh", ["sh", "-c", note], {})
    os._exit(0)
os.wait()
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "reward": 1.0}), flush=True)
"#;
    bench.write("judge.py", program);
    bench.write("tiny.mopd", &source("command(\"python3 judge.py\")", "reward"));
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let ids = std::fs::read_to_string(bench.path("pids")).expect("the program's list");
    assert!(ids.lines().count() >= 5, "{ids}");
    for id in ids.lines() {
        assert!(!std::path::Path::new(&format!("/proc/{id}/stat")).exists(), "{id} of {ids}");
    }
}

/// Statistics of such rewards overflow.
#[test]
fn a_reward_beyond_single_precision_is_named() {
    let bench = Bench::new();
    for (number, finite) in [("1e308", true), ("-1e16", true), ("1e15", false)] {
        bench.write(
            "judge.py",
            &format!("def score(completions, **_):\n    return [{number}] * len(completions)\n"),
        );
        bench.write("tiny.mopd", &source("python(\"judge.py:score\", range: any)", "reward"));
        let said = text(&bench.run(&["--fresh"]));
        assert_eq!(said.contains("a number from -1e15 to 1e15"), finite, "{said}");
        assert!(!said.contains("worker-protocol"), "{said}");
    }
}

/// A server that gives 0.5 for each of the first three letters of the alphabet, at most 1, and counts its
/// requests.
pub fn serve(answer: impl Fn(&[Value]) -> String + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/judge", listener.local_addr().expect("its address"));
    let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer, count) = (stream.expect("a connection"), answer.clone(), count.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).expect("a line") <= 2 {
                        break;
                    }
                    if let Some(found) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = found.trim().parse().expect("a length");
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                count.fetch_add(1, Ordering::Relaxed);
                let list: Vec<Value> = serde_json::from_slice(&body).expect("a list");
                let said = answer(&list);
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", said.len());
                stream.write_all(format!("{head}{said}").as_bytes()).expect("an answer");
            });
        }
    });
    (url, asked)
}

pub fn letters(list: &[Value]) -> String {
    let of = |one: &Value| {
        let completion = one["completion"].as_str().expect("a text");
        assert!(one["record"]["answer"].is_string() && one["prompt"].is_string(), "{one}");
        completion.chars().filter(|letter| "abc".contains(*letter)).take(2).count() as f64 / 2.0
    };
    serde_json::to_string(&list.iter().map(of).collect::<Vec<f64>>()).expect("numbers")
}

/// A server and a program that give the same rewards train the same weights.
#[test]
fn a_server_judges_as_a_program_does() {
    let (url, asked) = serve(letters);
    let bench = Bench::new();
    bench.write("tiny.mopd", &source("http(env(\"JUDGE_URL\"), batch: 3, version: \"1\")", "reward"));
    let unset = bench.command(&["--format", "json"]).env_remove("JUDGE_URL").output().expect("mopd starts");
    let said = text(&unset);
    assert!(said.contains("the environment variable JUDGE_URL") && !said.contains("stage_started"), "{said}");
    assert_says(
        &planned(&bench, &[]),
        &["a server of version \"1\"; the key does not include the responses"],
    );
    let run = |url: &str| {
        let mut command = bench.command(&["--out", "http", "--format", "json"]);
        let output = command.env("JUDGE_URL", url).output().expect("mopd starts");
        assert!(output.status.success(), "{}", text(&output));
        text(&output).matches("\"stage_started\"").count()
    };
    assert!(run(&url) > 0 && asked.load(Ordering::Relaxed) > 10);
    // The server's address is not in the key, its version is. Its responses are not, which is said once.
    let before = asked.load(Ordering::Relaxed);
    let mut reused = bench.command(&["--out", "http"]);
    let reused = text(&reused.env("JUDGE_URL", "http://127.0.0.1:1/").output().expect("mopd starts"));
    assert_says(&reused, &["the reward of `copy`. Their keys do not include the responses of its server"]);
    assert_eq!(run("http://127.0.0.1:1/"), 0);
    let weights = bench.student("http");
    bench.edit("tiny.mopd", "version: \"1\"", "version: \"2\"");
    assert!(run(&url) > 0 && asked.load(Ordering::Relaxed) > before);
    assert!(bench.student("http") == weights);
    bench.write(
        "judge.py",
        "import json, sys\n\
         for line in sys.stdin:\n    \
             asked = json.loads(line)\n    \
             letters = [letter for letter in asked['completion'] if letter in 'abc']\n    \
             print(json.dumps({'id': asked['id'], 'reward': len(letters[:2]) / 2}), flush=True)\n",
    );
    bench.write("tiny.mopd", &source("command(\"python3 judge.py\")", "reward"));
    bench.tables("command", &[]);
    assert!(bench.student("command") == weights);
}

#[test]
fn a_server_that_fails_is_named_with_what_it_said() {
    let bench = Bench::new();
    let (url, _) = serve(|list| format!("[{}]", vec!["2"; list.len()].join(", ")));
    bench.write("tiny.mopd", &source(&format!("http(\"{url}\")"), "reward"));
    assert_says(
        &bench.fails(&[]),
        &[
            "returned an invalid response: a `reward` that is not a number from 0 to 1 at place 0",
            "domain copy {",
        ],
    );
    // A port that was just free; a fixed port may be in use.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    bench.write("tiny.mopd", &source(&format!("http(\"http://{free}/judge\")"), "reward"));
    let said = bench.fails(&["--out", "out"]);
    assert_says(
        &said,
        &[&format!("http://{free}/judge could not be reached"), "start the server before the run"],
    );
}
