//! Tests of rewards from a server, which runs in the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mopd_plan::Secret;

use super::*;

/// The requests that a server got: path and body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A server that runs until the test ends, with a thread per request. `answer` gets the number of a request
/// and its body, and returns the response, or `None` to close the connection.
fn serve(answer: impl Fn(usize, &Value) -> Option<String> + Send + Sync + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/judge", listener.local_addr().unwrap());
    let log: Asked = Arc::default();
    let (asked, answer) = (log.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, asked, answer) = (stream.unwrap(), asked.clone(), answer.clone());
            std::thread::spawn(move || {
                let (head, body) = read(&stream);
                let number = {
                    let mut asked = asked.lock().unwrap();
                    asked.push((head, body.clone()));
                    asked.len() - 1
                };
                if let Some(said) = answer(number, &body) {
                    let _ = stream.write_all(said.as_bytes());
                }
            });
        }
    });
    (url, log)
}

fn read(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap_or_default())
}

fn said(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"))
}

fn of(url: &str, limit: f64, batch: u32) -> Verifier {
    let url = Secret::Text(url.to_owned());
    built_in(plan::Reward::Http {
        url,
        time_limit_seconds: limit,
        batch,
        version: None,
        range: Default::default(),
    })
}

/// Completions `0`, `1`, ... of one prompt.
fn judge(verifier: &Verifier, count: usize, control: &Control) -> Result<Vec<Judgement>, RewardError> {
    let texts: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    let record = record(json!({ "prompt": "p", "answer": 3 }));
    let inputs: Vec<RewardInput> =
        texts.iter().map(|text| RewardInput { prompt: "p", completion: text, record: &record }).collect();
    verifier.judge(&inputs, control)
}

fn numbers(verdicts: Vec<Judgement>) -> Vec<f64> {
    verdicts.into_iter().map(|verdict| verdict.reward).collect()
}

/// Batches are sent in parallel, and each judgement belongs to its completion.
#[test]
fn a_list_is_answered_by_a_list() {
    let (url, asked) = serve(|number, body| {
        // Later requests are answered sooner.
        std::thread::sleep(Duration::from_millis(100_u64.saturating_sub(20 * number as u64)));
        let of = |one: &Value| one["completion"].as_str().unwrap().parse::<f64>().unwrap() / 16.0;
        let list: Vec<Value> = body
            .as_array()
            .unwrap()
            .iter()
            .map(|one| match of(one) {
                half if half == 0.5 => json!({ "reward": half, "feedback": "half" }),
                number => json!(number),
            })
            .collect();
        said("200 OK", &json!(list).to_string())
    });
    let verifier = of(&url, 30.0, 3);
    let verdicts = judge(&verifier, 17, &uncancellable()).unwrap();
    assert_eq!(verdicts[8].feedback.as_deref(), Some("half"));
    assert_eq!(numbers(verdicts), (0..17).map(|index| f64::from(index) / 16.0).collect::<Vec<f64>>());
    let asked = asked.lock().unwrap();
    let mut sizes: Vec<usize> = asked.iter().map(|(_, body)| body.as_array().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 3, 3, 3, 3, 3]);
    let (head, body) = &asked[0];
    assert!(head.starts_with("POST /judge HTTP/1.1"), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    let first = &body[0];
    assert_eq!((&first["prompt"], &first["record"]), (&json!("p"), &json!({ "prompt": "p", "answer": 3 })));
    assert!(verifier.judge(&[], &uncancellable()).unwrap().is_empty());
    assert!(verifier.take_warnings().is_empty());
}

#[test]
fn transient_http_failures_are_retried() {
    let replies = Mutex::new(VecDeque::from([None, said("503 Service Unavailable", "busy")]));
    let (url, asked) =
        serve(move |_, _| replies.lock().unwrap().pop_front().unwrap_or_else(|| said("200 OK", "[1, 0.5]")));
    let verifier = of(&url, 30.0, 8);
    assert_eq!(numbers(judge(&verifier, 2, &uncancellable()).unwrap()), [1.0, 0.5]);
    let asked: Vec<Value> = asked.lock().unwrap().iter().map(|(_, body)| body.clone()).collect();
    assert!(asked.len() == 3 && asked[0] == asked[2], "the same batch");
    let warnings = verifier.take_warnings();
    assert!(
        warnings.len() == 2 && warnings[1].contains("status 503 Service Unavailable: \"busy\""),
        "{warnings:?}"
    );
}

#[test]
fn answers_that_cannot_be_right_are_quoted() {
    for (answer, why) in [
        ("no", "not JSON; the response was \"no\""),
        ("{\"reward\": 1}", "not a list; the response was "),
        ("[1]", "1 rewards for 2 completions; the response was \"[1]\""),
        ("[1, 1, 1]", "3 rewards for 2 completions"),
        ("[1, 1.5]", "a `reward` that is not a number from 0 to 1 at place 1; the response was \"[1, 1.5]\""),
        ("[-0.5, 1]", "a `reward` that is not a number from 0 to 1 at place 0"),
        ("[1, null]", "a `reward` that is not a number from 0 to 1 at place 1"),
        ("[true, 1]", "a `reward` that is not a number from 0 to 1 at place 0"),
        ("[\"1\", 1]", "a `reward` that is not a number from 0 to 1 at place 0"),
        ("[NaN, 1]", "not JSON"),
        ("[1e999, 1]", "not JSON"),
        ("[{\"score\": 1}, 1]", "no `reward` at place 0"),
    ] {
        let (url, asked) = serve(move |_, _| said("200 OK", answer));
        let error = judge(&of(&url, 30.0, 8), 2, &uncancellable()).unwrap_err();
        let wanted = format!("the reward server {url} returned an invalid response: {why}");
        assert!(error.to_string().starts_with(&wanted), "{error}");
        assert!(error.help().contains("a list of as many numbers from 0 to 1"), "{}", error.help());
        assert_eq!(asked.lock().unwrap().len(), 1, "not worth asking again");
    }
}

#[test]
fn a_server_that_refuses_is_named_with_what_it_said() {
    for (status, body, wanted) in [
        ("404 Not Found", "no such page", "answered with status 404 Not Found: \"no such page\""),
        ("422 Unprocessable Entity", "", "answered with status 422 Unprocessable Entity"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "", "answered with status 302 Found"),
    ] {
        let (url, asked) = serve(move |_, _| said(status, body));
        let error = judge(&of(&url, 30.0, 8), 2, &uncancellable()).unwrap_err();
        assert_eq!(error.to_string(), format!("the reward server {url} {wanted}"));
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
    // The beginning of a page that is longer than the limit is quoted.
    let (url, _) = serve(|_, _| said("404 Not Found", &"x".repeat(5000)));
    let error = judge(&of(&url, 30.0, 8), 2, &uncancellable()).unwrap_err().to_string();
    assert!(error.contains("answered with status 404 Not Found: \"xxxx"), "{error}");
    let (url, asked) = serve(|_, _| said("500 Internal Server Error", "KeyError"));
    let error = judge(&of(&url, 30.0, 8), 2, &uncancellable()).unwrap_err();
    let wanted = "answered with status 500 Internal Server Error: \"KeyError\"; 4 retries did not help";
    assert_eq!(error.to_string(), format!("the reward server {url} {wanted}"));
    assert_eq!(asked.lock().unwrap().len(), 5);
}

#[test]
fn a_server_that_is_not_there_or_silent_is_named() {
    // A port without a server.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = judge(&of(&format!("http://127.0.0.1:{port}/?key=secret"), 30.0, 8), 1, &uncancellable())
        .unwrap_err();
    let said_of = error.to_string();
    assert!(
        said_of.starts_with(&format!("the reward server http://127.0.0.1:{port}/ could not be reached: "))
    );
    assert!(said_of.contains("4 retries did not help") && !said_of.contains("secret"), "{said_of}");
    assert!(error.help().contains("start the server before the run"), "{}", error.help());
    let (url, asked) = serve(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        None
    });
    let error = judge(&of(&url, 0.5, 8), 1, &uncancellable()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the reward server {url} returned no response within its time limit of 0.5 s")
    );
    assert_eq!(asked.lock().unwrap().len(), 1);
    // A job that stops does not wait for the server either.
    let control = Control::new(std::io::sink());
    let verifier = of(&url, 1000.0, 8);
    let outcome = std::thread::scope(|scope| {
        let judging = scope.spawn(|| judge(&verifier, 1, &control));
        while asked.lock().unwrap().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        control.interrupt();
        judging.join().unwrap()
    });
    assert_eq!(outcome, Err(RewardError::Stopped));
}

#[test]
fn addresses_are_looked_at_before_the_run_and_not_repeated() {
    let of = |url: Secret, limit: f64, batch: u32| {
        let reward = plan::Reward::Http {
            url,
            time_limit_seconds: limit,
            batch,
            version: None,
            range: Default::default(),
        };
        Verifier::new(&reward, Path::new(".")).err().map(|error| error.to_string())
    };
    let text = |text: &str| Secret::Text(text.to_owned());
    for url in ["ftp://user:secret@host/", "secret", "http://", "http://a b/secret"] {
        assert_eq!(
            of(text(url), 1.0, 1).unwrap(),
            "the reward's URL is not the address of a server",
            "{url}"
        );
    }
    let unset = Secret::Environment("MOPD_TEST_NOT_SET".to_owned());
    let said = of(unset, 1.0, 1).unwrap();
    assert!(said.contains("MOPD_TEST_NOT_SET, which a reward takes its URL from, is not set"), "{said}");
    assert_eq!(
        of(text("https://user:secret@host:8000/judge?key=secret"), 0.0, 1).unwrap(),
        "the reward server https://host:8000/judge cannot be asked with a time limit of 0 s"
    );
    assert!(of(text("http://host"), 1.0, 0).unwrap().ends_with("batches of 0"));
    assert_eq!(of(text("https://host/judge"), 1.0, 1), None);
}
