//! Tests of who may send which requests, and of their limits.

use std::io::{Read, Write};
use std::net::TcpStream;

use mopd_plan::events::ServeJob;
use mopd_plan::{Answers, Engine, Secret, Served};
use serde_json::json;

use super::{control, job, saved, served, start};
use crate::machine::place::Place;
use crate::model::tests::{random_model, tiny};
use crate::remote::Server;
use crate::serve::serve;

/// The status and the body of a reply.
pub fn post(url: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
    request(url, "POST", path, key, body)
}

fn get(url: &str, path: &str, key: Option<&str>) -> (u16, String) {
    request(url, "GET", path, key, "")
}

fn request(url: &str, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let status = said.split(' ').nth(1).unwrap().parse().unwrap();
    (status, said.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

const SECRET: &str = "correct-horse-battery";

#[test]
fn server_reachable_from_other_machines_needs_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let model = saved(&weights, folder.path(), "one");
    let missing = ServeJob { key: Some("MOPD_TEST_UNSET_KEY".to_owned()), ..job(&model) };
    let (control, _events) = control();
    let said = serve(&missing, Place::cpu(), &control).unwrap_err().to_string();
    assert!(said.contains("MOPD_TEST_UNSET_KEY") && said.contains("is not set"), "{said}");
    let open = ServeJob { address: "0.0.0.0:0".to_owned(), ..job(&model) };
    let said = serve(&open, Place::cpu(), &control).unwrap_err().to_string();
    assert!(said.contains("can be reached from other machines"), "{said}");
}

#[test]
fn invalid_requests_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server =
        start(ServeJob { tokens: 40, entries: Some(5), ..job(&saved(&weights, folder.path(), "one")) });
    let url = &server.url;
    let completions = |body: serde_json::Value| post(url, "/v1/completions", None, &body.to_string());
    assert_eq!(get(url, "/health", None).0, 200);
    assert_eq!(get(url, "/etc/passwd", None).0, 404);
    assert_eq!(get(url, "/../../etc/passwd", None).0, 404);
    assert_eq!(get(url, "/v1/completions", None).0, 405);
    assert_eq!(post(url, "/v1/completions", None, "{").0, 400);
    let asked = json!({ "model": "teacher", "prompt": [97, 98], "max_tokens": 1, "prompt_logprobs": 0 });
    assert_eq!(completions(asked.clone()).0, 200);
    for (change, status, why) in [
        (json!({ "model": "other" }), 404, "there is no model"),
        (json!({ "prompt": [97, 100_000] }), 400, "is not a token id"),
        (json!({ "prompt": [97, -1] }), 400, "is not a token id"),
        (json!({ "prompt": [97, 1.5] }), 400, "is not a token id"),
        (json!({ "prompt": [] }), 400, "needs at least one token"),
        (json!({ "prompt": vec![97; 1000] }), 400, "more than the context"),
        (json!({ "prompt": vec![vec![97; 10]; 5] }), 413, "at most 40 are supported"),
        (json!({ "prompt_logprobs": 6 }), 400, "at most 5 entries"),
        (json!({ "prompt_logprobs": -1 }), 400, "at most 5 entries"),
        (json!({ "max_tokens": 0 }), 400, "at least 1"),
        (json!({ "stream": true }), 400, "`stream` is not supported"),
        (json!({ "logit_bias": { "3": 1 } }), 400, "`logit_bias` is not supported"),
        (json!({ "temperature": -1 }), 400, "`temperature` must be 0 or more"),
        (json!({ "repetition_penalty": 0 }), 400, "`repetition_penalty` is not supported"),
        (json!({ "min_p": 0.1 }), 400, "`min_p` is not supported"),
        (json!({ "no_such_field": 0 }), 400, "`no_such_field` is not supported"),
        (json!({ "logprobs": 2 }), 400, "`logprobs` must be 0 or 1"),
        (json!({ "logprobs": -1 }), 400, "`logprobs` must be 0 or 1"),
        (json!({ "skip_special_tokens": false }), 400, "`skip_special_tokens` must be true"),
        (json!({ "add_special_tokens": 0 }), 400, "`add_special_tokens` must be true or false, not 0"),
    ] {
        let mut body = asked.clone();
        change.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        let (found, said) = completions(body);
        assert_eq!(found, status, "{change}: {said}");
        assert!(said.contains(why), "{said}");
    }
    let update = json!({ "model_path": "/etc" }).to_string();
    let (status, said) = post(url, "/update_weights_from_disk", None, &update);
    assert!(status == 403 && said.contains("--allow-updates"), "{said}");
    // A body beyond the limit is not read, and a broken one is not said to be large.
    assert_eq!(request_head(url, &format!("Content-Length: {}", 1u64 << 40)), 413);
    assert_eq!(request_head(url, "Transfer-Encoding: chunked"), 400);
    let (_, metrics) = get(url, "/metrics", None);
    for line in [
        "mopd_requests_total{path=\"/v1/completions\",status=\"400\"}",
        "mopd_requests_total{path=\"other\",status=\"404\"} 2",
        "mopd_tokens_total{what=\"scored\"} 1",
        "# TYPE mopd_request_seconds histogram",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// The status for a request whose head has this line, with the body `{`, which is no chunk.
fn request_head(url: &str, line: &str) -> u16 {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!("POST /generate HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n{{");
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = [0; 16];
    stream.read_exact(&mut said).unwrap();
    String::from_utf8_lossy(&said).split(' ').nth(1).unwrap().parse().unwrap()
}

/// The message for an invalid address does not repeat the address: it may hold a password.
#[test]
fn no_error_repeats_what_may_be_secret() {
    let (control, _events) = control();
    for url in [
        format!("http://user:{SECRET}@localhost:9"),
        format!("http://localhost:9/?key={SECRET}"),
        SECRET.to_owned(),
    ] {
        let Err(error) = Server::open(&served(Engine::Vllm, &url, Answers::Sampled), &control) else {
            panic!("nobody is there")
        };
        let said = format!("{error:?}");
        assert!(!said.contains(SECRET), "{said}");
    }
    let unset = Served {
        key: Some("MOPD_TEST_UNSET_KEY".to_owned()),
        url: Secret::Environment("MOPD_TEST_UNSET_URL".to_owned()),
        ..served(Engine::Vllm, "", Answers::Sampled)
    };
    let said = Server::open(&unset, &control).map(drop).unwrap_err().to_string();
    assert!(said.contains("MOPD_TEST_UNSET_URL"), "{said}");
}

#[test]
fn a_server_without_the_model_or_with_other_ids_is_refused_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    for engine in Engine::ALL {
        let answers = if engine == Engine::Mopd { Answers::Distribution } else { Answers::Sampled };
        let other = Served { model: "other".to_owned(), ..served(engine, &server.url, answers) };
        let said = Server::open(&other, &control).map(drop).unwrap_err().to_string();
        assert!(said.contains("does not serve the model") && said.contains("teacher"), "{said}");
        let client = Server::open(&served(engine, &server.url, answers), &control).unwrap();
        let student = crate::tokenizer::tests::pretrained("llama3");
        let said = client.compare_tokenizer(&student, &control).unwrap_err().to_string();
        assert!(said.contains("another tokenizer") || said.contains("not a token id"), "{said}");
    }
}
