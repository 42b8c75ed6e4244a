//! A proxy between a run and its teacher that damages replies in many ways.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mopd_plan::events::{Event, ServeJob};
use mopd_plan::{Answers, Engine, Sampling};
use serde_json::{Value, json};

use super::{control, job, readings, sampling, saved, served, start};
use crate::machine::transfer::to_vec;
use crate::model::tests::{random_model, tiny};
use crate::remote::{CancelToken, ServedScores, Server};
use crate::rollout::RolloutRequest;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    TimeOut,
    Slow,
    TooMany,
    Unavailable,
    Internal,
    TruncatedJson,
    CutOff,
    Closed,
    TooFewPositions,
    TooManyPositions,
    OtherIds,
    NullInTheWrongPlace,
    NotANumber,
    Positive,
    MoreEntries,
    OtherModel,
}

const ALL: [Fault; 16] = [
    Fault::TimeOut,
    Fault::Slow,
    Fault::TooMany,
    Fault::Unavailable,
    Fault::Internal,
    Fault::TruncatedJson,
    Fault::CutOff,
    Fault::Closed,
    Fault::TooFewPositions,
    Fault::TooManyPositions,
    Fault::OtherIds,
    Fault::NullInTheWrongPlace,
    Fault::NotANumber,
    Fault::Positive,
    Fault::MoreEntries,
    Fault::OtherModel,
];

/// Time limit for a reply, in these tests.
pub(super) const LIMIT: Duration = Duration::from_millis(1500);
/// How often each request is damaged.
const DAMAGED: usize = 3;

struct Proxy {
    url: String,
    done: Arc<AtomicUsize>,
    kinds: Arc<Mutex<HashMap<Fault, usize>>>,
}

impl Proxy {
    /// Each scoring request is damaged [`DAMAGED`] times before it goes through.
    fn before(url: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let (done, kinds) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(HashMap::new())));
        let seen: Arc<Mutex<HashMap<Vec<u8>, usize>>> = Arc::default();
        let (counted, counted_kinds) = (done.clone(), kinds.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, seen) = (target.clone(), seen.clone());
                let (done, kinds) = (counted.clone(), counted_kinds.clone());
                std::thread::spawn(move || {
                    let fault = |request: &[u8]| {
                        let scoring = [
                            b"POST /v1/comp".as_slice(),
                            b"POST /generate",
                            b"POST /inference",
                            b"POST /mopd/hid",
                            b"POST /mopd/rol",
                        ];
                        scoring.iter().any(|path| request.starts_with(path)).then_some(())?;
                        let mut seen = seen.lock().unwrap();
                        let times = seen.entry(request.to_vec()).or_default();
                        *times += 1;
                        (*times <= DAMAGED).then_some(())?;
                        let fault = ALL[done.fetch_add(1, Ordering::Relaxed) % ALL.len()];
                        *kinds.lock().unwrap().entry(fault).or_default() += 1;
                        Some(fault)
                    };
                    let _ = pass(client, &target, fault);
                });
            }
        });
        Proxy { url: format!("http://{place}"), done, kinds }
    }
}

/// Reads an HTTP message: its head and its body.
pub(super) fn message(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("a head is text");
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    let length: usize = head.lines().find_map(length).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// Passes one request of a connection on, and closes the connection.
pub(super) fn pass(
    mut client: TcpStream,
    target: &str,
    fault: impl Fn(&[u8]) -> Option<Fault>,
) -> std::io::Result<()> {
    let (head, body) = message(&mut client)?;
    let line = head.lines().next().unwrap_or_default();
    let fault = fault(&[line.as_bytes(), &body].concat());
    let plain = |status: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy").into_bytes()
    };
    match fault {
        Some(Fault::Closed) => return client.shutdown(Shutdown::Both),
        Some(Fault::TooMany) => return client.write_all(&plain("429 Too Many Requests")),
        Some(Fault::Unavailable) => return client.write_all(&plain("503 Service Unavailable")),
        Some(Fault::Internal) => return client.write_all(&plain("500 Internal Server Error")),
        Some(Fault::TimeOut) => std::thread::sleep(LIMIT * 2),
        Some(Fault::Slow) => std::thread::sleep(LIMIT / 5),
        _ => {}
    }
    let mut server = TcpStream::connect(target)?;
    let others = head.lines().skip(1).filter(|line| !line.to_lowercase().starts_with("connection"));
    let others: String = others.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{line}\r\n{others}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    let (head, answer) = message(&mut server)?;
    let status = head.lines().next().unwrap_or_default();
    // A refusal has no numbers to damage.
    let fault = fault.filter(|fault| status.contains(" 200") || *fault == Fault::CutOff);
    let answer = fault.map_or(answer.clone(), |fault| damaged(answer, fault));
    let length = answer.len() + if fault == Some(Fault::CutOff) { 100 } else { 0 };
    client
        .write_all(format!("{status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").as_bytes())?;
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}

fn damaged(answer: Vec<u8>, fault: Fault) -> Vec<u8> {
    if matches!(fault, Fault::Slow | Fault::TimeOut | Fault::CutOff) {
        return answer;
    }
    let Ok(mut said) = serde_json::from_slice::<Value>(&answer) else {
        return damaged_matrix(answer, fault);
    };
    if fault == Fault::TruncatedJson {
        return answer[..answer.len() * 2 / 3].to_vec();
    }
    if said["choices"][0]["weight_versions"].is_array() {
        written_by_vllm(&mut said, fault);
    } else if said["choices"].is_array() {
        of_vllm(&mut said, fault);
    } else if said["completions"].is_array() {
        of_rollouts(&mut said, fault);
    } else if said["meta_info"]["input_token_logprobs"].is_array() {
        of_sglang(&mut said["meta_info"], fault);
    } else {
        of_written(&mut said["meta_info"], fault);
    }
    let text = said.to_string();
    // Some programs write NaN like this, which is not JSON.
    if fault == Fault::NotANumber { text.replace("\"nan\"", "NaN") } else { text }.into_bytes()
}

fn of_vllm(said: &mut Value, fault: Fault) {
    if fault == Fault::OtherModel {
        said["model"] = json!("another");
        return;
    }
    let choice = &mut said["choices"][0];
    let last = choice["prompt_logprobs"].as_array().unwrap().len() - 1;
    let id = choice["prompt_token_ids"][last].to_string();
    match fault {
        Fault::OtherIds => choice["prompt_token_ids"].as_array_mut().unwrap().rotate_left(1),
        Fault::TooFewPositions => drop(choice["prompt_logprobs"].as_array_mut().unwrap().pop()),
        Fault::TooManyPositions => choice["prompt_logprobs"].as_array_mut().unwrap().push(Value::Null),
        Fault::NullInTheWrongPlace => choice["prompt_logprobs"].as_array_mut().unwrap().swap(0, last),
        Fault::NotANumber => choice["prompt_logprobs"][last][&id]["logprob"] = json!("nan"),
        Fault::Positive => choice["prompt_logprobs"][last][&id]["logprob"] = json!(0.5),
        Fault::MoreEntries => {
            let entries = choice["prompt_logprobs"][last].as_object_mut().unwrap();
            (0..3)
                .for_each(|id| drop(entries.insert(id.to_string(), json!({ "logprob": -30.0, "rank": 90 }))));
        }
        _ => unreachable!("{fault:?}"),
    }
}

/// Damages a completion by vLLM.
fn written_by_vllm(said: &mut Value, fault: Fault) {
    if fault == Fault::OtherIds {
        said["prompt_token_ids"].as_array_mut().unwrap().push(json!(97));
        return;
    }
    let choice = &mut said["choices"][0];
    if fault == Fault::OtherModel {
        choice["weight_versions"][0]["version"] = json!("others");
        return;
    }
    let list = choice["logprobs"]["content"].as_array_mut().unwrap();
    match fault {
        Fault::TooFewPositions => drop(list.pop()),
        Fault::TooManyPositions | Fault::MoreEntries => list.push(list[0].clone()),
        Fault::NullInTheWrongPlace => list[0]["logprob"] = Value::Null,
        Fault::NotANumber => list[0]["logprob"] = json!("nan"),
        Fault::Positive => list[0]["logprob"] = json!(0.5),
        _ => unreachable!("{fault:?}"),
    }
}

fn of_sglang(meta: &mut Value, fault: Fault) {
    let last = meta["input_token_logprobs"].as_array().unwrap().len() - 1;
    let own = meta["input_token_logprobs"].as_array_mut().unwrap();
    match fault {
        // SGLang's replies name no model; other weights are recognised by their version.
        Fault::OtherIds | Fault::OtherModel => own[last][1] = json!(own[last][1].as_i64().unwrap() + 1),
        Fault::TooFewPositions => drop(own.pop()),
        Fault::TooManyPositions => own.push(json!([-1.0, 97, null])),
        Fault::NullInTheWrongPlace => own[last][0] = Value::Null,
        Fault::NotANumber => own[last][0] = json!("nan"),
        Fault::Positive => own[last][0] = json!(0.5),
        Fault::MoreEntries => {
            let top = meta["input_top_logprobs"][last].as_array_mut().unwrap();
            (0..3).for_each(|id| top.push(json!([-30.0, id, null])));
        }
        _ => unreachable!("{fault:?}"),
    }
}

/// Damages a completion by SGLang.
fn of_written(meta: &mut Value, fault: Fault) {
    let list = meta["output_token_logprobs"].as_array_mut().unwrap();
    match fault {
        Fault::OtherIds => meta["prompt_tokens"] = json!(99),
        Fault::OtherModel => meta["weight_version"] = json!("others"),
        Fault::TooFewPositions => drop(list.pop()),
        Fault::TooManyPositions | Fault::MoreEntries => list.push(json!([-1.0, 97, null])),
        Fault::NullInTheWrongPlace => list[0][0] = Value::Null,
        Fault::NotANumber => list[0][0] = json!("nan"),
        Fault::Positive => list[0][0] = json!(0.5),
        _ => unreachable!("{fault:?}"),
    }
}

fn of_rollouts(said: &mut Value, fault: Fault) {
    match fault {
        Fault::OtherIds => said["asked"] = json!("another"),
        Fault::OtherModel => said["weights"] = json!("others"),
        Fault::TooFewPositions => drop(said["completions"].as_array_mut().unwrap().pop()),
        Fault::TooManyPositions => {
            let list = said["completions"].as_array_mut().unwrap();
            list.push(list[0].clone());
        }
        Fault::NullInTheWrongPlace => said["completions"][0]["logps"][0] = Value::Null,
        Fault::NotANumber => said["completions"][0]["logps"][0] = json!("nan"),
        Fault::Positive => said["completions"][0]["logps"][0] = json!(0.5),
        Fault::MoreEntries => said["completions"][0]["tokens"].as_array_mut().unwrap().push(json!(97)),
        _ => unreachable!("{fault:?}"),
    }
}

/// A matrix of safetensors: 8 bytes, a header of JSON, numbers.
fn damaged_matrix(mut answer: Vec<u8>, fault: Fault) -> Vec<u8> {
    let header = 8 + u64::from_le_bytes(answer[..8].try_into().unwrap()) as usize;
    match fault {
        Fault::NotANumber | Fault::Positive => {
            let end = answer.len();
            answer[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Fault::OtherIds | Fault::OtherModel => {
            // Changes the hash of the request.
            let text = String::from_utf8(answer[8..header].to_vec()).unwrap();
            let place = text.find("\"asked\":\"").unwrap() + 8 + "\"asked\":\"".len();
            answer[place] = if answer[place] == b'0' { b'1' } else { b'0' };
        }
        Fault::TooManyPositions | Fault::MoreEntries => answer.extend([0; 64]),
        _ => answer.truncate(header + (answer.len() - header) / 2),
    }
    answer
}

fn numbers(scores: &ServedScores) -> Vec<Vec<f32>> {
    match scores {
        ServedScores::Hidden { batches, .. } => batches.iter().map(to_vec).collect(),
        ServedScores::Listed(listed) => {
            let of_token = |entries: &Vec<(i64, f32)>| {
                let mut entries = entries.clone();
                entries[1..].sort_by_key(|(id, _)| *id);
                entries.into_iter().flat_map(|(id, logp)| [id as f32, logp])
            };
            listed.iter().map(|of| of.tokens.iter().flat_map(of_token).collect()).collect()
        }
    }
}

#[test]
fn no_answer_that_is_damaged_becomes_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_model(&tiny(), 1);
    let server = start(job(&saved(&weights, folder.path(), "one")));
    let proxy = Proxy::before(&server.url);
    let entries = weights.tokenizer.vocabulary();
    let all = readings(26);
    for (engine, answers) in [
        (Engine::Vllm, Answers::TopK(3)),
        (Engine::Sglang, Answers::TopK(3)),
        (Engine::Mopd, Answers::Distribution),
    ] {
        let (control, events) = control();
        let batches: Vec<_> = all.iter().map(|reading| vec![reading.clone()]).collect();
        let straight = Server::open(&served(engine, &server.url, answers), &control).unwrap();
        let known = numbers(&straight.score(&batches, entries, CancelToken::new(&control)).unwrap());
        let through = served(engine, &proxy.url, answers);
        let through = Server::with_time_limit(&through, LIMIT, &control).unwrap();
        let found = through.score(&batches, entries, CancelToken::new(&control));
        let found = numbers(&found.unwrap_or_else(|error| panic!("{engine:?}: {error}")));
        assert_eq!(found, known, "{engine:?}");
        let said: Vec<String> = events
            .try_iter()
            .filter_map(|event| if let Event::Warning { message } = event { Some(message) } else { None })
            .collect();
        assert!(said.iter().any(|line| line.contains("the run waits for it")), "{said:?}");
        assert!(said.iter().any(|line| line.contains("the run goes on")), "{said:?}");
    }
    let (done, kinds) = (proxy.done.load(Ordering::Relaxed), proxy.kinds.lock().unwrap());
    assert!(done >= 200, "{done} faults");
    assert!(ALL.iter().all(|fault| kinds.get(fault).is_some_and(|times| *times >= 10)), "{kinds:?}");
}

/// Rollouts are damaged, too; the completions that are accepted are those that the run would have sampled.
#[test]
fn no_rollout_that_is_damaged_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = saved(&random_model(&tiny(), 9), folder.path(), "first");
    let models = first.parent().unwrap().to_owned();
    let updates = Some(models.to_str().unwrap().to_owned());
    let server = start(ServeJob { updates, ..job(&first) });
    let proxy = Proxy::before(&server.url);
    let client = sampling::client(&proxy.url, &models, LIMIT);
    let (control, _events) = control();
    let (prompts, how) = (sampling::prompts(), Sampling::new(2, 1.0, 6));
    // Each step: the rollouts and the canary, damaged several times.
    for step in 0..8 {
        let weights = random_model(&tiny(), u64::from(step));
        let (asked, key) = (sampling::asked(&prompts), sampling::key(u64::from(step)));
        let (pushed, tokenizer) = (sampling::pushed(&weights, &models, step), &weights.tokenizer);
        let rollout = RolloutRequest::new(&asked, &how, key);
        let found = client.sample(|| Ok(pushed), &rollout, tokenizer, 1e-3, &control);
        assert_eq!(found.unwrap(), sampling::at_hand(&weights, &asked, &how, key), "step {step}");
    }
    let kinds = proxy.kinds.lock().unwrap();
    assert!(ALL.iter().all(|fault| kinds.contains_key(fault)), "{kinds:?}");
    drop(kinds);
    // In the other dialects, with a request for each completion.
    for (engine, step) in [(Engine::Sglang, 8), (Engine::Vllm, 9)] {
        let weights = random_model(&tiny(), u64::from(step));
        let (asked, pushed) = (sampling::asked(&prompts), sampling::pushed(&weights, &models, step));
        let [straight, through] = [&server.url, &proxy.url].map(|url| {
            let client = sampling::speaking(engine, url, &models, LIMIT);
            let rollout = RolloutRequest::new(&asked, &how, sampling::key(8));
            client.sample(|| Ok(pushed.clone()), &rollout, &weights.tokenizer, 1e-3, &control).unwrap()
        });
        assert_eq!(straight, through, "{engine:?}");
    }
}
