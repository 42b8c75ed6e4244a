//! What one client can take from a server: memory for an answer, connections, and the names of weights.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mopd_plan::events::ServeJob;
use serde_json::{Value, json};

use super::security::post;
use super::{job, saved, start};
use crate::model::tests::{random_model, tiny};

/// Requests whose answer, or whose text, would take gigabytes.
#[test]
fn a_request_for_too_much_is_refused_before_it_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(ServeJob { tokens: 1 << 18, ..job(&saved(&weights, folder.path(), "one")) });
    let ask = |path: &str, body: Value| post(&server.url, path, None, &body.to_string());
    let prompt = vec![97; 30];
    // 259 entries for each of 30 tokens are fine, as is a list of every id.
    let all = json!({ "model": "teacher", "prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": -1 });
    assert_eq!(ask("/v1/completions", all).0, 200);
    let scores = |chosen: Vec<i64>| {
        json!({
            "input_ids": prompt, "sampling_params": { "max_new_tokens": 0 }, "return_logprob": true,
            "logprob_start_len": 0, "token_ids_logprob": chosen,
        })
    };
    let (status, said) = ask("/generate", scores((0..259).collect()));
    assert_eq!(status, 200);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["meta_info"]["input_token_ids_logprobs"][29].as_array().unwrap().len(), 259);
    // 200,000 entries for each of 31 tokens: the list of ids has no limit of its own.
    let (status, said) = ask("/generate", scores(vec![97; 200_000]));
    assert!(status == 413 && said.contains("200001 entries for each of 31 tokens"), "{status} {said}");
    // A text that can't fit in the context is not split into tokens.
    let text = "a".repeat(1 << 20);
    for (path, body) in [
        ("/v1/completions", json!({ "model": "teacher", "prompt": text })),
        ("/v1/completions", json!({ "model": "teacher", "prompt": [text] })),
        ("/generate", json!({ "text": text })),
        ("/tokenize", json!({ "prompt": text })),
    ] {
        let (status, said) = ask(path, body);
        assert!(status == 413 && said.contains("the texts have"), "{path}: {status} {said}");
    }
    // A larger body is not read.
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 413");
    assert_eq!(ask("/tokenize", json!({ "prompt": "abc" })).0, 200);
}

/// Clients that send half a request and wait: more than there may be connections.
#[test]
fn half_sent_requests_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(job(&saved(&random_model(&tiny(), 1), folder.path(), "one")));
    let place = server.url.strip_prefix("http://").unwrap();
    let half = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(place).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut held = Vec::new();
    for number in 0..700 {
        held.push(match number % 2 {
            0 => half(b"POST /tokenize HTTP/1.1\r\nHost: loc"),
            _ => half(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"),
        });
    }
    let tokenize = json!({ "prompt": "abc" }).to_string();
    assert_eq!(post(&server.url, "/tokenize", None, &tokenize).0, 200);
    // The first ones were closed, the last ones are still open.
    let mut first = &held[0];
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(first.read(&mut [0; 1]), Ok(0) | Err(_)));
    let mut last = &held[699];
    last.write_all(&[b' '; 99]).unwrap();
    let mut said = [0; 12];
    last.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 400");
}

/// A web page may send requests to a server of this machine, also by a name of its own that resolves to it.
#[test]
fn web_pages_are_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(job(&saved(&random_model(&tiny(), 1), folder.path(), "one")));
    let place = server.url.strip_prefix("http://").unwrap();
    let status = |headers: &str| {
        let mut stream = TcpStream::connect(place).unwrap();
        let head = format!("GET /v1/models HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    for (headers, expected) in [
        (format!("Host: {place}"), 200),
        ("Host: localhost:1234".to_owned(), 200),
        ("Host: LOCALHOST".to_owned(), 200),
        ("Host: [::1]:8000".to_owned(), 200),
        ("Host: attacker.example".to_owned(), 403),
        ("Host: attacker.example:8000".to_owned(), 403),
        ("Host: localhost.attacker.example".to_owned(), 403),
        (format!("Host: {place}\r\nOrigin: http://attacker.example"), 403),
        (format!("Host: {place}\r\nOrigin: null"), 403),
    ] {
        assert_eq!(status(&headers), expected, "{headers}");
    }
}

/// Scores under pushes of weights: each names the weights that it was computed with.
#[test]
fn a_score_names_the_weights_that_it_was_computed_with() {
    let folder = tempfile::tempdir().unwrap();
    let models = [1, 2].map(|seed| random_model(&tiny(), seed));
    let names = ["one", "two"];
    let folders = [0, 1].map(|place| saved(&models[place], folder.path(), names[place]));
    let allowed = folders[0].parent().unwrap().to_str().unwrap().to_owned();
    let server = start(ServeJob { updates: Some(allowed), ..job(&folders[0]) });
    let scores = || {
        let body = json!({
            "input_ids": [97, 98, 99], "sampling_params": { "max_new_tokens": 0 }, "return_logprob": true,
            "logprob_start_len": 0,
        });
        let (status, said) = post(&server.url, "/generate", None, &body.to_string());
        assert_eq!(status, 200, "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        let meta = &said["meta_info"];
        (meta["weight_version"].as_str().unwrap().to_owned(), meta["input_token_logprobs"].to_string())
    };
    let push = |place: usize, rename: bool| {
        let path = folders[place].to_str().unwrap();
        if rename {
            let none = json!({ "new_version": "none" }).to_string();
            assert_eq!(post(&server.url, "/update_weight_version", None, &none).0, 200);
            let reload = json!({ "method": "reload_weights", "kwargs": { "weights_path": path } });
            assert_eq!(post(&server.url, "/collective_rpc", None, &reload.to_string()).0, 200);
            let name = json!({ "new_version": names[place] }).to_string();
            assert_eq!(post(&server.url, "/update_weight_version", None, &name).0, 200);
        } else {
            let update = json!({ "model_path": path, "weight_version": names[place] }).to_string();
            assert_eq!(post(&server.url, "/update_weights_from_disk", None, &update).0, 200);
        }
    };
    let known = [0, 1].map(|place| {
        push(place, false);
        scores()
    });
    assert_ne!(known[0].1, known[1].1);
    let done = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        answers.push(scores());
                    }
                    answers
                })
            })
            .collect();
        for number in 0..20 {
            push(number % 2, number % 4 < 2);
        }
        done.store(true, Ordering::Relaxed);
        asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.len() > 50, "{} answers", answers.len());
    for (version, numbers) in answers.iter().filter(|(version, _)| names.contains(&version.as_str())) {
        let place = names.iter().position(|name| name == version).unwrap();
        assert_eq!(*numbers, known[place].1, "named {version}");
    }
}
