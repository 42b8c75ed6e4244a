//! Tests of the service that judges: its rewards are those of the verifiers, and who may ask.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mopd_plan::events::{Event, RewardsJob};
use mopd_plan::{ExportedRecord, ExportedRewards, RECORDS_FILE, REWARDS_FILE, Reward, RewardPart};
use mopd_store::host;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::control;
use crate::control::Control;
use crate::failure::Result;
use crate::reward::{RewardInput, Verifier};
use crate::serve::rewards::{ServiceAddress, rewards};

/// A service that runs until it is dropped.
struct Service {
    folder: TempDir,
    address: ServiceAddress,
    control: Arc<Control>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Service {
    /// With a domain for each reward, `d0` and so on, and the records of each in turn.
    fn start(folder: TempDir, of: &[Reward], records: usize) -> Service {
        let domains = of.iter().enumerate().map(|(at, reward)| (format!("d{at}"), reward.clone())).collect();
        let base = folder.path().display().to_string();
        let exported = serde_json::to_string(&ExportedRewards { base, domains }).unwrap();
        fs::write(folder.path().join(REWARDS_FILE), exported).unwrap();
        let line = |number: usize| serde_json::to_string(&record(number, of.len())).unwrap() + "\n";
        fs::write(folder.path().join(RECORDS_FILE), (0..records).map(line).collect::<String>()).unwrap();
        let (control, events) = control();
        let of_service = control.clone();
        let job = RewardsJob { folder: folder.path().display().to_string() };
        let thread = thread::spawn(move || rewards(&job, &of_service));
        let Ok(Event::ServingRewards { url }) = events.recv_timeout(Duration::from_secs(60)) else {
            panic!("the service says where it is")
        };
        let address: ServiceAddress =
            serde_json::from_slice(&fs::read(file(folder.path())).unwrap()).unwrap();
        assert_eq!(address.url, url);
        Service { folder, address, control, thread: Some(thread) }
    }

    /// The status and the reply for a request with these lines in its head.
    fn request(&self, start: &str, head: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address.url.strip_prefix("http://").unwrap()).unwrap();
        let length = body.len();
        let text =
            format!("{start} HTTP/1.1\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn key(&self) -> String {
        format!("Host: 127.0.0.1\r\nAuthorization: Bearer {}\r\n", self.address.secret)
    }

    fn ask(&self, records: &[usize], completions: &[&str]) -> (u16, Value) {
        let body = json!({ "records": records, "completions": completions }).to_string();
        self.request("POST /rewards", &self.key(), &body)
    }

    fn end(&mut self) -> Result<()> {
        self.thread.take().expect("it runs").join().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.control.interrupt();
        if self.thread.is_some() {
            let _ = self.end();
            assert!(!file(self.folder.path()).exists(), "it is deleted");
        }
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join(format!("rewards-service.{}.json", host::name()))
}

/// Fields whose values differ from record to record.
fn record(number: usize, domains: usize) -> ExportedRecord {
    let tests = ["assert solve() == 0", "assert solve() == 1", "assert solve"][number % 3];
    let record = json!({
        "prompt": format!("prompt {number}"),
        "answer": format!("{}", number % 3),
        "tests": tests,
        "level": 0.1 * number as f64,
    });
    let record: Map<String, Value> = record.as_object().unwrap().clone();
    ExportedRecord { domain: format!("d{}", number % domains), prompt: format!("prompt {number}"), record }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("small.json", "{\"type\": \"integer\", \"maximum\": 1}");
    write(
        "judge.py",
        "import json, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n    reward = len(asked['completion']) / \
         (7 + asked['record']['level'])\n    print(json.dumps({'id': asked['id'], 'reward': min(reward, 1)}), flush=True)\n",
    );
    write(
        "score.py",
        "def score(batch):\n    assert all(one.completion != 'boom' for one in batch)\n    \
         return [len(one.prompt) - one.record['level'] * len(one.completion) for one in batch]\n",
    );
    folder
}

fn answer() -> String {
    "answer".to_owned()
}

/// All kinds but servers.
fn kinds() -> Vec<Reward> {
    let exact = Reward::ExactMatch { field: answer() };
    let numeric = Reward::Numeric { field: answer(), tolerance: 0.5 };
    let pattern = Reward::Regex { pattern: r"(?<answer>\p{Nd})\b|def".to_owned(), field: answer() };
    let (depends, time_limit_seconds) = (Vec::new(), 20.0);
    let part = |name: &str, weight, reward: &Reward| RewardPart {
        name: name.to_owned(),
        weight,
        reward: reward.clone(),
    };
    let parts = Reward::Parts {
        parts: vec![part("same", 0.7, &exact), part("near", 0.1, &numeric), part("form", 0.2, &pattern)],
    };
    vec![
        exact,
        numeric,
        pattern,
        Reward::JsonSchema { schema: "small.json".to_owned() },
        Reward::UnitTests { field: "tests".to_owned(), time_limit_seconds },
        Reward::Command {
            command: "python3 judge.py".to_owned(),
            time_limit_seconds,
            batch: 3,
            depends: depends.clone(),
            range: Default::default(),
        },
        Reward::Python {
            file: "score.py".to_owned(),
            function: "score".to_owned(),
            time_limit_seconds,
            batch: 3,
            depends,
            range: mopd_plan::RewardRange::Any,
        },
        parts,
    ]
}

const COMPLETIONS: [&str; 8] = [
    "0",
    "1",
    " 1.4",
    "2 ",
    "def solve(): return 0",
    "```python\ndef solve():\n    return 1\n```",
    "{}",
    "é\u{2028}\u{0}",
];

#[test]
fn rewards_are_those_of_the_verifiers() {
    let kinds = kinds();
    let mut service = Service::start(folder(), &kinds, 48);
    let asked: Vec<(usize, &str)> = (0..48)
        .flat_map(|number| COMPLETIONS.iter().skip(number % 3).step_by(2).map(move |text| (number, *text)))
        .collect();
    let (numbers, texts): (Vec<usize>, Vec<&str>) = asked.iter().copied().unzip();
    let (status, said) = service.ask(&numbers, &texts);
    assert_eq!(status, 200, "{said}");
    // Each completion by itself, with a verifier of its own.
    let mut seen: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    let verifiers: Vec<Verifier> =
        kinds.iter().map(|reward| Verifier::new(reward, service.folder.path()).unwrap()).collect();
    for (at, (number, completion)) in asked.iter().enumerate() {
        let kind = number % kinds.len();
        let ExportedRecord { prompt, record, .. } = record(*number, kinds.len());
        let input = RewardInput { prompt: &prompt, completion, record: &record };
        let wanted = verifiers[kind].judge(&[input], &control().0).unwrap().remove(0);
        assert_eq!(said[at]["reward"].as_f64(), Some(wanted.reward), "{number} {completion:?}");
        let parts = said[at]["parts"].as_object().unwrap();
        assert_eq!(parts.len(), wanted.parts.len());
        wanted.parts.iter().for_each(|(name, reward)| assert_eq!(parts[name].as_f64(), Some(*reward)));
        seen[kind].push(wanted.reward);
    }
    for (kind, rewards) in seen.iter().enumerate() {
        assert!(rewards.iter().any(|reward| *reward != rewards[0]), "{kind}: {rewards:?}");
    }
    // Many clients at once get the same.
    thread::scope(|scope| {
        for (at, (number, completion)) in asked.iter().enumerate().step_by(5) {
            let (service, said) = (&service, &said);
            scope.spawn(move || assert_eq!(service.ask(&[*number], &[completion]), (200, json!([said[at]]))));
        }
    });
    // A completion that can't be judged ends the service, with the reason.
    let (status, said) = service.ask(&[6], &["boom"]);
    let message = said["error"]["message"].as_str().unwrap().to_owned();
    assert!(status == 500 && message.contains("the reward function `score.py:score` failed"), "{said}");
    assert_eq!(service.end().unwrap_err().to_string(), message);
    assert!(!file(service.folder.path()).exists());
}

#[test]
fn only_who_knows_the_secret_may_ask() {
    let service = Service::start(tempfile::tempdir().unwrap(), &kinds()[..1], 3);
    assert_eq!(fs::metadata(file(service.folder.path())).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = service.address.secret.clone();
    assert_eq!(secret.len(), 64);
    let body = "{\"records\": [1], \"completions\": [\"1\"]}";
    assert_eq!(
        service.ask(&[1, 0], &["1", "1"]).1,
        json!([{"reward": 1.0, "parts": {}}, {"reward": 0.0, "parts": {}}])
    );
    let wrong = secret.replacen(|letter: char| letter != '0', "0", 1);
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    let authorized = bearer(&secret);
    for (start, head, status) in [
        ("POST /rewards", format!("Host: localhost\r\n{authorized}"), 200),
        ("POST /rewards", "Host: localhost\r\n".to_owned(), 403),
        ("POST /rewards", format!("Host: localhost\r\n{}", bearer(&wrong)), 403),
        ("POST /rewards", format!("Host: localhost\r\n{}", bearer("")), 403),
        ("POST /rewards", format!("Host: attacker.example\r\n{authorized}"), 403),
        ("POST /rewards", format!("Host: localhost\r\nOrigin: null\r\n{authorized}"), 403),
        ("GET /rewards", format!("Host: localhost\r\n{authorized}"), 405),
        ("POST /", format!("Host: localhost\r\n{authorized}"), 404),
    ] {
        let (found, said) = service.request(start, &head, body);
        assert_eq!(found, status, "{start} {head}: {said}");
        assert!(!said.to_string().contains(&secret), "{said}");
    }
    for (body, why) in [
        ("{", "no records and completions"),
        ("{\"records\": [1], \"completions\": []}", "1 records for 0 completions"),
        ("{\"records\": [3], \"completions\": [\"\"]}", "there is no record 3: there are 3"),
        ("{\"records\": [-1], \"completions\": [\"\"]}", "no records and completions"),
    ] {
        let (status, said) = service.request("POST /rewards", &service.key(), body);
        assert!(status == 400 && said["error"]["message"].as_str().unwrap().contains(why), "{body}: {said}");
    }
    // A body beyond the limit is not read.
    let mut stream = TcpStream::connect(service.address.url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("POST /rewards HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n", service.key(), 1u64 << 40);
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 413");
}

/// What can't be used is refused before the first request.
#[test]
fn a_folder_that_is_damaged_is_named() {
    let place = folder();
    let begin = || {
        let job = RewardsJob { folder: place.path().display().to_string() };
        rewards(&job, &control().0).unwrap_err().to_string()
    };
    assert!(begin().contains("is no folder of an export"), "{}", begin());
    let domains = [("d0".to_owned(), kinds().remove(0))].into();
    let exported = ExportedRewards { base: "/".to_owned(), domains };
    fs::write(place.path().join(REWARDS_FILE), serde_json::to_string(&exported).unwrap()).unwrap();
    assert!(begin().contains("can't read") && begin().contains(RECORDS_FILE), "{}", begin());
    fs::write(place.path().join(RECORDS_FILE), "{\"domain\": 1}\n").unwrap();
    assert!(begin().contains("can't read") && begin().contains("invalid type"), "{}", begin());
}
