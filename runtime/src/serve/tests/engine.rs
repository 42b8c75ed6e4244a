//! Tests against behaviour of vLLM 0.32.0 that `mopd serve` does not have.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mopd_plan::{Answers, Engine, Sampling};
use serde_json::{Value, json};

use super::faults::message;
use super::probe::{LIMIT, probed, student};
use super::sampling::{asked, key, prompts, pushed, speaking};
use super::{control, job, saved, served, start};
use crate::model::tests::{random_model, tiny};
use crate::remote::{CancelToken, ScoredSequence, Server};
use crate::rollout::RolloutRequest;
use crate::tokenizer::Token;

/// A server that replies with the status and body that `answer` returns for a request's path and body.
fn answering(answer: impl Fn(&str, &Value) -> (u16, Value) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let one = move |client: &mut TcpStream| -> std::io::Result<()> {
        let (head, body) = message(client)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (status, said) = answer(path, &serde_json::from_slice(&body).unwrap_or_default());
        let said = said.to_string();
        let length = said.len();
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        client.write_all(&[head.as_bytes(), said.as_bytes()].concat())
    };
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = one(&mut client);
        }
    });
    url
}

/// With `--logprobs-mode raw_logits`: the field `logprob` holds a logit.
fn logits(path: &str, body: &Value) -> (u16, Value) {
    if path == "/v1/models" {
        return (200, models());
    }
    let ids = body["prompt"].as_array().cloned().unwrap_or_default();
    let of_token = |id: &Value| {
        let mut entries = json!({ id.to_string(): { "logprob": -0.8912459015846252, "rank": 209 } });
        if body["prompt_logprobs"] != json!(0) {
            entries["159"] = json!({ "logprob": 2.834122896194458, "rank": 1 });
        }
        entries
    };
    let positions: Vec<Value> =
        std::iter::once(Value::Null).chain(ids.iter().skip(1).map(of_token)).collect();
    let choice = json!({ "index": 0, "prompt_logprobs": positions, "prompt_token_ids": ids });
    (200, json!({ "model": "teacher", "choices": [choice] }))
}

fn models() -> Value {
    json!({ "data": [{ "id": "teacher", "root": "one", "max_model_len": 128 }] })
}

#[test]
fn engine_that_returns_logits_is_refused_before_the_first_stage() {
    let url = answering(logits);
    let (control, _events) = control();
    let tokenizer = &random_model(&tiny(), 1).tokenizer;
    for answers in [Answers::Sampled, Answers::TopK(1)] {
        let served = served(Engine::Vllm, &url, answers);
        let said = Server::open(&served, &control).unwrap().try_out(tokenizer, &control).unwrap_err();
        assert!(said.to_string().contains("2.834122896194458 is not a log-probability"), "{said}");
        let found = probed(&served, student(tokenizer), LIMIT);
        assert!(!found.is_usable(), "{found:?}");
    }
}

/// vLLM writes a token after a sequence that it scores, which must fit into its context. SGLang keeps seven
/// free.
#[test]
fn a_sequence_that_fills_the_context_is_not_sent_to_an_engine() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let (control, _events) = control();
    let score = |engine: Engine, length: usize| {
        let completion = (1..length).map(|place| (97 + place % 26) as Token).collect();
        let full = vec![ScoredSequence { prompt: vec![97], completion, scored: None }];
        let client = Server::open(&served(engine, &server.url, Answers::Sampled), &control).unwrap();
        client.score(&[full], weights.tokenizer.vocabulary(), CancelToken::new(&control)).map(drop)
    };
    let context = weights.config.context;
    for (engine, reserve, why) in [
        (Engine::Vllm, 1, "vLLM needs one token more than it scores"),
        (Engine::Sglang, 7, "SGLang needs seven tokens more than it reads"),
    ] {
        score(engine, context - reserve).unwrap();
        let said = score(engine, context - reserve + 1).unwrap_err().to_string();
        let parts = ["can't be scored by the teacher `teacher`", why];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// If vLLM does not see the folder, it reports its own internal error, which retries don't fix.
#[test]
fn weights_that_vllm_can_not_read_end_the_run() {
    let named = Arc::new(Mutex::new(vec!["default".to_owned()]));
    let names = named.clone();
    let url = answering(move |path, body| match path {
        "/v1/models" => (200, models()),
        "/weight_info" => (200, json!({ "weight_version": names.lock().unwrap().last() })),
        "/update_weight_version" => {
            let name = body["new_version"].as_str().unwrap().to_owned();
            names.lock().unwrap().push(name.clone());
            (200, json!({ "success": true, "new_version": name }))
        }
        "/collective_rpc" => {
            assert_eq!(body["method"], "reload_weights");
            let said = "Call to collective_rpc method failed: Worker failed with error 'Repo id must be in \
                        the form 'repo_name' or 'namespace/repo_name': '<path>'.";
            (500, json!({ "error": { "message": said, "type": "InternalServerError", "code": 500 } }))
        }
        _ => (404, json!({ "detail": "Not Found" })),
    });
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let (control, _events) = control();
    let client = speaking(Engine::Vllm, &url, folder.path(), LIMIT);
    let (prompts, sampling) = (prompts(), Sampling::new(1, 1.0, 4));
    let (rollout, tokenizer) =
        (RolloutRequest::new(&asked(&prompts), &sampling, key(0)), weights.tokenizer.clone());
    let weights = pushed(&weights, &folder.path().join("models"), 1);
    let said = client.sample(|| Ok(weights), &rollout, &tokenizer, 1e-3, &control).unwrap_err();
    assert!(said.to_string().contains("status 500"), "{said}");
    assert!(said.to_string().contains("Repo id must be in the form"), "{said}");
    // The server's weights no longer have the name of the old ones.
    assert_eq!(*named.lock().unwrap(), ["default", "none"]);
}
